"""Writes docs/conformance.md: what came of every probe in every situation of tests/conformance."""

import sys
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from conformance.cells import outcome
from conformance.page import PAGE, page

if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    PAGE.write_text(page(outcome))
