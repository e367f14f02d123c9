"""Hold the predicted variance of streams against transformers as initialized, over widths and depths.

    python scripts/check_streams.py --widths 256,512,1024 --blocks 4,16,64 --out docs-table.md

Five seeds each, and the prediction from the tokens that enter the first block of each, as in `gradlab signal`. The
table of docs/transformers.md is what it writes: the variance after the last block, its relative standard deviation over
seeds, measured and predicted, and the share of blocks at which the mean is within two predicted standard errors. It is
95 % of an exact law, on average over many nets, since the blocks of one net share its weights. The largest nets have
805 million parameters and take half a minute a seed on one core.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch

from gradlab import theory
from gradlab.models import create, parse_name

STYLES = ("", "-norm=sandwich", "-scale=sqrt", "-scale=completep", "-norm=none-scale=sqrt", "-rms-act=relu")
TOKENS, VOCABULARY, SEQUENCES, SEEDS = 64, 256, 4, 5


@torch.no_grad()
def measured(name: str, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Variance of the stream after every block over channels, tokens and sequences, (L,): measured and predicted.

    The third is the covariance of all tokens that enter the first block.
    """
    model, found, starts = create(name, seed=seed), [], []
    blocks = [*model.get_submodule("blocks").children()]
    for block in blocks:
        block.register_forward_hook(lambda module, args, x: found.append(x.double().var(correction=0)))
    blocks[0].register_forward_pre_hook(lambda module, args: starts.append(args[0].double()))
    generator = torch.Generator().manual_seed(1000 + seed)
    model(torch.randint(VOCABULARY, (SEQUENCES, TOKENS), generator=generator))
    start = (starts[0] @ starts[0].mT / starts[0].shape[-1]).mean(0)
    expected = theory.predicted_stream_variance(parse_name(name).description.to_dict(), start)
    assert expected is not None
    joint = starts[0].flatten(0, 1)
    return torch.stack(found), expected, joint @ joint.mT / joint.shape[-1]


def row(style: str, width: int, blocks: int) -> tuple[str, float, float]:
    """A line of the table, the share of blocks within two standard errors, and the last block's distance in errors."""
    name = f"gpt{blocks}-width={width}-context={TOKENS}-vocab={VOCABULARY}{style}"
    # Weights and tokens of one seed are drawn anew for every width and depth.
    seeds = range(width * blocks, width * blocks + SEEDS)
    runs, expected, starts = (torch.stack(part) for part in zip(*(measured(name, seed) for seed in seeds), strict=True))
    law = replace(theory.transformer_law(parse_name(name).description.to_dict()), sequences=SEQUENCES)
    off = runs / expected - 1
    scatter = law.deviations(starts.mean(0), width) / expected.mean(0)
    mean, error = off.mean(0), scatter / math.sqrt(SEEDS)
    within = float((mean.abs() <= 2 * error).double().mean())
    numbers = f"{runs[:, -1].mean():.4g} | {expected[:, -1].mean():.4g} | {mean[-1]:+.1%}"
    scatters = f"{off[:, -1].std():.1%} | {scatter[-1]:.1%}"
    line = f"| {style.removeprefix('-') or 'norm=pre'} | {width} | {blocks} | {numbers} | {scatters} | {within:.0%} |"
    return line, within, float(mean[-1] / error[-1])


def main() -> None:
    """Print the table row by row, and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", default="256,512,1024")
    parser.add_argument("--blocks", default="4,16,64")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--styles", default=",".join(STYLES), help="suffixes of names, the first one empty")
    asked = parser.parse_args()
    rows = [
        "| blocks are | width | blocks | variance | predicted | off by | scatter | predicted | within 2 s.e. |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    shares, distances = [], []
    for style, width, blocks in product(asked.styles.split(","), asked.widths.split(","), asked.blocks.split(",")):
        line, within, distance = row(style, int(width), int(blocks))
        rows.append(line)
        shares.append(within)
        distances.append(abs(distance))
        print(rows[-1], flush=True)
    last = sum(distance <= 2 for distance in distances)
    rows.append(
        f"\nOf all blocks {sum(shares) / len(shares):.0%} are within two standard errors, of the last blocks {last} "
        f"of {len(distances)}; the farthest is {max(distances):.1f} away."
    )
    print(rows[-1])
    if asked.out:
        asked.out.write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
