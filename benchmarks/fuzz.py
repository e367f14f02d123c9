"""Random and hostile input in any number: `python benchmarks/fuzz.py --cases 100000`.

Every case is taken, or refused in one sentence by one of gradlab's own errors; the first that is not is printed, as
small as it can be made, and the exit code is 1. The files that were made by hand are tried first, with their time and
memory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from fuzz.checkpoint_files import FILES
from fuzz.limits import refusal
from fuzz.targets import TARGETS, tried

from gradlab.networks import build


def by_hand() -> None:
    """Try every file that was made by hand."""
    for name, make in FILES.items():
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder) / "w.pth")
            (path,) = Path(folder).iterdir()
            spec = f"resnet8@{path}"
            start = time.perf_counter()
            refusal(lambda spec=spec: build(spec), path.stat().st_size)
            print(f"{name:<34} {time.perf_counter() - start:5.2f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=2000, help="in all")
    parser.add_argument("--only", help="one of: " + ", ".join(TARGETS))
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    if asked.only is None:
        by_hand()
    targets = TARGETS if asked.only is None else {asked.only: TARGETS[asked.only]}
    whole = sum(target.share for target in targets.values())
    faults = 0
    for name, target in targets.items():
        start = time.perf_counter()
        try:
            counts = tried(target, max(1, round(asked.cases * target.share / whole)))
        except Exception as error:
            faults += 1
            print(f"{name}: FAULT {type(error).__name__}: {error}\n{chr(10).join(getattr(error, '__notes__', []))}")
            continue
        said = ", ".join(f"{count:,} {what}" for what, count in counts.items())
        print(f"{name:<22} {said:<34} {time.perf_counter() - start:6.1f} s", flush=True)
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
