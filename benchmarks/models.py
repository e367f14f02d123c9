"""How long it takes to build and to cost the largest network of the paper.

python benchmarks/models.py
"""

import time

from gradlab.models import cost, create


def main() -> None:
    start = time.perf_counter()
    model = create("resnet1202")
    built = time.perf_counter()
    cost(model, (3, 32, 32))
    print(f"resnet1202: built in {built - start:.2f} s, counted in {time.perf_counter() - built:.2f} s")


if __name__ == "__main__":
    main()
