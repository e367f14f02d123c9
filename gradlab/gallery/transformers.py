"""Our figures of transformers: streams beside theory, gradients after a short training, shattering with depth."""

from __future__ import annotations

from pathlib import Path

from gradlab.experiments.dynamics import dynamics
from gradlab.experiments.input_gradients.input_gradients import input_gradients
from gradlab.experiments.signal.signal import signal
from gradlab.gallery import transformer_figures as drawings
from gradlab.gallery.figure import Figure, NotAtHand, Options
from gradlab.gallery.runs import RUNS

FORMS = ("", "-norm=post", "-norm=sandwich", "-scale=sqrt", "-scale=completep", "-scale=deepnorm")
"""The six parametrizations of which streams are drawn."""

SHATTERED = ("-shortcut=none", "", "-norm=post", "-scale=sqrt")
DEPTHS = (1, 2, 4, 8, 16, 32)

SHORT_RUNS = ("pre-norm", "pre-norm-warm-up", "post-norm", "post-norm-warm-up")
"""The folders of the trainings of a gpt12 with and without warm-up."""


def short_runs() -> Options:
    """The four short trainings, if all recorded their gradients."""
    runs = tuple(str(RUNS / name) for name in SHORT_RUNS)
    if missing := [run for run in runs if not (Path(run) / "dynamics.csv").exists()]:
        raise NotAtHand(
            f"{', '.join(missing)} recorded no layers (docs/transformers.md gives the four commands that train them in "
            "minutes)"
        )
    return {"runs": runs}


_TOY = "-width=16-heads=2-vocab=16-context=8"

FIGURES = (
    Figure(
        name="transformer-streams",
        paper="gradlab, on transformers as of Xiong et al. 2020, arXiv:2002.04745; Wang et al. 2022, arXiv:2203.00555; "
        "Dey et al. 2025, arXiv:2505.01618",
        figure="ours",
        title="Variance of stream and branches in six parametrizations",
        claim="With pre-norm every block adds about the same variance, so that the stream grows linearly; with "
        "post-norm it stays at 1; with branches scaled by 1/√L or 1/L it stays within a constant at any depth.",
        command=("signal",),
        experiment=signal,
        options=lambda: {
            "models": tuple(f"gpt24-width=128{form}-context=64@init" for form in FORMS),
            "data": "tokens",
            "images": 8,
            "batch_size": 8,
            "seeds": 5,
        },
        toy={
            "models": tuple(f"gpt2{form}{_TOY}@init" for form in ("", "-norm=post")),
            "data": "tokens",
            "images": 2,
            "seeds": 2,
        },
        draw=drawings.streams_figure,
        table=drawings.stream_rows,
        differs=(
            "The theory is that of infinite width, started from the tokens of each network for the stream and from "
            "different tokens for the branches; these have 128 channels in two heads. Bands are 95 % intervals over "
            "five seeds.",
        ),
    ),
    Figure(
        name="transformer-warm-up",
        paper="gradlab, after Xiong et al. 2020, On Layer Normalization in the Transformer Architecture, "
        "arXiv:2002.04745",
        figure="ours",
        title="Gradients by block, pre-norm and post-norm, with and without warm-up",
        claim="With post-norm the gradients of the parameters near the output are large at initialization, so that a "
        "large learning rate is unstable without warm-up; with pre-norm they are well-behaved, and no warm-up is "
        "needed.",
        command=("dynamics",),
        experiment=dynamics,
        options=short_runs,
        toy={"runs": ("runs/plain8", "runs/resnet8")},
        draw=drawings.gradients_figure,
        table=drawings.gradient_rows,
        arguments=("runs",),
        differs=(
            "The networks have 12 blocks of width 64 and train on a Markov chain of 64 tokens for 300 steps by AdamW "
            "at 0.003, with 100 steps of warm-up or none, one seed each; the paper translates and trains BERT.",
            "Those with pre-norm learn the chain (test loss 1.31 nats, 1.32 with warm-up; the least is 1.21), those "
            "with post-norm do not (3.96 either way): so short a warm-up keeps the gradients of their first blocks "
            "some 60 times larger, but not large enough.",
            "The norm of a block is that of the gradients of its weights of two dimensions, on the batch of the step.",
        ),
    ),
    Figure(
        name="transformer-shattering",
        paper="gradlab, after Balduzzi et al. 2017, The Shattered Gradients Problem, arXiv:1702.08591",
        figure="ours",
        title="Shattering in transformers",
        claim="Of networks of fully connected and convolutional layers: gradients of plain nets come to resemble white "
        "noise with depth, those of nets with shortcuts resist. The paper is older than transformers.",
        command=("shatter",),
        experiment=input_gradients,
        options=lambda: {
            "models": tuple(f"gpt{depth}-width=64-context=32{form}@init" for form in SHATTERED for depth in DEPTHS),
            "data": "tokens",
            "images": 16,
            "batch_size": 16,
            "seeds": 5,
            "points": 64,
            "lags": 5,
        },
        toy={
            "models": tuple(f"gpt{depth}{_TOY}{form}@init" for form in ("-shortcut=none", "") for depth in (1, 2)),
            "data": "tokens",
            "images": 4,
            "batch_size": 4,
            "seeds": 2,
            "points": 8,
            "lags": 2,
        },
        draw=drawings.shattering_figure,
        table=drawings.shattering_rows,
        differs=(
            "Gradients are those of the summed logits with respect to the embeddings of 16 sequences of 32 uniform "
            "random tokens; the autocorrelation is along the segment between two sequences' embeddings. Bars are 95 % "
            "intervals over five seeds.",
            "Without shortcuts the tokens of a sequence become alike with depth as well (rank collapse).",
        ),
    ),
)
