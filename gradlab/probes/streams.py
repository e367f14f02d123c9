"""The order of what a probe does on several streams of a GPU, none of which waits for another by itself.

A pass on one stream may still be running when the next begins on another, or when the result is asked for on a third.
The model's passes need not know of each other, but the sums of a probe are read and written by all of them.
"""

from __future__ import annotations

import torch


class StreamOrder:
    """Has each pass follow the one before, on whichever streams they run; the host waits for neither.

    With a single stream there is nothing to do. A pass that a CUDA graph captures is refused elsewhere.
    """

    def __init__(self) -> None:
        # The streams of each device that have run a pass, the one of the last pass at the end.
        self._streams: dict[int, list[torch.cuda.Stream]] = {}

    def begin(self) -> None:
        """Let the current streams wait for those of the pass before."""
        for device, streams in self._streams.items():
            current = torch.cuda.current_stream(device)
            if streams and current != streams[-1] and not torch.cuda.is_current_stream_capturing():
                current.wait_stream(streams[-1])

    def end(self) -> None:
        """Let the other streams wait for the current ones, since memory of theirs may have been read, and is free."""
        if not torch.cuda.is_initialized():
            return
        for device in range(torch.cuda.device_count()):
            current = torch.cuda.current_stream(device)
            streams = self._streams.setdefault(device, [])
            if streams == [current] or torch.cuda.is_current_stream_capturing():
                continue
            others = [stream for stream in streams if stream != current]
            for stream in others:
                stream.wait_stream(current)
            self._streams[device] = [*others, current]


def wait_for_all(model: torch.nn.Module) -> None:
    """Wait for all streams of a model's GPUs, and of the current one, on some of which passes may still be running."""
    if torch.cuda.is_initialized():
        tensors = (*model.parameters(), *model.buffers())
        for device in {torch.cuda.current_device(), *(x.device.index for x in tensors if x.is_cuda)}:
            torch.cuda.synchronize(device)
