"""Tensors that are remembered by their memory."""

import pytest
import torch

from gradlab.probes.identity import Remembered


@pytest.mark.parametrize("how", ["put", "note"])
def test_values_stay_when_their_memory_is_used_again(how: str) -> None:
    memory = bytearray(16)
    remembered: Remembered[str] = Remembered()
    for value in ("first", "second"):
        # A storage of its own each time, at one address.
        getattr(remembered, how)(torch.frombuffer(memory, dtype=torch.float32), value)
    other = torch.frombuffer(memory, dtype=torch.float32)
    assert remembered.take(other) is None
    remembered.hold(other, "third")
    assert remembered.take(other) == "third"
    assert sorted(remembered.take_all()) == ["first", "second"]


@pytest.mark.parametrize("how", ["put", "note", "hold"])
def test_an_alias_is_the_same_tensor_until_it_is_changed(how: str) -> None:
    remembered: Remembered[str] = Remembered()
    first, second = torch.zeros(2, 3), torch.zeros(2, 3)
    getattr(remembered, how)(first, "first")
    getattr(remembered, how)(second, "second")
    second.add_(1)
    assert remembered.find(first.detach()) == "first"
    assert remembered.take(first.view(3, 2)) is None
    assert remembered.take(second) is None
    getattr(remembered, how)(second, "changed")
    assert remembered.take(second.view(2, 3)) == "changed"
    assert sorted(remembered.take_all()) == ["first", "second"]
