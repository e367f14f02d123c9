"""The tables of "Identity Mappings in Deep Residual Networks" (He et al. 2016), from existing trainings."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from gradlab.experiments.degradation import degradation, member
from gradlab.gallery.figure import Figure, NotAtHand, Options
from gradlab.gallery.runs import RUNS, complete_runs, known
from gradlab.results.degradation.published import PAPERS_EPOCHS, VARIANT_TEST_ERROR
from gradlab.results.degradation.result import DegradationResult
from gradlab.results.label import description
from gradlab.results.training.result import TrainingResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

PAPER = "He et al. 2016, Identity Mappings in Deep Residual Networks, arXiv:1603.05027"

PAPERS_DEPTH = 110
"""The number of layers of the nets in Tables 1 and 2."""

Cases = Mapping[str, str]
"""The cases of a table: the names of its rows by family."""

SHORTCUTS: Cases = {
    "resnet": "original",
    "plain": "no shortcut",
    "resnet-shortcut=0.5": "shortcut × 0.5",
    "resnet-shortcut=0.5-beta=0.5": "both × 0.5",
    "resnet-C": "1×1 convolution",
}
"""The cases of Table 1, without gates and dropout."""

UNITS: Cases = {
    "resnet": "original",
    "resnet-bn-after-add": "BN after addition",
    "resnet-relu-before-add": "ReLU before addition",
    "resnet-relu-preact": "ReLU-only pre-activation",
    "resnet-preact": "full pre-activation",
}
"""Table 2."""

_AT_HAND = (
    "The runs are existing ones with the depth and length in the table, one recipe and one seed each; the paper gives "
    "medians of five nets of 110 layers, each trained for 64,000 iterations. The order of the errors can therefore be "
    "compared with the paper, but not the errors themselves: those of the paper, some of which are in the claim, are "
    "shown only next to runs of 110 layers and of that length.",
    "The paper explains differences by signals that fade over 54 blocks, which the nine blocks of a 20-layer net need "
    "not show, and a few epochs show how fast a net begins to learn rather than its final error. Another seed may "
    "change an error by more than the standard error: differences of about 1 % are not significant.",
    "Errors are those of the last epoch; the training error is measured on augmented images.",
    "The time above is that of reading the runs, not of training.",
)


def runs_of(cases: Cases) -> Options:
    """The cases with complete runs of one recipe, at the greatest depth with two or more of them.

    Args:
        cases: The cases of a table; the others are compared with the first.
    """
    found = complete_runs()
    first, *_, last = cases
    for depth in sorted({known(run)["depth"] for run in found.values()}, reverse=True):
        original = found.get(member(first, depth))
        here = tuple(family for family in cases if original and _alike(found.get(member(family, depth)), original))
        if len(here) > 1:
            return {"depths": (depth,), "families": here, "runs": str(RUNS), "train_missing": False}
    raise NotAtHand(
        f"no finished runs of the original and of another case, of one depth and recipe, are in {RUNS}/ "
        f"(gradlab degradation --depths 20 --families {first},{last} trains two)"
    )


def _alike(run: TrainingResult | None, original: TrainingResult) -> bool:
    """Whether a run exists and has the recipe and data of the original."""
    if run is None:
        return False
    one, other = (net.facts(net.networks[0]) for net in (run, original))
    return all(one[key] == other[key] for key in ("recipe", "data"))


def errors(result: DegradationResult, cases: Cases) -> pd.DataFrame:
    """One row per case, in the order of the table: case, network and errors in percent.

    The paper's error is given for runs that also have 110 layers and were trained for as long.
    """
    summary = result.summary().drop(columns="paper (%)", errors="ignore").set_index("network")
    rows = []
    for family, case in cases.items():
        paper = VARIANT_TEST_ERROR.get(family)
        for network in summary.index:
            net = description(result.facts(network))
            if net.get("series") != family:
                continue
            row = {"case": case, "network": network, **summary.loc[network]}
            compares = paper and net.get("depth") == PAPERS_DEPTH and row["epochs"] >= PAPERS_EPOCHS
            rows.append(row | ({"paper (%)": paper} if compares else {}))
    return pd.DataFrame(rows)


def _draw(result: DegradationResult, cases: Cases) -> Drawing:
    from matplotlib.figure import Figure as Drawing

    from gradlab.results.degradation.figure import last_errors_figure

    frame = errors(result, cases)
    figure = last_errors_figure(frame.assign(network=frame["case"]), Drawing())
    depths = dict.fromkeys(str(description(result.facts(name))["depth"]) for name in frame["network"])
    figure.axes[0].set_title(f"{', '.join(depths)} layers")
    return figure


FIGURES = (
    Figure(
        name="he2016-table1",
        paper=PAPER,
        figure="Table 1",
        title="Errors with other shortcuts than the identity",
        claim="On ResNet-110 every replacement of the identity shortcut increases the error: to 12.22 % with 1×1 "
        "convolutions and 12.35 % with shortcut and branch scaled by 0.5, from 6.61 %; with only the shortcut scaled "
        "by 0.5, or without shortcuts, the error stays above 20 %.",
        command=("degradation", "--no-train"),
        experiment=degradation,
        options=partial(runs_of, SHORTCUTS),
        toy={},
        draw=partial(_draw, cases=SHORTCUTS),
        table=partial(errors, cases=SHORTCUTS),
        differs=(
            *_AT_HAND,
            "In names, shortcut scales the shortcut and beta scales the branch; beta alone, as in Balduzzi et al. "
            "2017, is not a case of this table.",
            "The gated shortcuts and dropout on the shortcut are left out.",
        ),
    ),
    Figure(
        name="he2016-table2",
        paper=PAPER,
        figure="Table 2",
        title="Errors with normalization and ReLU elsewhere in the block",
        claim="On ResNet-110 full pre-activation has the lowest test error, 6.37 %; ReLU-only pre-activation, 6.71 %, "
        "is much like the original, 6.61 %; ReLU before the addition, 7.84 %, and BN after it, 8.17 %, are worse.",
        command=("degradation", "--no-train"),
        experiment=degradation,
        options=partial(runs_of, UNITS),
        toy={},
        draw=partial(_draw, cases=UNITS),
        table=partial(errors, cases=UNITS),
        differs=(*_AT_HAND, "ResNet-164, the other column of the table, has bottlenecks and is left out."),
    ),
)
