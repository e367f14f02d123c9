"""Store finished runs in the zoo: python scripts/add_to_zoo.py RUN…, with CIFAR-10 at hand (GRADLAB_DATA)."""

import sys

from gradlab.experiments.zoo import add_to_zoo

for run in sys.argv[1:]:
    print(add_to_zoo(run, lambda label, done, total: print(f"\r{label} {done}/{total}  ", end="", file=sys.stderr)))
