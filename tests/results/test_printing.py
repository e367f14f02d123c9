"""Printed results: the answer, then a table that fits, then grouped notes, in the same way on all streams."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import pandas as pd
import pytest
from rich.console import Console

import gradlab as gl
from gradlab.results.coverage import Coverage, coverage_lines
from gradlab.results.fitting import GAP, fitted, folded
from gradlab.results.grouping import grouped
from gradlab.results.kinds import KINDS, kind
from gradlab.results.readable import readable
from gradlab.results.result import Result
from gradlab.results.tables import rich_table

LAYER = "encoder.layers.encoder_layer_11.self_attention.out_proj"
FACTS = {"recipe": "r", "trained": True, "bn": "eval", "weights_label": "trained"}


def responses(scale: dict[str, float]) -> gl.ResponsesResult:
    from gradlab.results.label import with_descriptions

    def one(name: str, std: float) -> gl.ResponsesResult:
        rows = [
            {
                "layer": f"layer{i // 4 + 1}.{i % 4}.conv1",
                "index": i + 1,
                "kind": "conv3x3",
                "std": std * (1 + i / 50),
                "mean": 0.0,
                "count": 10,
                "predicted_std": std * (1.1 + i / 50),
                "non_finite": 0,
            }
            for i in range(12)
        ]
        facts = with_descriptions([{"network": name, "name": name, **FACTS, "images": 100, "accuracy": 0.9}])[0]
        facts["coverage"] = Coverage(90, 100, 90, 95, 12, 13, {"not selected": ["fc"]}).as_record()
        return gl.ResponsesResult.from_rows(name, rows, [f"{name}: the same note"], facts)

    return gl.ResponsesResult.concat([one(name, std) for name, std in scale.items()])


@pytest.fixture
def result() -> gl.ResponsesResult:
    return responses({"plain20": 1.0, "resnet20": 0.5, "plain56": 1.1, "resnet56": 0.3})


def printed(result: object, width: int, encoding: str = "utf-8") -> str:
    """The output on a terminal of this width and encoding."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict", write_through=True)
    Console(file=file, width=width, highlight=False, color_system=None).print(result)
    file.seek(0)
    return "\n".join(line.rstrip() for line in file.read().splitlines())


def one_line(text: str) -> str:
    return " ".join(text.split())


def test_the_answer_precedes_the_table_and_the_notes(result: gl.ResponsesResult) -> None:
    text = one_line(printed(result, 100))
    found = result.findings()
    places = [text.index(found[0]), text.index(found[1]), text.index("plain20 trained"), text.index(f"• {found[2]}")]
    assert places == sorted(places)
    assert text.index("◦ measured") > places[-1]
    assert text.index("! plain20") > text.index("◦ measured")


def test_a_note_of_four_networks_is_one_line(result: gl.ResponsesResult) -> None:
    text = one_line(printed(result, 100))
    assert text.count("the same note") == 1
    assert "! plain20, resnet20, plain56 and resnet56: the same note" in text
    assert text.count("measured 12 of 13 weight layers, 90.0 % of 100 parameters; not measured: fc (not selected)") == 1


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 160, 300])
def test_tables_fit_without_breaking_words(result: gl.ResponsesResult, width: int) -> None:
    text = printed(result, width)
    assert max(map(len, text.splitlines())) <= width
    for word in ("plain20", "resnet56", "median", "layer3.3.conv1"):
        assert word in text or (word == "layer3.3.conv1" and "layer3.3.\n" in text) or width < 60
    left_out = re.search(r"At this width without the columns ([^.]*)\.", one_line(text))
    shown = set() if left_out is None else set(left_out[1].split(", "))
    assert shown < set(result.summary().columns)
    assert bool(shown) == (width < 100)
    # The most important columns remain.
    assert not shown & {"network", "median std"}


