"""The picture of an evaluation: the worst views first, then the median ones, each named."""

import numpy as np
import pandas as pd
import pytest

from analysis.evaluation.pictures import draw_cases


def test_the_picture_names_its_cases():
    worst = pd.DataFrame(
        [(f"s{k}", 2, 10.0 * k, 1, 5.0 + k, 4.0) for k in range(9)],
        columns=["scene", "view", "rotation_deg", "n_ref", "psnr", "copy_psnr"],
    )
    methods = ("copy", "truth", "model")
    shades = {  # of view 1, then of view 2
        f"s{k}": {f"1/{name}": np.broadcast_to(np.array([1.0, (k + m) / 20])[:, None, None, None], (2, 3, 4, 4))
                  for m, name in enumerate(methods)}
        for k in range(9)
    }  # fmt: skip
    axes = draw_cases(worst, shades).axes
    titles = [axis.get_title() for axis in axes[:6]]
    assert [title.partition("\n")[0] for title in titles] == [
        "worst: s0", "worst: s1", "worst: s2", "median: s3", "median: s4", "median: s5"
    ]  # fmt: skip
    assert titles[1].endswith("view 2, 10° from view 0")
    assert axes[13].get_xlabel() == "1 reference\nPSNR 6.0 dB, copy 4.0"
    assert [axis.get_ylabel() for axis in axes[::6]] == ["reference", "truth", "sample"]
    assert [axis.images[0].get_array()[0, 0, 0] for axis in axes[2::6]] == pytest.approx([0.1, 0.15, 0.2])
    assert len(draw_cases(worst[:1], shades).axes) == 3
