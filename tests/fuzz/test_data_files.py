"""Data that lies is refused in a sentence, in bounded time and memory; what only looks odd is read as it is."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gradlab as gl
from fuzz.data_files import DATA, images
from fuzz.limits import refusal
from gradlab.data.datasets import load_dataset


@pytest.mark.parametrize("name", DATA)
def test_it_is_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    asked, expected = DATA[name](tmp_path)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert expected in refusal(lambda: list(gl.batches(asked)), size)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_greys_keep_their_scale(suffix: str, tmp_path: Path) -> None:
    grey = np.linspace(0, 65535, 32 * 32, dtype=np.uint16).reshape(32, 32)
    Image.fromarray(grey).save(tmp_path / f"a.{suffix}")
    pixels, _ = load_dataset(f"imagefolder:{tmp_path}").read(0, 1, (3, 32, 32))
    expected = np.round(grey / 257).astype(np.uint8)
    for channel in pixels[0]:
        np.testing.assert_array_equal(channel, expected)


def test_images_are_read_as_torchvision_reads_them(tmp_path: Path) -> None:
    from torchvision.datasets.folder import default_loader
    from torchvision.transforms.functional import pil_to_tensor

    picture = Image.fromarray(images()[0])
    kinds = {"rgb.png": "RGB", "grey.png": "L", "palette.png": "P", "alpha.png": "RGBA", "bit.png": "1"}
    kinds |= {"cmyk.jpg": "CMYK", "grey.jpg": "L", "rgb.webp": "RGB", "rgb.bmp": "RGB", "rgb.ppm": "RGB"}
    for name, mode in kinds.items():
        path = tmp_path / name
        picture.convert(mode).save(path)
        pixels, _ = load_dataset(f"imagefolder:{tmp_path}").read(0, 1, (3, 32, 32))
        assert torch.equal(pixels[0], pil_to_tensor(default_loader(str(path)))), name
        path.unlink()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["uint8", "float16", ">f4", "float64"])
def test_arrays_are_read_as_numpy_reads_them(packed: bool, order: str, dtype: str, tmp_path: Path) -> None:
    x = images(700) if dtype == "uint8" else (images(700) / 255).astype(dtype)
    y = np.arange(700, dtype=">i2")[:, None] % 7
    (np.savez_compressed if packed else np.savez)(tmp_path / "d.npz", x_test=np.asarray(x, order=order), y_test=y)
    found = load_dataset(str(tmp_path / "d.npz"))
    expected = np.moveaxis(x if dtype == "uint8" else x.astype(np.float32), 3, 1)
    np.testing.assert_array_equal(found.pixels.numpy(), expected)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(found.labels.numpy(), y[:, 0])  # type: ignore[attr-defined]
