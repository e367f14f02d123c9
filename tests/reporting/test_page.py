"""The HTML report: what it holds, and what it refuses."""

import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from every_kind import EVERY_KIND, IMAGES, make_run
from torch import nn

import gradlab as gl
from gradlab.models import describe
from gradlab.reporting.svg import inline_svg
from gradlab.reporting.table import make_table, number
from gradlab.results.finding import Finding, rule_of
from gradlab.results.intervals import WithError
from gradlab.results.kinds import KINDS, load_results
from gradlab.results.kinds import kind as kind_of

SCRIPT = "<script>alert('x')</script>"


def responses_of(network: str, stds: list[float]) -> gl.ResponsesResult:
    rows = [
        {
            "layer": f"layer{n}",
            "index": n,
            "kind": "conv3x3",
            "std": std,
            "mean": -0.5,
            "count": 1000,
            "predicted_std": std,
            "call": 1,
            "stride": 1,
            "non_finite": 0,
        }
        for n, std in enumerate(stds, 1)
    ]
    return gl.ResponsesResult.from_rows(network, rows, [f"A note on {network}."], {"name": network})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of three kinds, in folders side by side; one of a network with markup for a name."""
    folder = tmp_path_factory.mktemp("results")
    networks = [responses_of("deep", [10.0, 9.0, 0.5]), responses_of(SCRIPT, [0.25]), responses_of("none", [np.nan])]
    gl.ResponsesResult.concat(networks).save(folder / "responses", formats=())
    gl.shattering(lambda x: torch.sin(20 * x), torch.linspace(-2, 2, 32), lags=5).save(folder / "line", formats=())
    samples = [
        [{"relative_effective_rank": 0.5 + 0.1 * seed, "mean_cosine": 0.1, "segment_lag1": 0.3}] for seed in (0, 1)
    ]
    gl.InputGradientsResult.concat(
        gl.InputGradientsResult.from_samples(name, samples, depth=8, norm="bn", bn="batch", norm_grad="frozen")
        for name in ("plain8@init", "resnet8@init")
    ).save(folder / "images", formats=())
    return folder


@pytest.fixture(scope="module")
def page(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gl.report([folder], tmp_path_factory.mktemp("page") / "report.html", title=f"Nets of {SCRIPT}")


class Elements(HTMLParser):
    """The elements, ids and addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.addresses: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "id":
                self.ids[str(value)] += 1
            if name in ("href", "xlink:href", "src", "action", "data"):
                self.addresses.add(str(value))
            self.addresses |= {f"#{target}" for target in re.findall(r"url\(#([^)]+)\)", value or "")}


def test_the_page_names_nothing_outside_itself_and_no_id_twice(page: Path) -> None:
    elements = Elements(page.read_text())
    assert elements.tags["svg"] == 4
    assert elements.tags["script"] == 1
    assert max(elements.ids.values()) == 1
    inner = {address[1:] for address in elements.addresses if address.startswith("#")}
    assert inner <= elements.ids.keys()
    assert all(address.startswith(("#", "data:")) for address in elements.addresses)


def test_the_same_results_give_the_same_bytes(folder: Path, page: Path, tmp_path: Path) -> None:
    again = gl.report([folder], tmp_path / "again.html", title=f"Nets of {SCRIPT}")
    assert again.read_bytes() == page.read_bytes()


def test_a_result_that_is_named_twice_is_shown_once(folder: Path, tmp_path: Path) -> None:
    once = gl.report([folder], tmp_path / "once.html")
    inner = next(path for path in folder.iterdir() if path.is_dir())
    again = gl.report([folder, folder / ".." / folder.name, inner], tmp_path / "again.html")
    assert again.read_bytes() == once.read_bytes()


