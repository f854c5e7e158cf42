"""Other matchers, scored by the same code as attention: one file each, one visible dict.

A matcher looks at a scene once and then returns its scores on any token grid. Most describe each token, rows before
columns; the match is the nearest descriptor in the key view. The epipolar oracle draws its match, and is scored by the
probability of being right.
"""

from typing import TYPE_CHECKING

from probe.baselines.names import BASELINES, NULLS, baseline_names
from probe.registry import lazy_names

if TYPE_CHECKING:
    from probe.baselines.describing import Matcher, image_matcher, without_weights
    from probe.baselines.opening import open_matchers

__all__ = ["BASELINES", "NULLS", "Matcher", "baseline_names", "image_matcher", "open_matchers", "without_weights"]
__getattr__ = lazy_names(__name__, __all__, "describing", "opening")
