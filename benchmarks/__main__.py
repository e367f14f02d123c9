"""What measuring costs, by gradlab and by other tools, in one table.

    pip install -e '.[benchmarks]'
    OMP_NUM_THREADS=1 python -m benchmarks [--only responses,examples] [--rounds 10] [--out table.md] [--out table.csv]

Costs are ratios to the same work without measuring, or, where a unit says so, what is added to it: the median and the
quartiles over interleaved pairs in one process, by CPU time, on one thread. Every tool gets the same network and batch,
and its result is held against gradlab's in the same run: by the largest relative difference. A tool that is not
installed, or fails, has a row that says so. With `--resume`, what a CSV file of `--out` holds is not measured again, so
that a run can be stopped and go on. `mosaicml` (Composer) asks for an older torch and is not among the extras.
Results that were kept are in RESULTS.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import torch

from benchmarks.jobs import NAMES, jobs
from benchmarks.table import Row, check, machine, read, text, write
from gradlab.errors import UsageError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=56, help="of the ResNet")
    parser.add_argument("--batch", type=int, default=128, help="for forward passes")
    parser.add_argument("--example-batch", type=int, default=32, help="for training steps")
    parser.add_argument("--compiled", default="resnet20", help="the network to compile, which takes a while")
    parser.add_argument("--rounds", type=int, default=10, help="at least 2")
    parser.add_argument("--only", default="", help=f"some of {', '.join(NAMES)}; by default all")
    parser.add_argument("--out", type=Path, action="append", default=[], help="a .md or .csv file; may be repeated")
    parser.add_argument("--resume", action="store_true", help="go on with what the .csv files hold")
    args = parser.parse_args()
    every = jobs(args.depth, args.batch, args.example_batch, args.compiled)
    asked = args.only.split(",") if args.only else list(every)
    if unknown := [name for name in asked if name not in every]:
        parser.error(f"there is no job {unknown[0]!r}: choose among {', '.join(every)}")
    try:
        for path in args.out:
            check(path)
    except UsageError as error:
        parser.error(str(error))
    torch.set_num_threads(1)
    print(machine(), end="\n\n")
    known = [row for path in args.out for row in read(path)] if args.resume else []
    rows = chain.from_iterable(every[name](max(2, args.rounds), known) for name in asked)
    for line in text(kept(rows, args.out)):
        print(line, flush=True)


def kept(rows: Iterable[Row], paths: Sequence[Path]) -> Iterator[Row]:
    """The rows, with which the files are written anew whenever one more is known."""
    known: list[Row] = []
    for row in rows:
        known.append(row)
        for path in paths:
            write(known, path)
        yield row


if __name__ == "__main__":
    main()