def test_a_result_in_memory_and_one_read_back_say_the_same(tmp_path: Path) -> None:
    result = gl.responses(["plain8", "resnet8"], weights="init", no_data=True)
    result.save(tmp_path / "saved", formats=())
    ((place, loaded),) = load_results(tmp_path / "saved")
    assert place == tmp_path / "saved"
    assert [rule_of(line) for line in loaded.findings()] == [rule_of(line) for line in result.findings()]
    first, second = (gl.report([each], tmp_path / "r.html").read_text() for each in (result, loaded))
    pick = re.compile(r"<ul class=\"reading\">.*?</ul>", re.DOTALL)
    assert pick.findall(first) == pick.findall(second) != []


def test_findings_are_sentences_with_rules() -> None:
    finding = Finding("It falls.", "0.3 < 0.5")
    assert finding == "It falls."
    assert json.dumps([finding]) == '["It falls."]'
    assert (rule_of(finding), rule_of("a plain sentence")) == ("0.3 < 0.5", "")


def test_every_finding_stands_with_its_rule_and_the_numbers_that_met_it() -> None:
    sample = {"relative_effective_rank": 0.5, "mean_cosine": 0.1, "segment_lag1": 0.3}
    about = {"depth": 8, "norm": "bn", "bn": "batch", "norm_grad": "frozen"}
    nets = {"plain8@init": 0.4, "resnet8@init": 0.5, "resnet20@init": 0.5}
    images = gl.InputGradientsResult.concat(
        gl.InputGradientsResult.from_samples(
            name, [[{**sample, "relative_effective_rank": rank + error}] for error in (-0.01, 0.01)], **about
        )
        for name, rank in nets.items()
    )
    for finding in images.findings():
        assert "falsely in at most 1% of cases" in rule_of(finding)
        assert "2 comparisons taken together (Holm)" in rule_of(finding)
    one, other = responses_of("plain8", [2.0] * 9), responses_of("resnet8", [1.0] * 9)
    for result in (one, other):
        described = {"description": describe(result.networks[0]).to_dict()}
        result.record["networks"][0] |= {"recipe": "one", "bn": "eval", **described}
    (finding,) = gl.ResponsesResult.concat([one, other]).findings()
    assert rule_of(finding).endswith("falsely in at most 1% of cases. Here p = 0.0039: smaller.")
    lines = gl.shatter([16], ["ff", "resnet", "ff-norm=none"], seeds=2, width=16, points=32, lags=3)
    assert len(lines.findings()) == 5
    assert all(rule_of(finding).endswith(".") for finding in lines.findings())


def test_a_notebook_shows_formatted_numbers_and_no_markup_of_names() -> None:
    html = responses_of(SCRIPT, [0.25])._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "<td>0.2500</td>" in html


def test_a_finding_without_a_rule_and_none_at_all_are_shown(tmp_path: Path) -> None:
    class Plain(gl.Result):
        title = "Plain"
        seen: tuple[str, ...] = ()

        def findings(self) -> list[str]:
            return list(self.seen)

        def _figures(self) -> dict[str, object]:
            return {}

    result = Plain(pd.DataFrame({"network": ["a"], "value": [1.0]}))
    assert "No rule of this measurement applies" in gl.report([result], tmp_path / "r.html").read_text()
    Plain.seen = ("Said <b>plainly</b>.",)
    text = gl.report([result], tmp_path / "r.html").read_text()
    assert "<p>Said &lt;b&gt;plainly&lt;/b&gt;.</p>" in text
    assert 'class="rule"' not in text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3.0),
        (np.float64(0.5), 0.5),
        (WithError(-0.005, 0.001), -0.005),
        (WithError(float("nan"), 0.1), None),
        (float("inf"), float("inf")),
        (float("nan"), None),
        (True, None),
        ("1,234", None),
        ("", None),
    ],
)
def test_numbers_are_those_of_the_frame(value: object, expected: float | None) -> None:
    assert number(value) == expected


