"""Tensors that are remembered by their memory."""

import torch

from gradlab.probes.identity import Remembered


def test_values_stay_when_their_memory_is_used_again() -> None:
    memory = bytearray(16)
    remembered: Remembered[str] = Remembered()
    for value in ("first", "second"):
        # A storage of its own each time, at one address.
        remembered.put(torch.frombuffer(memory, dtype=torch.float32), value)
    other = torch.frombuffer(memory, dtype=torch.float32)
    assert remembered.take(other) is None
    remembered.hold(other, "third")
    assert remembered.take(other) == "third"
    assert sorted(remembered.take_all()) == ["first", "second"]
