"""Dynamics of runs: reading, joining, drawing and the command, on runs written by hand without training."""

import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import typer.main
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from rich.console import Console

import gradlab as gl
from gradlab.cli import app
from gradlab.cli.live import LiveView, gradient_strip
from gradlab.results.dynamics.figure import dynamics_figure
from gradlab.training import Status

LAYERS = ("conv1", "layer1.0.conv1", "fc")


def write_run(folder: Path, network: str, scale: float = 1.0, steps: tuple[int, ...] = (0, 100, 200)) -> Path:
    """A run of 300 steps in which layer i has the gradient norm scale · 10^i / (1 + s) and std 1 + s at step s."""
    folder.mkdir(parents=True)
    lines = ["step,layer,statistic,value"]
    for step in steps:
        lines += [f"{step},{layer},response_std,{1 + step}" for layer in LAYERS[:2]]
        lines += [f"{step},{layer},grad_norm,{scale * 10**place / (1 + step)}" for place, layer in enumerate(LAYERS)]
    (folder / "dynamics.csv").write_text("\n".join(lines) + "\n")
    metrics = "step,epoch,learning_rate,train_loss,train_error,test_loss,test_error\n"
    (folder / "metrics.csv").write_text(f"{metrics}100,1,0.1,2,0.8,2,0.7\n200,2,0.1,1,0.4,1,0.5\n")
    options = {"data": "cifar10", "seed": 0, "recipe": {"batch_size": 128}}
    record = {"network": network, "options": options, "steps": 300, "complete": False, "recipe": "r", "device": "cpu"}
    (folder / "record.json").write_text(json.dumps(record))
    return folder


def test_a_run_is_read_while_it_trains(tmp_path: Path) -> None:
    result = gl.DynamicsResult.load(write_run(tmp_path / "plain8", "plain8"))
    rows = result.frame[result.frame["statistic"] == "grad_norm"]
    assert rows["index"].tolist() == [1, 2, 3] * 3
    assert result.notes == ["plain8: not finished; 200 of 300 steps are in the table"]
    summary = result.summary().set_index("statistic")
    assert summary.loc["grad_norm", "largest"] == pytest.approx(100 / 201)
    assert summary.loc["response_std", ["steps", "last step", "median"]].tolist() == [3, 200, 201]
    (said,) = [line for line in result.findings() if "gradient" in line]
    assert "by a factor 100 at step 0 and 100 at step 200 (smallest in conv1, largest in fc)" in said


def test_runs_of_one_network_are_distinguished_by_their_folders(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, "plain8") for name in ("first", "second")]
    assert gl.dynamics(runs).networks == ["first", "second"]
    assert set(gl.dynamics(runs).errors["network"]) == {"first", "second"}
    with pytest.raises(gl.UsageError, match="told apart"):
        gl.dynamics([runs[0], runs[0]])


def test_colours_have_the_same_meaning_in_every_column(tmp_path: Path) -> None:
    steps = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)
    runs = [write_run(tmp_path / n, n, s, steps) for n, s in (("plain8", 1.0), ("resnet8", 50.0))]
    result = gl.dynamics(runs)
    figure = dynamics_figure(result.frame, result.errors, ("grad_norm", "response_std"), Figure())
    left, right, std_left, std_right = (ax.collections[0] for ax in figure.axes[:4])
    assert isinstance(left.norm, LogNorm)
    assert left.get_clim() == right.get_clim()
    assert std_left.get_clim() == std_right.get_clim()
    assert right.get_array().max() == pytest.approx(5000)
    assert {ax.get_xscale() for ax in figure.axes[:6]} == {"symlog"}
    assert figure.axes[4].get_xlim() == figure.axes[0].get_xlim()
    linear = gl.dynamics(write_run(tmp_path / "even", "plain8")).figure()
    assert linear.axes[0].get_xscale() == "linear"


def test_the_command_writes_a_result_that_loads(
    gradlab_command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    write_run(tmp_path / "runs" / "plain8", "plain8")
    write_run(tmp_path / "runs" / "resnet8", "resnet8", 50.0)
    done = gradlab_command("dynamics", "runs/plain8", "runs/resnet8", "--format", "png")
    assert done.returncode == 0, done.stderr
    loaded = gl.DynamicsResult.load(tmp_path / "results" / "dynamics")
    assert loaded.networks == ["plain8", "resnet8"]
    assert len(loaded.errors) == 4
    assert (tmp_path / "results" / "dynamics" / "dynamics.png").stat().st_size > 10_000


def test_bad_runs(tmp_path: Path) -> None:
    run = write_run(tmp_path / "plain8", "plain8")
    with pytest.raises(gl.UsageError, match="is a run's folder"):
        gl.dynamics(run).save(run)
    with pytest.raises(gl.GradlabError, match=r"holds no training: .*record.json: No such file"):
        gl.dynamics(tmp_path)
    result = gl.dynamics(run)
    result.drawn = ("relative",)
    with pytest.raises(gl.UsageError, match="relative was not recorded; there is grad_norm, response_std"):
        result.figure()
    (run / "dynamics.csv").unlink()
    with pytest.raises(gl.GradlabError, match=r"nothing was recorded.*--record"):
        gl.dynamics(run)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["step,layer,statistic,value", "0,a,grad_norm,1,9", "1,a,grad_norm,1,9"], "more values than its header"),
        (["step,layer,statistic,value", "-3,a,grad_norm,1"], "step -3 is before the first"),
        (["step,layer,statistic,value", '0,a,grad_norm,"0,5"'], "column value must contain numbers"),
        (["step,layer,statistic,value", "0,,grad_norm,1"], "lacks a value in column layer"),
        (["step,layer,statistic,value", "0,a,grad_norm,1", "step,layer,statistic,value"], "column step must contain"),
    ],
)
def test_damaged_records_are_refused(tmp_path: Path, lines: list[str], said: str) -> None:
    path = tmp_path / "own.csv"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(gl.GradlabError, match=rf"own\.csv .*{said}"):
        gl.dynamics(path)


