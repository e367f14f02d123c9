"""Data sets and normalization."""

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gradlab as gl
from gradlab.data.datasets import load_dataset
from gradlab.errors import GradlabError, UsageError
from gradlab.normalization import Normalization, split_specs


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "mine.npz"
    arrays = {
        f"x_{part}": rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8) for part, n in (("test", 7), ("train", 5))
    }
    np.savez(path, **arrays, y_test=np.arange(7) % 3, y_train=np.arange(5) % 3)
    return path


def test_the_sample_is_real_and_balanced() -> None:
    sample = load_dataset("cifar10-sample")
    assert sample.pixels.shape == (1000, 3, 32, 32)
    assert sample.pixels.dtype == torch.uint8
    assert torch.bincount(sample.labels).tolist() == [100] * 10
    # The first ten test images of CIFAR-10: cat, ship, ship, airplane, frog, frog, automobile, frog, cat, automobile.
    assert sample.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    indices = json.loads((files("gradlab.assets") / "cifar10-sample.json").read_text())["test_indices"]
    assert indices == sorted(indices)
    # Natural images: neighbouring pixels are alike.
    x = sample.pixels.double()
    shifted = torch.corrcoef(torch.stack([x[..., 1:].flatten(), x[..., :-1].flatten()]))[0, 1]
    assert shifted > 0.9


def test_batches_cover_the_data_once() -> None:
    stream = gl.batches("cifar10-sample", 128, images=300)
    parts = list(stream)
    assert [len(x) for x, _ in parts] == [128, 128, 44]
    assert len(stream) == 3
    pixels = load_dataset("cifar10-sample").pixels[:300].numpy()
    mean, std = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2470, 0.2435, 0.2616])
    expected = (pixels / 255 - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(torch.cat([x for x, _ in parts]), expected, atol=2e-6)


def test_a_models_normalization_is_used() -> None:
    model = gl.build("resnet8@init")
    model.normalization = Normalization("0.5/0.25")
    x, _ = next(iter(gl.batches(batch_size=2, model=model)))
    raw = load_dataset("cifar10-sample").pixels[:2]
    assert torch.equal(x, (raw.float() / 255 - 0.5) / 0.25)
    x, _ = next(iter(gl.batches(batch_size=2, model=model, normalize="none:255")))
    assert torch.equal(x, raw.float())


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("none", lambda x: x / 255),
        ("none:255", lambda x: x),
        ("0.5", lambda x: x / 255 - 0.5),
        ("127.5/127.5:255", lambda x: (x - 127.5) / 127.5),
        (
            "0,0.5,1/1,2,4",
            lambda x: (x / 255 - np.array([0, 0.5, 1])[:, None, None]) / np.array([1, 2, 4])[:, None, None],
        ),
        ("0,0.5,1/2", lambda x: (x / 255 - np.array([0, 0.5, 1])[:, None, None]) / 2),
        (
            "imagenet",
            lambda x: (
                (x / 255 - np.array([0.485, 0.456, 0.406])[:, None, None])
                / np.array([0.229, 0.224, 0.225])[:, None, None]
            ),
        ),
    ],
)
def test_normalizations(spec: str, expected: object) -> None:
    x = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(Normalization(spec)(x), expected(x.double().numpy()), rtol=1e-5, atol=1e-5)
    floats = x.double() / 255
    np.testing.assert_allclose(Normalization(spec)(floats), expected(x.double().numpy()), rtol=1e-6, atol=1e-5)


def test_mean_image_is_that_of_the_training_set() -> None:
    zero = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    mean = -Normalization("mean-image:255")(zero)[0]
    # The published channel means of the training set, on the 0 to 255 scale.
    np.testing.assert_allclose(mean.mean((1, 2)), np.array([0.49139968, 0.48215841, 0.44653091]) * 255, rtol=1e-6)
    assert torch.allclose(-Normalization("mean-image")(zero)[0] * 255, mean, rtol=1e-6)


@pytest.mark.parametrize("spec", ["imagnet", "", "1/0", "1e400", "0.5/-1", "1,2/1,2,3", "0.5/x", "mean-image:256"])
def test_normalizations_that_are_none(spec: str) -> None:
    with pytest.raises(UsageError, match="normalization"):
        Normalization(spec)


