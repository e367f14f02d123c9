"""Checkpoints that lie, made by code: each a function from a path to what is to be said of the file there."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gradlab.models import create

Maker = Callable[[Path], str]
FILES: dict[str, Maker] = {}


def file(maker: Maker) -> Maker:
    FILES[maker.__name__] = maker
    return maker


def state() -> dict[str, Any]:
    return dict(create("resnet8").state_dict())


def repacked(path: Path, change: Callable[[str, bytes], bytes | None], packing: int = zipfile.ZIP_STORED) -> None:
    """Change the members of an archive."""
    members = {info.filename: zipfile.ZipFile(path).read(info) for info in zipfile.ZipFile(path).infolist()}
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, content in members.items():
            if (new := change(name, content)) is not None:
                archive.writestr(name, new)


def pickled(path: Path, content: bytes) -> None:
    """An archive of torch's with another pickle."""
    torch.save({"w": torch.ones(4, 4)}, path)
    repacked(path, lambda name, old: content if name.endswith("data.pkl") else old)


@file
def stride_zero(path: Path) -> str:
    torch.save({**state(), "fc.weight": torch.ones(1, 1).expand(30_000_000, 64)}, path)
    return "has 7,680,000,000 bytes and stores 4"


@file
def stride_zero_old_format(path: Path) -> str:
    torch.save({**state(), "fc.weight": torch.ones(1).expand(10**8)}, path, _use_new_zipfile_serialization=False)
    return "has 400,000,000 bytes and stores 4"


@file
def overlapping_strides(path: Path) -> str:
    torch.save({**state(), "fc.weight": torch.ones(50_000).as_strided((25_000, 25_000), (1, 1))}, path)
    return "save it with .contiguous"


@file
def many_small_expanded(path: Path) -> str:
    torch.save({f"w{i}": torch.ones(1).expand(10**6) for i in range(400)}, path)
    return "save it with .contiguous"


@file
def classes_of_a_bias_alone(path: Path) -> str:
    kept = {k: v for k, v in state().items() if k != "fc.weight"}
    torch.save({**kept, "fc.bias": torch.zeros(1, dtype=torch.int8).expand(30_000_000)}, path)
    return "lacks fc.weight"


@file
def deflated(path: Path) -> str:
    torch.save({**state(), "more": torch.zeros(20_000_000)}, path)
    repacked(path, lambda name, content: content, zipfile.ZIP_DEFLATED)
    return "unpack to"