def test_a_column_is_numeric_when_all_in_it_is_a_number() -> None:
    frame = pd.DataFrame({"b": ["1", "conv1"], "c": [float("inf"), float("nan")]})
    frame.insert(0, "a", pd.Series([WithError(1.0, 0.1), WithError(float("nan"), 0.1)], dtype=object))
    table = make_table(frame, {"a": str, "c": lambda lags: "never" if lags == float("inf") else str(lags)}, "")
    assert table.columns == [("a", True), ("b", False), ("c", True)]
    assert [(cell.text, cell.key) for row in table.rows for cell in row] == [
        ("1.000 ± 0.100", "1.0"), ("1", ""), ("never", "Infinity"), ("–", ""), ("conv1", ""), ("–", "")
    ]  # fmt: skip


def test_ids_of_a_figure_and_all_that_names_them_get_the_prefix() -> None:
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="72pt" height="9pt">'
        '<defs><style>*{fill: red}</style><clipPath id="p1"/></defs><g clip-path="url(#p1)"><use xlink:href="#p1"/>'
        "<text>id=&quot;p1&quot; &lt;b&gt;</text></g></svg>"
    )
    assert inline_svg(svg, "f1-", 'a "label"') == (
        '<svg role="img" aria-label="a &quot;label&quot;"><defs><clipPath id="f1-p1" /></defs>'
        '<g clip-path="url(#f1-p1)"><use href="#f1-p1" /><text>id="p1" &lt;b&gt;</text></g></svg>'
    )


def test_every_kind_of_result_is_found_by_its_measurement() -> None:
    kinds = [kind_of(measurement) for measurement in KINDS]
    assert all(issubclass(kind, gl.Result) for kind in kinds)
    assert {kind.measurement or kind.name for kind in kinds} <= KINDS.keys()


def test_a_function_of_ones_own_is_read_back_with_its_summary(tmp_path: Path) -> None:
    result = gl.shattering(torch.sin, torch.linspace(-2, 2, 16), lags=3)
    result.save(tmp_path, formats=())
    ((_, loaded),) = load_results(tmp_path)
    assert len(result.summary()) == 1
    pd.testing.assert_frame_equal(loaded.summary(), result.summary(), check_dtype=False)


def test_several_results_in_one_folder_are_all_reported(tmp_path: Path) -> None:
    responses_of("a", [1.0, 2.0]).save(tmp_path, formats=())
    gl.shattering(torch.sin, torch.linspace(-2, 2, 16), lags=3).save(tmp_path, formats=())
    assert [type(result).__name__ for _, result in load_results(tmp_path)] == ["ResponsesResult", "ShatterResult"]


