"""The claims of a study's page: a table of all of them, then a section each."""

from collections.abc import Callable
from dataclasses import dataclass
from textwrap import fill

from analysis.blocks import Section, Table
from analysis.study.claims import lasting, training
from analysis.study.claims.causes import causes_claim
from analysis.study.claims.claim import ABSENT, AGAINST, NOT_SHOWN, PART, SHOWN, Claim
from analysis.study.claims.emergence import emergence_claim
from analysis.study.claims.fragility import fragility_claim
from analysis.study.claims.layers import profile_claim
from analysis.study.claims.parts import Parts
from analysis.study.claims.quality import quality_claim
from analysis.study.claims.samples import samples_claim
from analysis.study.run import StudyRun
from analysis.words import NBSP


@dataclass(frozen=True, kw_only=True)
class Published:
    """A claim before it is looked at.

    Attributes:
        says: In a sentence.
        find: Returns what was found of it; None where the study lacks what it needs.
        needs: What that is.
    """

    says: str
    find: Callable[[StudyRun, Parts], Claim | None]
    needs: str


CLAIMS = (
    Published(says="At equal steps, supervised training draws views closer to the truth", find=samples_claim,
              needs="samples.json"),
    Published(says="Correspondence above a uniform guess emerges while training on images alone, and quality "
              "with it", find=emergence_claim,
              needs="plain runs that probe (--probe-every)"),
    Published(says="Some layers find correspondence, more so with supervision", find=profile_claim,
              needs="probes/plain"),
    Published(says="Plain's correspondence breaks at wide rotations, and supervision holds it there",
              find=fragility_claim, needs="probes/plain, and its score table"),
    Published(says="These layers matter: without them the prediction gets worse", find=causes_claim,
              needs="probes with --interventions"),
    Published(says="Plain's last value in half the steps, by every measure", find=training.soon_claim,
              needs="plain and cameo"),
    Published(says="The selected layer is the one to supervise", find=training.which_layer_claim,
              needs="cameo and variants of another layer"),
    Published(says="Another mixing, truth, weight or an early stop is ahead of the paper's method",
              find=training.choices_claim, needs="cameo and a variant of it"),
    Published(says="The paper's method is ahead of competing objectives", find=training.rivals_claim,
              needs="cameo and a rival"),
    Published(says="What helps is the truth: false truth falls behind it",
              find=training.controls_claim, needs="a control"),
    Published(says="From a third or half of the steps on, supervision's lead over plain falls",
              find=lasting.lasting_claim,
              needs="plain, a supervised variant, and an evaluation after the ramp in the first half"),
    Published(says="Supervised views are better at every rotation", find=quality_claim, needs="evaluations"),
    Published(says="Nothing ends worse with supervision", find=training.worst_claim, needs="plain and cameo"),
    Published(says="Supervision makes a step no longer", find=training.cost_claim, needs="metrics.jsonl of the runs"),
)  # fmt: skip
"""In the order of the page."""
TEXT = 46
"""Characters in a line of the table."""


def claim_sections(run: StudyRun) -> list[Section]:
    """Return the table of all claims and a section for each that could be looked at; nothing of a study without parts.

    Args:
        run: The study.
    """
    if run.parts is None:
        return []
    found = [(published, published.find(run, run.parts)) for published in CLAIMS]
    return [_overview(found), *(claim.section for _, claim in found if claim is not None)]


def _overview(found: list[tuple[Published, Claim | None]]) -> Section:
    rows = [_row(published, claim) for published, claim in found]
    verdicts = [row[1] for row in rows]
    counts = ", ".join(f"{verdicts.count(word)} {word}" for word in (SHOWN, PART, NOT_SHOWN, AGAINST, ABSENT)
                       if word in verdicts)  # fmt: skip
    table = Table(
        caption=f"Each verdict follows the interval of the figure that it links to. {SHOWN}: all of the claim is "
        f"outside chance, on its side, with 95{NBSP}%; {PART}: some of it is; {NOT_SHOWN}: the interval holds both; "
        f"{AGAINST}: it is on the other side. {len(rows)} verdicts are read, each by intervals of its own figure.",
        columns=("claim", "verdict", "what decides, with its interval"),
        rows=tuple(rows),
        marked=tuple(n for n, verdict in enumerate(verdicts) if verdict == SHOWN),
        texts=3,
        wide=True,
        links=tuple(claim.section.name if claim else "" for _, claim in found),
    )
    return Section(name="claims", title="Claims", claim=f"Of {len(rows)} claims: {counts}.", tables={"claims": table})


def _row(published: Published, claim: Claim | None) -> tuple[str, str, str]:
    number = f"needs {published.needs}" if claim is None else claim.number
    return fill(published.says, TEXT), ABSENT if claim is None else claim.verdict, fill(number, TEXT)