@pytest.mark.parametrize("line", ["[1]", "3", '{"step": 0, "layer": ["a"], "statistic": "grad_norm", "value": 1}'])
def test_lines_of_json_that_are_no_rows_are_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(gl.GradlabError, match=r"own\.jsonl is no table of dynamics: its lines are not all objects"):
        gl.dynamics(path)


def test_of_a_step_recorded_twice_the_last_record_counts_everywhere(tmp_path: Path) -> None:
    """A training that went on from step 100 records its steps again, perhaps with other values."""
    header, *once = (write_run(tmp_path / "once", "plain8") / "dynamics.csv").read_text().splitlines()
    again = [line.rpartition(",")[0] + ",7" for line in once if line.startswith("200,")]
    path = write_run(tmp_path / "run", "plain8") / "dynamics.csv"
    path.write_text("\n".join([header, *once[:-5], *again, *once[-5:]]) + "\n")
    twice, expected = gl.dynamics(path.parent), gl.dynamics(tmp_path / "once")
    assert twice.summary().equals(expected.summary())
    assert twice.findings() == expected.findings()


def test_layers_may_have_the_names_of_missing_values(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("step,layer,statistic,value\n0,null,grad_norm,1\n0,NA,grad_norm,nan\n0,nan,grad_norm,-inf\n")
    frame = gl.dynamics(path).frame
    assert frame["layer"].tolist() == ["null", "NA", "nan"]
    assert [str(value) for value in frame["value"]] == ["1.0", "nan", "-inf"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("200,2,0.1,1,0.4,1,0.5\n100,1,0.1,2,0.8,2,0.7\n", "its steps do not increase"),
        ("100,1,0.1,2,0.8,2,0.7\n100,1,0.1,2,0.8,2,0.7\n", "its steps do not increase"),
        ("100,1,0.1,2,80,2,0.7\n", "column train_error must contain fractions from 0 to 1"),
        ("100,1,0.1,2,0.8,2,-0.7\n", "column test_error must contain fractions from 0 to 1"),
        ("100,1,0.1,2,0.8,2,0.7,1\n", "its lines have more values than its header"),
    ],
)
def test_damaged_metrics_are_refused(tmp_path: Path, rows: str, said: str) -> None:
    run = write_run(tmp_path / "plain8", "plain8")
    header = (run / "metrics.csv").read_text().splitlines()[0]
    (run / "metrics.csv").write_text(f"{header}\n{rows}")
    with pytest.raises(gl.GradlabError, match=rf"metrics\.csv .*{said}"):
        gl.dynamics(run)


def test_the_strip_shows_gradients_on_a_log_scale() -> None:
    norms = {f"layer{i}": 10.0**i for i in range(8)} | {"dead": 0.0}
    rows = [{"step": 7, "layer": name, "statistic": "grad_norm", "value": norm} for name, norm in norms.items()]
    title, strip, ends = gradient_strip([{"step": 7, "layer": "x", "statistic": "response_std", "value": 1.0}, *rows])
    assert strip.plain == "▁▂▃▄▅▆▇█×"
    assert ends.plain == "lowest 1 in layer0, highest 1e+07 in layer7; 1 exactly 0"
    assert title.plain == "gradient norms of 9 layers at step 7, log scale"
    assert list(gradient_strip([])) == []


@pytest.mark.parametrize("width", [80, 120])
def test_the_live_view_fits_its_terminal(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    view = LiveView(console, batch_size=128)
    for step in range(12_000, 12_010):
        view.progress("resnet110", step, 64_000)
    rows = [{"step": 1, "layer": f"l{i}", "statistic": "grad_norm", "value": 1.0 + i} for i in range(110)]
    row = {"step": 1, "epoch": 31.4, "learning_rate": 0.1, "train_loss": 1.5, "train_error": 0.5}
    view.observe(Status(12_010, 64_000, 1.0, {**row, "test_loss": 1.0, "test_error": 0.25}, rows))
    console.print(view.render())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) == (6 if width == 120 else 7)
    assert "12009/64000" in lines[0]
    assert "error 25.00%" in text


def test_every_training_option_is_passed_through() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    train, grid = ({p.name for p in commands[name].params} for name in ("train", "degradation"))
    assert train - grid == {"network", "model", "resume"}
    assert {"depths", "families", "runs", "learning_rate", "record", "log"} <= grid


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train --model resnet8 --every often", "--every takes a number of steps or log, not 'often'"),
        ("train --model resnet8 --record weights", "what can be recorded is responses, activations, "),
        ("train --model resnet8 --record gradients --every 0", "from 1 on, or log; got 0"),
        ("train --model resnet8 --log wandb", "log is tensorboard, not 'wandb'"),
        ("degradation --depths deep", "'deep' is not one of the whole numbers"),
        ("degradation --families tower --depths 8", "tower8"),
        ("dynamics runs --statistic loss", "'loss' is not one of 'grad_norm', 'response_std', 'relative'"),
    ],
)
def test_bad_options_are_one_line(
    command: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        app(command.split())
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in said
    assert said.count("\n") == 1


def test_a_file_of_another_kind_is_an_invalid_request(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(gl.UsageError, match=r"notes.txt: dynamics are read from .csv, .jsonl, .parquet"):
        gl.dynamics(tmp_path / "notes.txt")
