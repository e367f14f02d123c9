"""The bundled weights: each is there with its record, and reaches what the record says."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open

import gradlab as gl
from gradlab.checkpoints import file_digest
from gradlab.experiments.zoo import add_to_zoo, error_rate
from gradlab.models import parse_name
from gradlab.zoo import zoo_folder, zoo_names, zoo_path, zoo_record

NAMES = zoo_names()


def test_every_file_has_its_record_and_every_record_its_file() -> None:
    assert NAMES
    assert list(zoo_record()) == NAMES


def test_the_zoo_is_small() -> None:
    assert sum(path.stat().st_size for path in zoo_folder().glob("*.safetensors")) < 17e6


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_network(name: str) -> None:
    path, entry = zoo_path(name), zoo_record()[name]
    assert path is not None
    assert file_digest(path) == entry["sha256"]
    with safe_open(path, framework="pt") as file:
        types = {key: file.get_tensor(key).dtype for key in file.keys()}  # noqa: SIM118
    model = gl.build(f"{name}@trained")
    parameters = {key for key, _ in model.named_parameters()}
    assert {str(types[key]) for key in parameters} == {"torch.float16"}
    assert {str(types[key]) for key in types if "running" in key} == {"torch.float32"}
    assert {parameter.dtype.itemsize for parameter in model.parameters()} == {4}
    assert str(model.normalization) == entry["normalization"]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.thorough) if parse_name(n).depth > 20 else n for n in NAMES]
)
def test_the_recorded_error_comes_out_again(name: str) -> None:
    # One image in a thousand may fall to the other side on another processor.
    assert error_rate(f"{name}@trained", "cifar10-sample", "cpu") == pytest.approx(
        zoo_record()[name]["errors"]["cifar10-sample"], abs=0.00101
    )


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("plain")])
def test_a_pair_has_equal_budgets(name: str) -> None:
    plain, residual = zoo_record()[name], zoo_record()[name.replace("plain", "resnet")]
    for key in ("preset", "epochs", "seed", "normalization", "arithmetic"):
        assert plain[key] == residual[key]


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(gl.UsageError, match="holds no finished training: the same gradlab train goes on"):
        add_to_zoo(tmp_path)


def test_the_command_lists_the_zoo(gradlab_command: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = gradlab_command("zoo")
    assert done.returncode == 0, done.stderr
    for name in NAMES:
        assert f"{zoo_record()[name]['errors']['cifar10']:.2%}" in done.stdout
    assert "not that of the record" not in done.stdout
    refused = gradlab_command("zoo", "--verify", "--data", "cifar100")
    assert (refused.returncode, refused.stdout) == (2, "")