@file
def flipped_bit(path: Path) -> str:
    torch.save(state(), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    return "is not what its checksum says"


@file
def two_of_a_name(path: Path) -> str:
    torch.save(state(), path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(archive.infolist()[0].filename, b"other")
    return "have the same name"


@file
def storage_longer_than_stored(path: Path) -> str:
    torch.save({"w": torch.ones(4)}, path)
    longer = {b"K\x04t": b"M\x00\x40t", b"K\x04\x85": b"M\x00\x40\x85"}

    def change(name: str, content: bytes) -> bytes:
        for old, new in longer.items() if name.endswith("data.pkl") else ():
            content = content.replace(old, new)
        return content

    repacked(path, change)
    return "says 65,536 bytes of a storage of 16"


@file
def storage_that_is_missing(path: Path) -> str:
    torch.save(state(), path)
    repacked(path, lambda name, content: None if name.endswith("data/3") else content)
    return "bytes of a storage of 0"


@file
def bytes_by_number(path: Path) -> str:
    pickled(path, b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\xe4\x0b\x54\x02\x85R.")
    return "asks for bytes that it does not hold"


@file
def tensor_by_number(path: Path) -> str:
    pickled(path, b"\x80\x02ctorch\nTensor\nM\xff\xffM\xff\xff\x86R.")
    return "asks for a tensor that it does not hold"


@file
def text_doubled_again_and_again(path: Path) -> str:
    grow = b"X\x03\x00\x00\x00hex\x86R"
    pickled(path, b"\x80\x02c_codecs\nencode\nq\x00" + b"h\x00" * 40 + b"C\x02ab" + grow * 40 + b".")
    return "encoding that is none of text"


@file
def a_million_lists(path: Path) -> str:
    pickled(path, b"\x80\x02]" + b"]a" * 600_000 + b".")
    return "more than 500,000 entries"


@file
def lists_of_one_list(path: Path) -> str:
    content: object = [torch.ones(2, 2)]
    for _ in range(6):
        content = [content] * 300
    torch.save({"state": content}, path)
    return "entries within one another"


@file
def long_name(path: Path) -> str:
    torch.save({"a." * 100_000 + "weight": torch.ones(2, 2)}, path)
    return "a name of 200,006 characters"


@file
def deep_pickle(path: Path) -> str:
    pickled(path, b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b".")
    return "holds no state dict"


@file
def wrong_pickle_types(path: Path) -> str:
    pickled(path, b"\x80\x02K\x01K\x02s.")
    return "damaged"


@file
def empty_pickle(path: Path) -> str:
    pickled(path, b"\x80\x02.")
    return "damaged"


@file
def newer_pickle(path: Path) -> str:
    path.write_bytes(pickle.dumps({"a": 1}, protocol=4))
    return "could run code"


@file
def function_call(path: Path) -> str:
    pickled(path, b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.")
    return "which can run code"


@file
def long_function_name(path: Path) -> str:
    pickled(path, b"\x80\x02cos\n" + b"system" * 5000 + b"\nX\x04\x00\x00\x00true\x85R.")
    return "asks for something with a name of 30,003 characters"


@file
def other_zip(path: Path) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    return "that torch.save did not write"


@file
def torchscript(path: Path) -> str:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), str(path))
    return "is a TorchScript archive: save the state_dict()"


@file
def sparse(path: Path) -> str:
    torch.save({**state(), "fc.weight": torch.eye(64)[:10].to_sparse()}, path)
    return "fc.weight is of layout sparse_coo"


@file
def compressed_sparse(path: Path) -> str:
    torch.save({**state(), "fc.weight": torch.eye(64)[:10].to_sparse_csr()}, path)
    return "fc.weight is of layout sparse_csr"


@file
def quantized(path: Path) -> str:
    torch.save({**state(), "fc.weight": torch.quantize_per_tensor(torch.ones(10, 64), 0.1, 0, torch.qint8)}, path)
    return "fc.weight is quantized"


@file
def meta(path: Path) -> str:
    torch.save({**state(), "fc.weight": torch.empty(10, 64, device="meta")}, path)
    return "on the meta device, without values"


@file
def nested(path: Path) -> str:
    torch.save({**state(), "fc.weight": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])}, path)
    return "nested"


@file
def text(path: Path) -> str:
    path.write_text("hello", encoding="utf-8")
    return "no checkpoint"


def _safetensors(path: Path, header: bytes, data: bytes = b"") -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


@file
def safetensors_longer_than_stored(path: Path) -> str:
    entry = {"dtype": "F32", "shape": [30_000_000, 64], "data_offsets": [0, 7_680_000_000]}
    _safetensors(path.with_suffix(".safetensors"), json.dumps({"fc.weight": entry}).encode())
    return "damaged or no safetensors file"


@file
def safetensors_deep_record(path: Path) -> str:
    header = {"__metadata__": {"gradlab": "[" * 100_000}, "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    _safetensors(path.with_suffix(".safetensors"), json.dumps(header).encode(), bytes(4))
    return "damaged or no safetensors file"


@file
def safetensors_long_number(path: Path) -> str:
    header = {"__metadata__": {"gradlab": "9" * 10_000}, "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    _safetensors(path.with_suffix(".safetensors"), json.dumps(header).encode(), bytes(4))
    return "damaged or no safetensors file"


@file
def safetensors_huge_header(path: Path) -> str:
    path.with_suffix(".safetensors").write_bytes(struct.pack("<Q", 2**63) + b"{}")
    return "damaged or no safetensors file"


def whole(old_format: bool = False) -> bytes:
    """A good checkpoint, to be damaged."""
    buffer = io.BytesIO()
    torch.save({"state_dict": state(), "epoch": 3}, buffer, _use_new_zipfile_serialization=not old_format)
    return buffer.getvalue()
