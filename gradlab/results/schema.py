"""The types of the facts in a record, which are checked when a saved result is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Required

from typing_extensions import TypedDict

from gradlab.errors import GradlabError


class DescriptionFacts(TypedDict):
    """The architecture of a network; see `gradlab.models.NetworkDescription`."""

    name: str | None
    family: str | None
    kind: str | None
    unit: str | None
    block: str | None
    normalization: str | None
    form: str | None
    series: str | None
    depth: int | None
    width: int | None
    options: dict[str, Any]


class CoverageFacts(TypedDict):
    """The parameters that were measured; see `gradlab.Coverage`."""

    measured: int
    total: int
    weights_measured: int
    weights_total: int
    layers_measured: int
    layers_total: int
    left_out: dict[str, list[str]]
    share: float
    weights_share: float


class LawFacts(TypedDict):
    """The law of the singular values of wide nets: the density of their log10 at some values, and the mean square."""

    singular_value: list[float]
    density: list[float]
    mean_square: float


class NetworkFacts(TypedDict, total=False):
    """One network of a measurement."""

    network: Required[str]
    name: str | None
    weights_label: str | None
    trained: bool | None
    recipe: str | None
    description: DescriptionFacts | None
    coverage: CoverageFacts | None
    bn: str | None
    data: str | None
    images: int | None
    accuracy: float | None
    loss: float | list[float | None] | None
    near_chance: bool | None
    claim: str | None
    classes: int | None
    depth: int | None
    part: str | None
    law: LawFacts | None
    totals: list[dict[str, Any]]
    complete: bool
    batch_size: int


class NoiseFacts(TypedDict):
    """The autocorrelations of brown and white noise of as many points, by lag."""

    brown: list[float]
    white: list[float]


class ExpectedFacts(TypedDict):
    """What a coordinate check expects."""

    parametrization: str
    optimizer: str | None
    branch: float | None


class OptionFacts(TypedDict, total=False):
    """The options that are used when a result is shown."""

    width: int | None
    mode: str | None
    per_example: bool | None


class MadeFacts(TypedDict, total=False):
    """How a result was made, which every record says."""

    notes: list[str]
    sha256: dict[str, str]
    versions: dict[str, str | None]
    utc: str | None
    command: str | None
    device: str | None


class RecordFacts(MadeFacts, total=False):
    """A record; other facts may have any value."""

    networks: list[NetworkFacts | str]
    options: OptionFacts


class ShatterFacts(RecordFacts):
    """The record of a shatter measurement."""

    noise: Required[NoiseFacts]


class CompareOptions(TypedDict):
    """The options of a comparison of networks."""

    question: Literal["depth", "shortcut", "block"]


class ComparedFacts(NetworkFacts):
    """One network of a comparison."""

    layers: Required[int]
    parameters: Required[int]
    multiply_adds: Required[int]


class CompareFacts(MadeFacts):
    """The record of a comparison of networks."""

    options: CompareOptions
    networks: list[ComparedFacts]


class CoordinatesFacts(RecordFacts):
    """The record of a coordinate check."""

    expected: Required[ExpectedFacts]


class RecipeFacts(TypedDict):
    """The recipe of a training."""

    batch_size: int


class TrainingOptions(TypedDict):
    """The options of a training."""

    data: str
    seed: int
    recipe: RecipeFacts


class RunFacts(TypedDict, total=False):
    """The record of a run, finished or not."""

    network: Required[str]
    options: Required[TrainingOptions]
    steps: Required[int]
    complete: bool
    notes: list[str]
    recipe: str | None
    description: DescriptionFacts | None


def check_record(content: Any, path: str | Path, facts: type = RecordFacts) -> dict[str, Any]:
    """The content of a record, after checking the types of all facts that are read from it.

    Args:
        content: The content of the JSON file.
        path: The file, for messages.
        facts: The types, a TypedDict.

    Raises:
        GradlabError: If a fact is missing or has another type.
    """
    # Loading pydantic takes as long as a small measurement, and only saved results need it.
    from pydantic import TypeAdapter, ValidationError

    try:
        TypeAdapter(facts).validate_python(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(key) for key in first["loc"] if key not in ("NetworkFacts", "str")) or "the whole"
        raise GradlabError(
            f"{path} is damaged or from another version: in {place:.200}, {first['msg'].lower()}: measure again"
        ) from None
    checked: dict[str, Any] = content
    return checked