def test_in_a_notebook_repr_is_text_as_well_and_displays_nothing(
    result: gl.ResponsesResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = repr(result)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("rich.jupyter.display", lambda *_: pytest.fail("a console displays"))
    assert repr(result) == outside


def test_print_repr_and_notebook_agree(
    result: gl.ResponsesResult, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    print(result)
    assert (
        capsys.readouterr().out.rstrip()
        == repr(result).rstrip()
        == str(result).rstrip()
        == printed(result, 90).rstrip()
    )
    html = re.sub(r"<[^>]*>", " ", result._repr_html_())
    for sentence in [*result.findings(), "plain20, resnet20, plain56 and resnet56: the same note"]:
        assert sentence.replace("'", "&#x27;") in html
    for title in result.summary():
        assert title in html


@pytest.mark.parametrize("measurement", KINDS)
def test_all_kinds_are_printed_in_the_same_way(measurement: str) -> None:
    assert kind(measurement).__repr__ is Result.__repr__


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8", "shift-jis"])
def test_numbers_are_printed_on_any_stream(result: gl.ResponsesResult, encoding: str) -> None:
    text = printed(result, 120, encoding)
    for number in ("1.1100", "0.5550", "0.3330", "90.00"):
        assert number in text
    assert "?" not in text


@pytest.mark.parametrize(
    ("text", "encoding", "shown"),
    [
        ("2 × 3 – 1 ± 0 … “a”", "ascii", '2 x 3 - 1 +- 0 ... "a"'),
        ("2 × 3 – 1 ± 0 … “a”", "cp1252", "2 × 3 – 1 ± 0 … “a”"),
        ("tr Σ / |G|²", "ascii", "tr Sigma / |G|^2"),
        ("γ ≥ π, é, 漢", "ascii", "gamma >= pi, e, ?"),
        ("▁▄█", "ascii", "148"),
        ("γ", "utf-8", "γ"),
    ],
)
def test_characters_that_a_stream_lacks(text: str, encoding: str, shown: str) -> None:
    assert readable(text, encoding) == shown


def test_names_are_folded_at_dots() -> None:
    assert folded(LAYER, 20).splitlines() == ["encoder.layers.", "encoder_layer_11.", "self_attention.", "out_proj"]
    assert folded("0.123 ± 0.456", 8).splitlines() == ["0.123 ±", "0.456"]
    assert folded("runs/plain20/checkpoint.pt", 16).splitlines() == ["runs/plain20/", "checkpoint.pt"]
    assert folded("12345.678", 3) == "12345.678"


def test_the_least_important_columns_go_first() -> None:
    text = pd.DataFrame({"a": ["x" * 9], "b": ["y" * 9], "c": ["z" * 9], "d": ["w" * 9]})
    assert [*fitted(text, ["d", "b"], 4 * 9 + 3 * GAP).widths] == ["a", "b", "c", "d"]
    assert fitted(text, ["d", "b"], 4 * 9 + 3 * GAP - 1).left_out == ["c"]
    # Three columns always remain.
    assert fitted(text, ["d", "b"], 10).left_out == ["c"]


def test_a_title_is_on_one_line_if_it_fits() -> None:
    text = pd.DataFrame({"first / last": ["1.5"], "n": ["1"]})
    assert fitted(text, [], 20).widths == {"first / last": 12, "n": 1}
    assert fitted(text, [], 9).widths == {"first / last": 5, "n": 1}


def test_cells_are_not_markup() -> None:
    assert "[bold]x[/bold]" in printed(rich_table(pd.DataFrame({"a": ["[bold]x[/bold]"]}), {}), 40)


def test_sentences_of_one_meaning_are_grouped() -> None:
    lines = ["a: x", "no name: y", "a@b: x", "a: z", "no name: y", "a: x"]
    assert grouped(lines, ["a", "a@b"]) == ["a and a@b: x", "no name: y", "a: z"]


@pytest.mark.parametrize(
    ("parts", "networks", "lines"),
    [
        ({}, 1, []),
        ({"a": Coverage(9, 10, 9, 9, 2, 2)}, 1, ["measured 2 of 2 weight layers, 90.0 % of 10 parameters"]),
        ({"a": Coverage(9, 10, 9, 9, 2, 2)}, 2, ["a: measured 2 of 2 weight layers, 90.0 % of 10 parameters"]),
        (
            {
                "a": Coverage(9, 10, 9, 9, 2, 3, {"frozen": ["x", "y"]}),
                "b": Coverage(1_999_999, 2_000_000, 9, 9, 4, 5, {"frozen": ["x", "z", "w"]}),
                "c": Coverage(5, 5, 5, 5, 1, 1),
            },
            3,
            [
                "a: measured 2 of 3 weight layers, 90.0 % of 10 parameters; not measured: x, y (frozen)",
                "b: measured 4 of 5 weight layers, 99.9 % of 2 M parameters; not measured: x, z, w (frozen)",
                "c: measured 1 of 1 weight layer, 100 % of 5 parameters",
            ],
        ),
        (
            {
                "a": Coverage(96, 100, 9, 9, 2, 3, {"frozen": ["x", "y"]}),
                "b": Coverage(1_999_999, 2_000_000, 9, 9, 4, 5, {"frozen": ["x", "z", "w"]}),
            },
            2,
            ["measured 96.0 to 99.9 % of the parameters; not measured: x, … (frozen)"],
        ),
        (
            {"a": Coverage(9, 9, 9, 9, 2, 2), "b": Coverage(5, 5, 5, 5, 1, 1)},
            2,
            ["measured all weight layers and parameters"],
        ),
    ],
)
def test_coverage_of_several_networks(parts: dict[str, Coverage], networks: int, lines: list[str]) -> None:
    assert coverage_lines(parts, networks) == lines


def test_errors_of_tables_name_their_kind() -> None:
    gradients, shatter = gl.GradientsResult.legend, gl.ShatterResult.legend
    assert all("standard error" in told for told in [*gradients.values(), *shatter.values()])


def test_a_command_prints_in_ascii(gradlab_command: Callable[..., object], tmp_path: object) -> None:
    done = gradlab_command(
        "responses", "--model", "resnet8@init", "--images", "4", env={"PYTHONIOENCODING": "ascii", "COLUMNS": "80"}
    )
    assert done.returncode == 0, done.stderr  # type: ignore[attr-defined]
    assert "(gamma = 1, beta = 0)" in done.stdout.replace("\n", " ")  # type: ignore[attr-defined]
    assert max(map(len, done.stdout.splitlines())) <= 80  # type: ignore[attr-defined]
