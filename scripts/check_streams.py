"""Hold the predicted variance of streams against transformers as initialized, over widths and depths.

    python scripts/check_streams.py --widths 256,512,1024 --blocks 4,16,64 --out docs-table.md

Five seeds each; the table of docs/transformers.md is what it writes. The largest nets have 805 million parameters and
take half a minute a seed on one core.
"""

from __future__ import annotations

import argparse
import math
from itertools import product
from pathlib import Path

import torch

from gradlab import theory
from gradlab.models import create, parse_name

STYLES = ("", "-norm=sandwich", "-scale=sqrt", "-scale=completep", "-norm=none-scale=sqrt", "-rms-act=relu")
TOKENS, VOCABULARY, SEQUENCES, SEEDS = 64, 256, 4, 5


@torch.no_grad()
def measured(name: str, seed: int) -> torch.Tensor:
    """Variance of the stream behind every block, over channels, tokens and sequences: (L,), float64."""
    model, found = create(name, seed=seed), []
    for block in model.get_submodule("blocks").children():
        block.register_forward_hook(lambda module, args, x: found.append(x.double().var(correction=0)))
    generator = torch.Generator().manual_seed(1000 + seed)
    model(torch.randint(VOCABULARY, (SEQUENCES, TOKENS), generator=generator))
    return torch.stack(found)


def row(style: str, width: int, blocks: int) -> str:
    """The last block's variance, its standard error and the prediction, and the worst block's distance in errors."""
    name = f"gpt{blocks}-width={width}-context={TOKENS}-vocab={VOCABULARY}{style}"
    runs = torch.stack([measured(name, seed) for seed in range(SEEDS)])
    expected = theory.predicted_stream_variance(parse_name(name).description.to_dict())
    assert expected is not None
    mean, error = runs.mean(0), runs.std(0) / math.sqrt(SEEDS)
    within = ((mean - expected).abs() <= 2 * error).double().mean()
    off = (mean / expected - 1)[-1]
    last = f"{mean[-1]:.4g} ± {error[-1]:.2g} | {expected[-1]:.4g} | {off:+.1%} | {within:.0%}"
    return f"| {style.removeprefix('-') or 'norm=pre'} | {width} | {blocks} | {last} |"


def main() -> None:
    """Print the table row by row, and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", default="256,512,1024")
    parser.add_argument("--blocks", default="4,16,64")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    rows = [
        "| blocks are | width | blocks | variance of the stream | predicted | off by | within 2 standard errors |",
        "|---|---|---|---|---|---|---|",
    ]
    for style, width, blocks in product(STYLES, asked.widths.split(","), asked.blocks.split(",")):
        rows.append(row(style, int(width), int(blocks)))
        print(rows[-1], flush=True)
    if asked.out:
        asked.out.write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
