"""The order of passes on several streams, by a model of streams that knows which work each has waited for."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import nn

import gradlab as gl


class Stream:
    """A stream, and the passes that are over when it goes on."""

    current: Stream
    synchronized: list[Any]

    def __init__(self) -> None:
        self.over: set[int] = set()

    def wait_stream(self, other: Stream) -> None:
        self.over |= other.over


@pytest.fixture
def capturing(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Has one device with streams; its item says whether a CUDA graph is being captured."""
    Stream.current, flag = Stream(), [False]
    # Passes that are captured are not refused here.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: Stream.current)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: flag[0])
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: synchronized.append(device))
    synchronized: list[Any] = []
    monkeypatch.setattr(Stream, "synchronized", synchronized, raising=False)
    return flag


@pytest.mark.parametrize("kind", [gl.ResponseStd, gl.BlockSignal])
def test_each_pass_follows_the_one_before(kind: Any, capturing: list[bool]) -> None:
    passes = [0]

    def working(module: nn.Module, args: Any, output: Any) -> None:
        # Whatever the probe reads of earlier passes is whole.
        assert Stream.current.over >= set(range(passes[0]))
        Stream.current.over.add(passes[0])
        passes[0] += 1

    model, streams, choose = (
        nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)),
        [Stream() for _ in range(3)],
        random.Random(0),
    )
    used: set[Stream] = set()
    with torch.no_grad(), kind(model) as probe:
        model[1].register_forward_hook(working)
        for _ in range(20):
            Stream.current = choose.choice(streams)
            used.add(Stream.current)
            model(torch.ones(2, 3))
            # Memory that the pass has read and freed is only taken again behind it.
            assert all(stream.over >= set(range(passes[0])) for stream in used)
    assert len(used) == 3
    assert not Stream.synchronized
    Stream.current = Stream()
    probe.result()
    assert Stream.synchronized == [0]


def test_a_captured_stream_waits_for_no_other(capturing: list[bool]) -> None:
    model, aside = nn.Linear(3, 3), Stream()
    first = Stream.current
    with gl.ResponseStd(model):
        model(torch.ones(2, 3))
        first.over.add(0)
        Stream.current, capturing[0] = aside, True
        model.register_forward_hook(lambda *_: aside.over.add(1))
        model(torch.ones(2, 3))
    assert aside.over == {1}
    assert first.over == {0}
