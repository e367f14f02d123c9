"""How often planted scaling bugs are found, at their layer, and how often right parametrizations pass.

    python benchmarks/coordinates.py [--repetitions 3]

The cases are those of the tests, at other seeds.
"""

import argparse
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from experiments.coordinates.test_bugs import BUGS, RIGHT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    args = parser.parse_args()
    count, start = Counter[str](), time.perf_counter()
    for repetition in range(1, args.repetitions + 1):
        for case in [*RIGHT, *BUGS]:
            seeded = replace(case, options={**case.options, "seed": 1000 * repetition})
            wrong = [layer for _, layer in seeded.check().wrong()]
            right = bool(wrong) and wrong[0].startswith(case.layer) if case.layer else not wrong
            count.update(["bugs" if case.layer else "right", *(["at its layer"] if case.layer and right else [])])
            count.update(["found"] if case.layer and wrong else [] if case.layer or right else ["false alarms"])
            if not right:
                print(f"{case.name}: {wrong}", flush=True)
    print(f"{count['bugs']} bugs: {count['found']} found, {count['at its layer']} first at their layer")
    print(f"{count['right']} right parametrizations: {count['false alarms']} false alarms")
    print(f"{(time.perf_counter() - start) / args.repetitions:.0f} s for all cases once")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
