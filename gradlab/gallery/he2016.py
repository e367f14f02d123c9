"""Tables 1 and 2 and Fig. 6 of "Identity Mappings in Deep Residual Networks" (He et al. 2016), from existing runs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from gradlab.experiments.degradation import degradation
from gradlab.gallery.cases import Cases, networks_of, runs_of, runs_of_pairs
from gradlab.gallery.figure import Figure
from gradlab.results.degradation.published import BOTTLENECK_TEST_ERROR, FAIL, FAILED_VARIANTS, VARIANT_TEST_ERROR
from gradlab.results.degradation.result import DegradationResult
from gradlab.results.label import description

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

PAPER = "He et al. 2016, Identity Mappings in Deep Residual Networks, arXiv:1603.05027"

PAPERS_DEPTHS = (110, 164)
"""The numbers of layers of the nets in Table 2, the second with bottlenecks; those of Table 1 have the first."""

SHORTCUTS: Cases = {
    "resnet": "original",
    "plain": "no shortcut",
    "resnet-shortcut=0.5": "shortcut × 0.5",
    "resnet-shortcut=0.5-beta=0.5": "shortcut and branch × 0.5",
    "resnet-exclusive-gate=0": "exclusive gating, bias 0",
    "resnet-exclusive-gate=-6": "exclusive gating, bias −6",
    "resnet-exclusive-gate=-7": "exclusive gating, bias −7",
    "resnet-shortcut-gate=0": "shortcut-only gating, bias 0",
    "resnet-shortcut-gate=-6": "shortcut-only gating, bias −6",
    "resnet-C": "1×1 convolution",
    "resnet-shortcut-dropout=0.5": "dropout 0.5",
}
"""Table 1; its exclusive gates of biases from 0 to −5 share one row."""

UNITS: Cases = {
    "resnet": "original",
    "resnet-bn-after-add": "BN after addition",
    "resnet-relu-before-add": "ReLU before addition",
    "resnet-relu-preact": "ReLU-only pre-activation",
    "resnet-preact": "full pre-activation",
}
"""Table 2."""

CURVES: Cases = {family: UNITS[family] for family in ("resnet", "resnet-bn-after-add", "resnet-preact")}
"""Fig. 6: the original beside each of the others."""

_OF_RUNS = "The time above is that of reading the runs, not of training."

_AT_HAND = (
    "The runs are existing ones with the depth, length and number of seeds in the table, of one recipe; the paper "
    "gives medians of five nets of 110 layers, each trained for 64,000 iterations. The order of the errors can "
    "therefore be compared with the paper, but not the errors themselves, which are shown on axes of their own.",
    "The paper explains differences by signals that fade over 54 blocks, which fewer blocks need not show, and a short "
    "training shows how fast a net begins to learn rather than its final error.",
    "Errors are those of the last epoch, medians over seeds if there are several. The training error is measured on "
    "augmented images while the weights change, and with dropout if a net has it. Test errors are compared, as in the "
    "paper; of one seed each, differences of about 1 % are not significant.",
    _OF_RUNS,
)


def errors(result: DegradationResult, cases: Cases, depths: tuple[int, ...] = PAPERS_DEPTHS) -> pd.DataFrame:
    """One row per case, in the order of the table: case, network and errors in percent, and those of the paper.

    Columns: case, network, seeds, epochs, `train error (%)` and `test error (%)` (medians over seeds), `lowest (%)` and
    `highest (%)` (of test errors), and for each depth of the paper `paper, N layers (%)`, an error or "fail", which is
    above 20 %. Cases without a run have no network and 0 seeds.

    Args:
        result: The runs, of one depth.
        cases: The cases of a table.
        depths: The numbers of layers in the table of the paper.
    """
    summary = result.summary().set_index("network")
    rows = []
    for family, names in networks_of(result, cases, _depth(result)).items():
        own = summary.loc[names]
        row: dict[str, Any] = {"case": cases[family], "network": names[0] if names else None, "seeds": len(names)}
        row |= {column: own[column].median() for column in ("epochs", "train error (%)", "test error (%)")}
        row |= {"lowest (%)": own["test error (%)"].min(), "highest (%)": own["test error (%)"].max()}
        rows.append(row | {f"paper, {depth} layers (%)": _published(family, depth) for depth in depths})
    return pd.DataFrame(rows)


def _published(family: str, depth: int) -> float | str:
    """The error in the paper, "fail", or NaN."""
    if depth != PAPERS_DEPTHS[0]:
        return BOTTLENECK_TEST_ERROR.get((family, depth), np.nan)
    return FAIL if family in FAILED_VARIANTS else VARIANT_TEST_ERROR.get(family, np.nan)


def _depth(result: DegradationResult) -> int:
    """The depth of all runs."""
    return int(description(result.facts(result.networks[0]))["depth"])


def _draw(result: DegradationResult, cases: Cases, depths: tuple[int, ...]) -> Drawing:
    from matplotlib.figure import Figure as Drawing

    from gradlab.results.degradation.cases_figure import cases_figure

    rows = errors(result, cases, depths)
    run = rows[rows["seeds"] > 0]
    seeds = " to ".join(dict.fromkeys(str(count) for count in (run["seeds"].min(), run["seeds"].max())))
    here = f"{_depth(result)} layers, {run['epochs'].max():.3g} epochs, {seeds} seed{'' if seeds == '1' else 's'}"
    return cases_figure(rows, here, Drawing())


def pairs(result: DegradationResult) -> dict[str, dict[str, str]]:
    """The panels of Fig. 6 by title: the networks by case, the original first, at the greatest depth with both."""
    first, *others = CURVES
    panels = {}
    for family in others:
        for depth in result.record["options"]["depths"]:
            found = networks_of(result, {name: CURVES[name] for name in (first, family)}, depth)
            if all(found.values()):
                nets = {CURVES[name]: networks[0] for name, networks in found.items()}
                panels[CURVES[family]] = (f"{CURVES[family]}, {depth} layers", nets)
    return dict(panels.values())


def curves(result: DegradationResult) -> pd.DataFrame:
    """The rows of Fig. 6, one per network and epoch: network, epoch, step, train_loss, train_error and test_error."""
    drawn = {network for nets in pairs(result).values() for network in nets.values()}
    rows = result.curves()
    columns = ["network", "epoch", "step", "train_loss", "train_error", "test_error"]
    return rows.loc[rows["network"].isin(drawn), columns]


def _draw_curves(result: DegradationResult) -> Drawing:
    from matplotlib.figure import Figure as Drawing

    from gradlab.results.degradation.curves_figure import loss_and_error_figure

    return loss_and_error_figure(curves(result), pairs(result), Drawing())


def _table(number: int, title: str, claim: str, cases: Cases, depths: tuple[int, ...], *differs: str) -> Figure:
    """One of the two tables."""
    return Figure(
        name=f"he2016-table{number}",
        paper=PAPER,
        figure=f"Table {number}",
        title=title,
        claim=claim,
        command=("degradation", "--no-train"),
        experiment=degradation,
        options=partial(runs_of, cases),
        toy={},
        draw=partial(_draw, cases=cases, depths=depths),
        table=partial(errors, cases=cases, depths=depths),
        differs=(*_AT_HAND, *differs),
    )


FIGURES = (
    _table(
        1,
        "Errors with other shortcuts than the identity",
        "On ResNet-110 every replacement of the identity shortcut increases the error from 6.61 %: to 6.91 % with "
        "shortcut-only gates of initial bias −6, 8.70 % with exclusive gates of bias −6 and 9.81 % of −7, 12.22 % with "
        "1×1 convolutions, 12.35 % with shortcut and branch scaled by 0.5, and 12.86 % with shortcut-only gates of "
        "bias 0. It stays above 20 % without shortcuts, with only the shortcut scaled by 0.5, with exclusive gates of "
        "biases from 0 to −5, and with dropout on the shortcut.",
        SHORTCUTS,
        PAPERS_DEPTHS[:1],
        "In names, shortcut scales the shortcut and beta scales the branch; beta alone, as in Balduzzi et al. 2017, is "
        "not a case of this table.",
        "Of the exclusive gates of biases from 0 to −5, which share a row in the paper, that of 0 is trained.",
    ),
    _table(
        2,
        "Errors with normalization and ReLU elsewhere in the block",
        "On ResNet-110 full pre-activation has the lowest test error, 6.37 %; ReLU-only pre-activation, 6.71 %, is "
        "much like the original, 6.61 %; ReLU before the addition, 7.84 %, and BN after it, 8.17 %, are worse. "
        "ResNet-164, with bottlenecks, has the same order but for ReLU-only pre-activation, 5.91 %, just below the "
        "original, 5.93 %.",
        UNITS,
        PAPERS_DEPTHS,
    ),
    Figure(
        name="he2016-fig6",
        paper=PAPER,
        figure="Fig. 6",
        title="Training loss and test error with normalization and ReLU elsewhere in the block",
        claim="With BN after the addition, ResNet-110 has difficulties to reduce the training loss at the beginning, "
        "and ends at a higher test error. With full pre-activation, ResNet-164 ends at a slightly higher training "
        "loss, but at a lower test error.",
        command=("degradation", "--no-train"),
        experiment=degradation,
        options=partial(runs_of_pairs, CURVES),
        toy={},
        draw=_draw_curves,
        table=curves,
        differs=(
            "The runs are existing ones, of one recipe and seed for both nets of a panel, with the depth in its title; "
            "the paper trains 110 layers on the left, 164 layers with bottlenecks on the right, for 64,000 iterations.",
            "The axis of errors is on the left, as in the figures of He et al. 2015, and that of losses on the right; "
            "the paper has them the other way round.",
            "The training loss is the mean over each epoch's batches, which are augmented, during training.",
            _OF_RUNS,
        ),
    ),
)
