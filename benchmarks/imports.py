"""What `gradlab responses` and `gradlab models` import, in seconds of CPU, beside `import torch` alone.

    python benchmarks/imports.py [--rounds 5]

Each runs in a process of its own, in turn. A command runs twice in its process: what the first run takes beyond the
second is imports, and what libraries do once, such as finding fonts. Bytecode must be cached, as it is wherever
PYTHONDONTWRITEBYTECODE is not set.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

TWICE = """
import sys, time
from gradlab.cli import app
def run():
    try:
        app()
    except SystemExit as done:
        assert not done.code
    return time.process_time()
first = run()
print("\\n", 2 * first - run())
"""
RESPONSES = ["responses", "--model", "resnet8@init", "--images", "4", "--quiet"]
VARIANTS = {
    "torch alone": ("import time, torch; print(time.process_time())", []),
    "gradlab responses": (TWICE, RESPONSES),
    "gradlab models": (TWICE, ["models"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    for name, values in measure(VARIANTS, args.rounds).items():
        print(f"{name:20s} {statistics.median(values):5.2f} s   ({min(values):.2f} to {max(values):.2f})")


def measure(variants: dict[str, tuple[str, list[str]]], rounds: int) -> dict[str, list[float]]:
    """Seconds of CPU that each variant, a program and its arguments, prints in a process of its own."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    with tempfile.TemporaryDirectory() as folder:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        environment.setdefault("PYTHONPYCACHEPREFIX", os.path.join(folder, "bytecode"))
        for round_ in range(rounds + 1):
            for name, (code, arguments) in variants.items():
                command = [sys.executable, "-c", code, *arguments]
                done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
                if round_:
                    seconds[name].append(float(done.stdout.split()[-1]))
    return seconds


if __name__ == "__main__":
    main()