def test_runs_are_reported(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "resnet8"
    run.mkdir(parents=True)
    made = {"measurement": "training", "network": "resnet8", "notes": ["Half way."], "steps": 4}
    options = {"data": "cifar10", "seed": 0, "recipe": {"batch_size": 128}}
    (run / "record.json").write_text(json.dumps({**made, "options": options}))
    columns = "step,epoch,learning_rate,train_loss,train_error,test_loss,test_error"
    (run / "metrics.csv").write_text(f"{columns}\n1,0.5,0.1,2.3,0.9,,\n2,1.0,0.1,2.1,0.8,2.2,0.85\n")
    text = gl.report([tmp_path / "runs"], tmp_path / "r.html").read_text()
    assert "85.00" in text
    assert "Half way." in text
    assert "resnet8: not finished; 2 of 4 steps are in the table" in text
    assert text.count("<svg") == 1


def test_a_network_of_one_layer_is_seen(tmp_path: Path) -> None:
    text = gl.report([responses_of("net", [1.0])], tmp_path / "r.html").read_text()
    assert "The one row of the measurement" in text
    assert "How it was made" not in text  # of rows alone nothing is known
    (axes, _) = responses_of("net", [1.0]).figure().axes
    assert axes.get_lines()[0].get_marker() == "o"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("trained"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_reported(kind: str, run_folder: Path, tmp_path: Path) -> None:
    result = EVERY_KIND[kind](run_folder)
    assert result.record["measurement"] == kind
    result.save(tmp_path / "one", formats=())
    text = gl.report([tmp_path], tmp_path / "r.html").read_text()
    assert text.count("<section") == 1
    assert "<svg" in text
    assert f'<h2 id="result-1-title">{result.title}</h2>' in text
    assert result.title != result.name, "a reader gets words"


def test_two_results_of_one_kind_have_sections_of_their_own(tmp_path: Path) -> None:
    for name in ("one", "two"):
        responses_of("net", [1.0]).save(tmp_path / name, formats=())
    text = gl.report([tmp_path], tmp_path / "r.html").read_text()
    assert text.count("<section") == 2
    assert text.count("<svg") >= 2
    assert all(f'<h2 id="result-{number}-title">' in text for number in (1, 2))


Run = Callable[..., subprocess.CompletedProcess[str]]


def test_the_command(gradlab_command: Run, folder: Path, tmp_path: Path) -> None:
    done = gradlab_command("report", str(folder / "responses"), str(folder / "line"), "-o", "a/b.html")
    assert (done.returncode, done.stdout) == (0, "a/b.html\n"), done.stderr
    assert (tmp_path / "a" / "b.html").read_text().count("<section") == 2


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder to stand in, of folders that are not what they should be, and a good one."""
    monkeypatch.chdir(tmp_path)
    for name in ("good", "changed"):
        responses_of("net", [1.0]).save(tmp_path / name, formats=())
    with (tmp_path / "changed" / "responses.csv").open("a") as file:
        file.write("\n")
    for name, text in (("foreign", "{}"), ("torn", '{"measurement":'), ("other", '{"measurement": ["responses"]}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "responses.json").write_text(text)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("in the way")


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize(
    ("results", "out", "error", "message"),
    [
        (["nowhere"], "r.html", gl.UsageError, "nowhere is no folder"),
        (["file"], "r.html", gl.UsageError, "file is no folder"),
        (["empty"], "r.html", gl.UsageError, "empty holds no result of gradlab"),
        ([], "r.html", gl.UsageError, "a report needs at least one result"),
        (["foreign"], "r.html", gl.GradlabError, "foreign/responses.json is no record of a measurement known here"),
        (["other"], "r.html", gl.GradlabError, "other/responses.json is no record of a measurement known here"),
        (["torn"], "r.html", gl.GradlabError, "torn/responses.json is damaged"),
        (["changed"], "r.html", gl.GradlabError, "changed/responses.csv is not the file that its record describes"),
        (["good"], "file/r.html", gl.GradlabError, "cannot write into file"),
        (["good"], "empty", gl.UsageError, "empty is a folder: name the HTML file, as empty/report.html"),
    ],
)
def test_what_cannot_be_reported_is_said(results: list[str], out: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        gl.report(results, out)


@pytest.mark.usefixtures("broken")
def test_a_report_that_fails_leaves_no_folder(tmp_path: Path) -> None:
    before = {*tmp_path.rglob("*")}
    with pytest.raises(gl.UsageError, match="nowhere is no folder"):
        gl.report(["good", "nowhere"], "a/b/r.html")
    assert {*tmp_path.rglob("*")} == before


def test_notes_and_coverage_are_on_the_page(tmp_path: Path) -> None:
    models = {name: nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)) for name in ("net0", "net1")}
    for name, model in models.items():
        model.name = name
    result = gl.gradients([*models.values()], **IMAGES)
    text = gl.report([result], tmp_path / "r.html").read_text()
    assert text.count("the normalization of its images in training is unknown") == 1
    assert "net0 and net1: the normalization" in text
    assert "measured 1 of 1 weight layer" in text


def test_errors_of_the_table_are_explained_below_it(tmp_path: Path) -> None:
    result = gl.gradients("resnet8@init", seeds=2, **IMAGES)
    text = gl.report([result], tmp_path / "r.html").read_text()
    assert "standard error of first / last over seeds, as a factor." in text