def test_a_normalization_that_does_not_fit_the_images() -> None:
    with pytest.raises(GradlabError, match=r"for images of shape \(3, 32, 32\), not \(3, 8, 8\)"):
        Normalization("mean-image")(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def test_lists_of_normalizations() -> None:
    assert split_specs(["imagenet,mean-image:255"]) == ["imagenet", "mean-image:255"]
    assert split_specs(["imagenet,0.5,0.5,0.5/0.2,0.2,0.2,none"]) == ["imagenet", "0.5,0.5,0.5/0.2,0.2,0.2", "none"]
    assert split_specs(["0.5/0.5:255", "none"]) == ["0.5/0.5:255", "none"]


def test_npz(npz: Path) -> None:
    with np.load(npz) as arrays:
        expected = arrays["x_test"]
    x, y = next(iter(gl.batches(str(npz), 7, normalize="none:255")))
    assert np.array_equal(x, expected.transpose(0, 3, 1, 2))
    assert y.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert len(load_dataset(f"{npz}:train")) == 5


def test_floats_of_any_precision_become_single(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", x_test=np.full((2, 3, 8, 8), 0.5), y_test=np.array([[1], [2]]))
    x, y = next(iter(gl.batches(f"{tmp_path}/f.npz", 2, normalize="0.25/0.5")))
    assert x.dtype == torch.float32
    assert (x == 0.5).all()
    assert y.tolist() == [1, 2]


def test_cifar10_is_found_where_the_variable_says(npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npz.rename(npz.parent / "cifar10.npz")
    monkeypatch.setenv("GRADLAB_DATA", str(npz.parent))
    assert len(load_dataset("cifar10")) == 7
    assert len(load_dataset("cifar10-train")) == 5


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_without_network_the_error_says_what_to_put_where(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADLAB_DATA", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: (_ for _ in ()).throw(OSError("no route to host")))
    with pytest.raises(GradlabError, match=rf"{name} is not in .*put {name}\.npz there"):
        load_dataset(name)


@pytest.mark.parametrize("labelled", [True, False])
def test_image_folders(labelled: bool, tmp_path: Path) -> None:
    for i, name in enumerate(["cat", "cat", "dog"]):
        folder = tmp_path / name if labelled else tmp_path
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (50, 40), (10 * i, 0, 0)).save(folder / f"{i}.png")
    stream = gl.batches(f"imagefolder:{tmp_path}", 2, normalize="none:255")
    (first, labels), (last, _) = stream
    assert first.shape == (2, 3, 32, 32)
    assert [x.item() for x in torch.cat([first, last])[:, 0, 0, 0]] == [0, 10, 20]
    assert labels is None if not labelled else labels.tolist() == [0, 0]


def test_the_largest_label_is_that_of_the_items_asked_for(npz: Path, tmp_path: Path) -> None:
    for i, name in enumerate(["cat", "dog", "emu"]):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / name / f"{i}.png")
    (tmp_path / "text").write_bytes(bytes(range(120)))
    for data, count, size in [
        (str(npz), 2, ()),
        (f"imagefolder:{tmp_path}/images", 2, (3, 8, 8)),
        (f"text:{tmp_path}/text", 2, (8,)),
    ]:
        dataset = load_dataset(data, shape=size[-1:] or None)
        _, labels = dataset.read(0, count, size)
        assert labels is not None
        assert dataset.largest_label(count) == labels.max() < dataset.largest_label(len(dataset))
    assert load_dataset("tokens", vocabulary=50).largest_label(3) == 49
    assert {load_dataset(name).largest_label(3) for name in ("noise", "boxes")} == {None}


def test_noise_does_not_depend_on_the_batches() -> None:
    whole, _ = next(iter(gl.batches("noise", 12, images=12, seed=1)))
    parts = torch.cat([x for x, _ in gl.batches("noise", 5, images=12, seed=1)])
    assert torch.equal(whole, parts)
    assert abs(whole.std() - 1) < 0.02
    assert not torch.equal(whole, next(iter(gl.batches("noise", 12, images=12, seed=2)))[0])


@pytest.mark.parametrize(
    ("data", "images", "message"),
    [
        ("cifar11", None, "unknown data 'cifar11'"),
        ("cifar10-sample", 0, "images must be from 1 to 1,000"),
        ("cifar10-sample", 1001, "images must be from 1 to 1,000"),
        ("missing.npz", None, "does not exist"),
        ("imagefolder:/no/such/folder", None, "is not a folder"),
    ],
)
def test_requests_that_cannot_be_meant(data: str, images: int | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        gl.batches(data, images=images)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({"a": 1, "b": 0, "c": 1}, "the folder b holds no images"),
        ({"a": 1, ".ipynb_checkpoints": 1}, "the hidden folder .ipynb_checkpoints holds images"),
    ],
)
def test_folders_that_would_shift_the_numbers_of_classes(folders: dict[str, int], message: str, tmp_path: Path) -> None:
    for name, images in folders.items():
        (tmp_path / name).mkdir()
        for number in range(images):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{number}.png")
    with pytest.raises(GradlabError, match=message):
        gl.batches(f"imagefolder:{tmp_path}")


@pytest.mark.parametrize("name", ["b/moving.gif", "b/photo.HEIC", "b/c/old.jfif"])
def test_images_that_are_not_read_are_not_left_out_in_silence(name: str, tmp_path: Path) -> None:
    for place in ("a", "b/c"):
        (tmp_path / place).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / place / "0.png")
    (tmp_path / "labels.txt").touch()
    assert len(gl.batches(f"imagefolder:{tmp_path}").dataset) == 2
    (tmp_path / name).touch()
    with pytest.raises(GradlabError, match=rf"{name} is an image of a kind that is not read .*: convert or remove it"):
        gl.batches(f"imagefolder:{tmp_path}")


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(GradlabError, match="holds no images"):
        gl.batches(f"imagefolder:{tmp_path}")
    (tmp_path / "photo.heic").touch()
    with pytest.raises(GradlabError, match=r"photo\.heic is an image of a kind that is not read"):
        gl.batches(f"imagefolder:{tmp_path}")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros(3)}, "no array x_test; it has images"),
        ({"x_test": np.zeros((3, 8, 8), np.uint8)}, "expected images"),
        ({"x_test": np.zeros((3, 8, 8, 3), np.int32)}, "expected uint8"),
        ({"x_test": np.zeros((0, 8, 8, 3), np.uint8)}, "holds no images"),
        ({"x_test": np.zeros((3, 8, 8, 3), np.uint8), "y_test": np.zeros(2)}, r"expected \(3,\)"),
        ({"x_test": np.full((3, 8, 8, 3), 200.0)}, "beyond 0 to 1"),
        ({"x_test": np.linspace(-1, 1, 192).reshape(1, 8, 8, 3)}, "as they are before their normalization"),
        ({"x_test": np.full((3, 8, 8, 3), np.inf)}, "beyond 0 to 1"),
        ({"x_test": np.where(np.arange(192) == 7, np.nan, 0.5).reshape(1, 8, 8, 3)}, "holds NaN"),
        ({"x_test": np.zeros((3, 8, 8, 3), np.uint8), "y_test": np.array([0, -1, 2])}, "class numbers from 0"),
        ({"x_test": np.array([{}])}, "not a whole .npz file of numeric arrays"),
    ],
)
def test_arrays_that_are_no_images(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    with pytest.raises(GradlabError, match=message):
        load_dataset(str(path))


def test_a_truncated_npz(npz: Path) -> None:
    npz.write_bytes(npz.read_bytes()[:300])
    with pytest.raises(GradlabError, match=r"not a whole \.npz file"):
        load_dataset(str(npz))


@pytest.mark.parametrize("spec", ["imagenet", "cifar10:255", "mean-image", "0.3,0.4,0.5/0.2"])
def test_normalization_in_float64(spec: str) -> None:
    """In float64 throughout: float32 of it is what float32 gives, to its own precision."""
    stream = gl.batches("cifar10-sample", 4, images=4, normalize=spec)
    single, double = next(iter(stream))[0], next(iter(replace(stream, dtype=torch.float64)))[0]
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, rtol=2e-6, atol=2e-6)
    if spec == "imagenet":
        pixels, _ = stream.dataset.read(0, 4, (3, 32, 32))
        mean, std = ([[[v]] for v in values] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        expected = (pixels.numpy() / 255 - np.array(mean)) / np.array(std)
        np.testing.assert_allclose(double.numpy(), expected, rtol=1e-14, atol=1e-14)
