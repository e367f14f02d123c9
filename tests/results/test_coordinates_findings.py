"""What is said of a coordinate check, of one layer and of several."""

import pandas as pd
import pytest

from gradlab.results.coordinates.findings import findings


def judged(*verdicts: str) -> pd.DataFrame:
    """A table of one exponent per layer, each half a unit above its own, with the given verdicts."""
    rows = [{"layer": f"layer{place + 1}", "verdict": verdict} for place, verdict in enumerate(verdicts)]
    exponents = {"exponent": 0.5, "low": 0.0, "high": 0.0, "error": 0.1}
    return pd.DataFrame(rows).assign(axis="width", quantity="size", kind="linear", **exponents)


AS, UNKNOWN, WRONG = "as expected", "no conclusion is possible", "too large"


@pytest.mark.parametrize(
    ("verdicts", "words"),
    [
        ((AS,), "The only layer scales with width as μP predicts, within 0.50 of its exponents."),
        ((AS, AS), "All 2 layers scale with width as μP predicts, within 0.50 of its exponents."),
        ((UNKNOWN,), "the scaling of 1 layer with width"),
        ((AS, UNKNOWN), "None of 2 layers is found to scale with width differently from μP; one exponent is within"),
        ((AS, AS, UNKNOWN), "differently from μP; 2 exponents are within 0.50 of its own, and on 1 no conclusion"),
        ((WRONG, AS), "1 of 2 layers does not scale with width as μP predicts; it is layer1."),
        ((WRONG, WRONG), "2 of 2 layers do not scale with width as μP predicts; the first of them is layer1."),
    ],
)
def test_numbers_and_their_nouns_agree(verdicts: tuple[str, ...], words: str) -> None:
    assert words in findings(judged(*verdicts), "mup")[0]
