"""The tables and records of saved results, which are checked by type."""

import hashlib
from pathlib import Path
from typing import NotRequired, TypedDict

import pytest

import gradlab as gl
from gradlab.results.columns import read_table
from gradlab.results.schema import check_record


class Row(TypedDict):
    network: str
    index: int
    std: float | None
    shortcut: bool
    rank: NotRequired[int | None]


HEADER = "network,index,std,shortcut"


@pytest.mark.parametrize("rows", ["1,1,0.5,True", "a,1,,False", "a,2.0,inf,True", "a,-3,1e-300,True\nb,4,2,False"])
def test_values_of_their_types_are_taken(tmp_path: Path, rows: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"{HEADER}\n{rows}\n")
    frame = read_table(path, Row, hashlib.sha256(path.read_bytes()).hexdigest())
    assert [*frame["network"]] == [row.partition(",")[0] for row in rows.splitlines()]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("network,index,shortcut\na,1,True", "has no column std"),
        (f"{HEADER}\na,1.5,1,True", "column index must contain whole numbers"),
        (f"{HEADER}\na,inf,1,True", "column index must contain whole numbers"),
        (f"{HEADER}\na,True,1,True", "column index must contain whole numbers"),
        (f"{HEADER}\na,1,high,True", "column std must contain numbers"),
        (f"{HEADER}\na,1,1,yes", "column shortcut must contain True or False"),
        (f"{HEADER}\na,1,1,1", "column shortcut must contain True or False"),
        (f"{HEADER}\n,1,1,True", "lacks a value in column network"),
        (f"{HEADER}\na,,1,True", "lacks a value in column index"),
        (f"{HEADER},rank\na,1,1,True,first", "column rank must contain whole numbers"),
        (f"{HEADER}\na,1,1,True,2\nb,2,1,True,2", "its lines have more values than its header"),
    ],
)
def test_other_values_are_refused_by_the_column(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "t.csv").write_text(f"{text}\n")
    with pytest.raises(gl.GradlabError, match=f"t.csv .*{said}"):
        read_table(tmp_path / "t.csv", Row)


def test_another_file_than_the_records_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"{HEADER}\na,1,1,True\n")
    with pytest.raises(gl.GradlabError, match="is not the file that its record describes"):
        read_table(tmp_path / "t.csv", Row, "0" * 64)


COVERAGE = {
    **dict.fromkeys(("measured", "total", "weights_measured", "weights_total", "layers_measured", "layers_total"), 1),
    "left_out": {},
    "share": 1.0,
    "weights_share": 1.0,
}


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ([], "the whole"),
        ({"networks": {}}, "networks"),
        ({"networks": [{"name": "a"}]}, "networks.0.network"),
        ({"networks": [{"network": "a", "accuracy": "high"}]}, "networks.0.accuracy"),
        ({"networks": [{"network": "a", "coverage": {**COVERAGE, "total": "all"}}]}, "networks.0.coverage.total"),
        ({"options": {"width": 1.5}}, "options.width"),
        ({"notes": "one"}, "notes"),
    ],
)
def test_a_fact_of_another_type_is_named(record: object, said: str) -> None:
    with pytest.raises(gl.GradlabError, match=f"r.json is damaged .*in {said}, "):
        check_record(record, "r.json")


def test_facts_that_are_not_known_are_kept() -> None:
    record = {"networks": ["a", {"network": "b", "coverage": COVERAGE, "of its own": [1]}], "also": {"x": None}}
    assert check_record(record, "r.json") is record
