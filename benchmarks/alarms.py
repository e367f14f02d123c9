"""How often the findings and alerts of a watch are wrong: over sound trainings, and over planted faults.

    python benchmarks/alarms.py [--sound 100] [--faults 100] [--seed 1000000] [--verbose]

Each training is drawn by its own seed: the network, its initialization, the optimizer, the schedule, the precision,
how often it is recorded, the data. The rules were set on seeds below 100,000; the rates in the documentation are of
others, on which nothing was set.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from probes.watch.trainings import FAULTS, faulty, sound


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sound", type=int, default=100)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1_000_000)
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    count = Counter[str]()
    for seed in range(args.seed, args.seed + args.sound):
        training = sound(seed)
        found = training.run()
        count.update({"finding": bool(found), "alert": bool(training.told), "sound": 1})
        for sentence in [*(one.sentence for one in found), *map(str, training.told)] if args.verbose else ():
            print(f"  {seed} {training.network}, {training.precision}: {sentence}", flush=True)
        if count["sound"] in (args.sound, args.sound // 2, args.sound // 4):
            wrong = f"{count['finding']} with a false finding, {count['alert']} with a false alert"
            print(f"{count['sound']} sound trainings: {wrong}", flush=True)
    for number in range(args.faults):
        fault = FAULTS[number % len(FAULTS)]
        training, layer = faulty(fault, args.seed + number)
        found = training.run()
        named = any(one.kind in fault.kinds and layer in (None, one.layer) for one in found)
        count.update({f"{fault.name}: found": named, fault.name: 1, "found": named})
        if not named and args.verbose:
            said = "; ".join(one.sentence for one in found)
            print(f"  {args.seed + number} {fault.name} in {layer} of {training.network}: {said}", flush=True)
        if number + 1 in (args.faults // 2, args.faults // 4):
            print(f"{number + 1} faults: {count['found']} named with their layer", flush=True)
    print(f"{args.faults} faults: {count['found']} named with their layer")
    for fault in FAULTS:
        print(f"  {fault.name:28s} {count[f'{fault.name}: found']} of {count[fault.name]}")


if __name__ == "__main__":
    main()
