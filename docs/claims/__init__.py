"""Every measured number of README and docs, written from the tables under reports/reference.

``python docs/generate.py`` writes them between their marks; a test compares. A sentence says what the intervals of its
table say, so that no claim outlives its numbers.
"""

from collections.abc import Callable

from analysis.study.claims.lasting import lasting_words
from analysis.study.consistency_section import consistency_words
from analysis.trivial import MARK_WORDS
from claims.ablations import ABLATIONS, SMALL_ABLATIONS, ablation_block, stopping_words
from claims.geometry import geometry_words, untold_words
from claims.probes import causal_words, probe_words
from claims.studies import (
    NOISE,
    SHORT,
    control_words,
    graph_words,
    long_words,
    mixing_words,
    noise_words,
    rooms_words,
    short_words,
    study_block,
    study_table,
    study_words,
)
from claims.tables import LARGE, LONG, PAPER, SUPERVISED, read_kept_study
from claims.weights import decoded_words, heads_words, pair_short, pair_words, patches_words, speed_block
from probe.records.names import PLAIN

BLOCKS: dict[str, Callable[[], str]] = {
    "probe": probe_words,
    "paper-short": lambda: f"{study_block(LARGE, SHORT, short=True)}{short_words(LARGE)} {long_words(LONG)}",
    "paper-large": lambda: (
        f"{study_block(LARGE, SHORT)}{study_words(LARGE)} {control_words(LARGE)} {mixing_words(LARGE)}"
    ),
    "paper-long": lambda: (
        f"{study_block(LONG, SHORT)}{study_words(LONG)} {long_words(LONG)}\n\n"
        f"{lasting_words(read_kept_study(LONG))}\n\n{rooms_words(LONG)}"
    ),
    "ablations": lambda: ablation_block(ABLATIONS),
    "ablations-small": lambda: ablation_block(SMALL_ABLATIONS),
    "pair": pair_words,
    "heads": heads_words,
    "patches": patches_words,
    "decoded": decoded_words,
    "pair-short": pair_short,
    "paper": lambda: study_block(PAPER, tuple(SUPERVISED)).strip(),
    "paper-words": lambda: f"{study_words(PAPER)} {mixing_words(PAPER)}",
    "consistency": lambda: f"{consistency_words(read_kept_study(PAPER))} {untold_words()}",
    "lasting": lambda: f"{stopping_words()}\n\n{lasting_words(read_kept_study(PAPER))}",
    "noise": lambda: f"{study_table('noise', (PLAIN, 'cameo', *NOISE, 'shuffled'))}\n\n{MARK_WORDS}. {noise_words()}",
    "noise-words": noise_words,
    "kitchen": lambda: study_words("kitchen"),
    "causal": causal_words,
    "graph": graph_words,
    "geometry": geometry_words,
    "speed": speed_block,
}
"""What stands between ``<!-- claims: NAME -->`` and ``<!-- end -->`` in README and docs."""
