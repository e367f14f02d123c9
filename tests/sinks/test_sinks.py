"""What goes into a sink comes out of the library's own reader, offline."""

import json
import math
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

import gradlab as gl
from gradlab.sinks import sink_of

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
ROWS = [
    {"step": step, "layer": layer, "index": index, "block": "", "statistic": statistic, "value": value}
    for step in (0, 50)
    for layer, index, statistic, value in (
        ("conv1", 1, "grad_norm", 0.1 + step),
        ("layer1.0.conv1 (call 2)", 2, "response_std", 1e-30),
        ("total", 0, "loss", math.inf if step else 2.5),
        ("total", 0, "learning_rate[0]", math.nan),
    )
]
STEPS = [ROWS[:4], ROWS[4:]]


def fill(sink: Any) -> None:
    for rows in STEPS:
        sink.write(rows)
    if hasattr(sink, "close"):
        sink.close()


def expected(name: str = "gradlab/grad_norm/conv1") -> list[tuple[int, float]]:
    return [(row["step"], row["value"]) for row in ROWS if f"gradlab/{row['statistic']}/{row['layer']}" == name]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_files_are_read_back(suffix: str, tmp_path: Path) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / "new" / f"run.{suffix}"
    fill(sink_of(path))
    result = gl.DynamicsResult.load(path)
    columns = ["step", "layer", "index", "block", "statistic", "value"]
    texts = dict.fromkeys(("layer", "block", "statistic"), object)
    expected = pd.DataFrame(ROWS)[columns].astype(texts)
    pd.testing.assert_frame_equal(result.frame[columns].astype(texts), expected, check_dtype=False)
    assert result.networks == ["run"]
    assert [part.name for part in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_what_was_written_before_a_kill_is_whole(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"run.{suffix}"
    code = (
        "import os, signal, sys\nfrom gradlab.sinks import sink_of\n"
        f"rows = eval(sys.argv[1], {{'nan': float('nan'), 'inf': float('inf')}})\nsink = sink_of({str(path)!r})\n"
        "sink.write(rows[:4]); sink.write(rows[4:])\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, repr(ROWS)], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    with path.open("a") as file:
        # Half a line, as a full disk leaves it.
        file.write("100,conv1,1,,grad" if suffix == "csv" else '{"step": 100, "lay')
    assert gl.DynamicsResult.load(path).frame["value"].tolist() == pytest.approx(
        [row["value"] for row in ROWS], nan_ok=True
    )


def test_tensorboard_has_the_scalars(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    fill(gl.sinks.TensorBoard(tmp_path))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path))
    events.Reload()
    found = events.Scalars("gradlab/grad_norm/conv1")
    assert {event.step: event.value for event in found} == pytest.approx(dict(expected()))
    frame = gl.DynamicsResult.load(tmp_path).frame
    keys = ["step", "layer", "statistic"]
    back = frame.sort_values(keys)["value"].tolist()
    assert back == pytest.approx(pd.DataFrame(ROWS).sort_values(keys)["value"].tolist(), nan_ok=True)


def test_wandb_gets_a_history_with_a_step_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with pytest.raises(gl.UsageError, match=r"wandb\.init\(\)"):
        gl.sinks.WandB()
    run = wandb.init(mode="offline", dir=tmp_path, project="gradlab")
    sink = gl.sinks.WandB()
    run.log({"mine": 1.0})
    sink.write(STEPS[0])
    run.log({"mine": 2.0})
    sink.write(STEPS[1])
    run.finish()
    # The service writes on after that; this waits for its end.
    wandb.teardown()
    (file,) = tmp_path.rglob("run-*.wandb")
    history = list(histories(file))
    key = "gradlab/grad_norm/conv1"
    assert [(row["gradlab/step"], row[key]) for row in history if key in row] == expected()
    assert [row["mine"] for row in history if "mine" in row] == [1.0, 2.0]


def histories(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of history in wandb's file of an offline run: records in a log as LevelDB has them."""
    from wandb.proto import wandb_internal_pb2

    content, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        # A record that is whole, or the last part of one.
        if kind in (1, 4):
            record = wandb_internal_pb2.Record.FromString(parts)
            parts = b""
            if record.WhichOneof("record_type") == "history":
                yield {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}


def test_mlflow_has_the_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    # The store in files: that of a data base needs more than mlflow-skinny.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    with pytest.raises(gl.UsageError, match=r"mlflow\.start_run\(\)"):
        gl.sinks.MLflow()
    with mlflow.start_run() as run:
        fill(gl.sinks.MLflow())
    client = mlflow.MlflowClient()
    found = client.get_metric_history(run.info.run_id, "gradlab/grad_norm/conv1")
    assert [(metric.step, metric.value) for metric in found] == expected()
    other = client.get_metric_history(run.info.run_id, "gradlab/response_std/layer1.0.conv1 _call 2")
    assert [metric.value for metric in other] == [1e-30, 1e-30]


def test_trackio_has_the_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    trackio = pytest.importorskip("trackio")
    with pytest.raises(gl.UsageError, match=r"trackio\.init\(\)"):
        gl.sinks.Trackio(None)
    run = trackio.init(project="gradlab", name="one", embed=False)
    fill(gl.sinks.Trackio(run))
    trackio.finish()
    logs = trackio.sqlite_storage.SQLiteStorage.get_logs("gradlab", "one")
    key = "gradlab/grad_norm/conv1"
    assert [(row["step"], row[key]) for row in logs if key in row] == expected()


@pytest.mark.parametrize(
    ("sink", "library"),
    [
        (lambda path: gl.sinks.TensorBoard(path), "torch.utils.tensorboard"),
        (lambda path: gl.sinks.WandB(), "wandb"),
        (lambda path: gl.sinks.Trackio(None), "trackio"),
        (lambda path: gl.sinks.MLflow(), "mlflow"),
        (lambda path: sink_of(path / "run.parquet"), "pyarrow"),
    ],
)
def test_a_library_that_is_missing_is_named(
    sink: Any, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(gl.UsageError, match=f"{library.rpartition('.')[2]}.*pip install") as said:
        sink(tmp_path)
    (extra,) = re.findall(r"'gradlab-torch\[(\w+)\]'", str(said.value))
    assert extra in tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize(
    ("wrong", "words"), [(3, "write"), ("run.txt", r"ends in \.csv"), (gl, "not module"), ([], "not list")]
)
def test_what_is_no_sink_is_refused(wrong: object, words: str) -> None:
    with pytest.raises(gl.UsageError, match=words):
        sink_of(wrong)  # type: ignore[arg-type]


def test_a_watch_writes_files_and_closes_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    paths = [tmp_path / "run.csv", str(tmp_path / "run.jsonl")]
    with gl.watch(model, optimizer, every=2, sinks=paths) as watch:
        for _ in range(4):
            model(torch.randn(5, 3)).square().mean().backward()
            optimizer.step()
    columns = ["step", "layer", "index", "block", "statistic", "value"]
    for path in paths:
        assert gl.DynamicsResult.load(path).frame[columns].equals(watch.result().frame[columns])


def test_runs_that_were_recorded_elsewhere_are_joined(tmp_path: Path) -> None:
    paths = [tmp_path / "one.csv", tmp_path / "other.jsonl"]
    for path in paths:
        fill(sink_of(path))
    result = gl.dynamics(paths)
    assert result.networks == ["one", "other"]
    assert result.record["device"] == "not recorded"
    assert {finding.partition(":")[0] for finding in result.findings()} == {"one", "other"}
