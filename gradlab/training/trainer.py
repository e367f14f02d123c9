"""The training loop, which is resumable bit for bit and rarely synchronizes with the device."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradlab.checkpoints.wording import reason
from gradlab.errors import GradlabError
from gradlab.probes.hooks import EAGERLY
from gradlab.results.training.result import COLUMNS
from gradlab.stats.precision import widest
from gradlab.training.arithmetic import Arithmetic
from gradlab.training.augmentation import EpochPlan
from gradlab.training.captured import CapturedPasses
from gradlab.training.compilation import compile_network
from gradlab.training.evaluation import answers, evaluate
from gradlab.training.images import Split
from gradlab.training.interruption import Interrupted, StopRequest
from gradlab.training.optimizer import make_optimizer, restore_optimizer
from gradlab.training.parallel import ALONE, Parallel
from gradlab.training.random_state import random_state, restore_random
from gradlab.training.recipe import Recipe
from gradlab.training.run_folder import METRICS, GrowingTable, RunFolder, on_host
from gradlab.training.saved import check_optimizer
from gradlab.transfer import uploaded

LOOK_EVERY = 100
"""Number of steps between two readings of the training loss, each of which synchronizes with the device."""


class Recorder(Protocol):
    """The interface of an object that records the network at some steps.

    Attributes:
        newest: The rows recorded last.
    """

    newest: Sequence[Mapping[str, Any]]

    def state(self) -> dict[str, int]:
        """Return the number of bytes of its tables so far, for a checkpoint."""


@dataclass(frozen=True)
class Status:
    """The status of a training run.

    Attributes:
        step: The number of completed optimizer steps.
        steps: The number of steps of the whole training.
        images_per_second: The rate since the last status.
        metrics: The newest row of `metrics.csv`.
        recorded: The newest rows of `dynamics.csv`, all of one step; empty if nothing is recorded.
    """

    step: int
    steps: int
    images_per_second: float
    metrics: dict[str, float]
    recorded: Sequence[Mapping[str, Any]] = ()


class Trainer:
    """The state of a training run: a network, its optimizer and the current step.

    Args:
        model: The initialized model, which is trained in place.
        recipe: The training recipe.
        split: The training and test images.
        arithmetic: The precision and device of the computation.
        seed: The seed of the order of images and of their crops, and of the global generators.
        depth: The number of weighted layers, which determines whether there is a warm-up.
        compiled: Whether to compile the model.
        parallel: The processes that share every batch.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        split: Split,
        arithmetic: Arithmetic,
        *,
        seed: int = 0,
        depth: int = 0,
        compiled: bool = False,
        parallel: Parallel = ALONE,
    ) -> None:
        self.recipe, self.arithmetic, self.seed, self.parallel = recipe, arithmetic, seed, parallel
        parallel.check_batch(recipe.batch_size)
        self.split = split.to(arithmetic.device)
        self.model = arithmetic.prepare(model).train()
        network = parallel.wrap(self.model, arithmetic.device)
        self.network = compile_network(network) if compiled else network
        self._tested = EAGERLY if compiled else nullcontext()
        self.optimizer = make_optimizer(recipe, self.model)
        self.steps = recipe.steps(len(split.train))
        self.epoch_steps = recipe.epoch_steps(len(split.train))
        self.step = 0
        self.warming_up = recipe.waits_for_error(depth)
        self._passes: Callable[[Tensor, Tensor], Tensor] = self._gradients
        # The loss and error rate of the steps since the last reading.
        self._window = torch.zeros(LOOK_EVERY, 2, device=arithmetic.device)
        self._filled = 0
        # Of how many of these steps the values are those of all ranks.
        self._summed = 0
        self._plan: tuple[int, EpochPlan] | None = None
        torch.manual_seed(parallel.seed(seed))

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return self.recipe.warm_up_rate if self.warming_up else self.recipe.learning_rate_at(self.step, self.steps)

    def run(
        self,
        folder: RunFolder,
        *,
        config: dict[str, Any],
        checkpoint_every: int = 500,
        test_every: int | None = None,
        recorder: Recorder | None = None,
        lengths: dict[str, int] | None = None,
        observe: Callable[[Status], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, float]:
        """Train to the end, or until asked to stop.

        Args:
            folder: The folder for the checkpoint and `metrics.csv`, which must have been entered.
            config: The description of the run that the checkpoint stores.
            checkpoint_every: The number of steps between checkpoints.
            test_every: The number of steps between tests; None means one epoch.
            recorder: An object that records the network at some steps.
            lengths: The number of bytes of the tables at the restored checkpoint.
            observe: A function that receives the status with every row of `metrics.csv`.
            progress: A function of the completed and the total number of steps, called at the start and after every
                step without synchronizing with the device.

        Returns:
            The last row of `metrics.csv`.

        Raises:
            GradlabError: If the loss is NaN or infinite; the last good checkpoint is kept.
            Interrupted: After SIGINT or SIGTERM, once the checkpoint is written.
        """
        lengths = dict(lengths or {})
        table: GrowingTable | None = None
        if self.parallel.is_first:
            table = GrowingTable(folder.path / METRICS, COLUMNS, lengths.get(METRICS, 0))
        test_every = test_every or self.epoch_steps
        if recorder is None and self.parallel.size == 1 and self.arithmetic.device.type == "cuda":
            # Hooks, of a recorder or of DistributedDataParallel, are not called again by a graph.
            self._passes = CapturedPasses(self._gradients)
        row: dict[str, float] = {}
        started, images_since = time.perf_counter(), 0
        try:
            with StopRequest() as stop:
                if progress is not None:
                    progress(self.step, self.steps)
                while self.step < self.steps:
                    self.advance()
                    images_since += self.recipe.batch_size
                    if progress is not None:
                        progress(self.step, self.steps)
                    tested = self.step % test_every == 0 or self.step == self.steps
                    if self._filled == LOOK_EVERY or tested:
                        row = self._look(tested)
                        if table is not None:
                            table.append([row])
                        if observe is not None:
                            rate = images_since / (time.perf_counter() - started)
                            recorded = () if recorder is None else recorder.newest
                            observe(Status(self.step, self.steps, rate, row, recorded))
                        started, images_since = time.perf_counter(), 0
                    stopped = self.parallel.agreed(stop.signal)
                    if self.step % checkpoint_every == 0 or self.step == self.steps or stopped is not None:
                        # Tables that are not recorded this time keep their lengths for a later resumption.
                        lengths |= {} if table is None else {METRICS: table.length}
                        lengths |= {} if recorder is None else recorder.state()
                        content = self._content(config, lengths)
                        self.parallel.first(partial(folder.save_checkpoint, content))
                    if stopped is not None and self.step < self.steps:
                        raise Interrupted(
                            f"stopped at step {self.step:,} of {self.steps:,}; the same command resumes from there",
                            stopped,
                        )
        finally:
            if table is not None:
                table.close()
        return row

    def advance(self) -> None:
        """Make one optimizer step."""
        if self._filled == LOOK_EVERY:
            self._filled = self._summed = 0
        self._forward_backward()
        self.optimizer.step()
        self.step += 1

    def restore(self, content: dict[str, Any]) -> None:
        """Resume from the content of a checkpoint, as if the run had not stopped.

        Raises:
            GradlabError: If the checkpoint does not match this network and optimizer.
        """
        try:
            check_optimizer(self.optimizer.state_dict(), content["optimizer"])
            self.model.load_state_dict(content["model"])
            restore_optimizer(self.optimizer, content["optimizer"])
            window = content["window"]
            self._filled = self._summed = len(window)
            self._window[: self._filled] = uploaded(window.to(self._window.dtype), self._window.device)
            states = [content["random"], *content["random"].get("others", [])]
            if self.parallel.rank < len(states):
                restore_random(states[self.parallel.rank], self.arithmetic.device)
        except Exception as error:  # torch may raise anything for a state that does not match
            raise GradlabError(f"the checkpoint is none of this training: {reason(error)}") from None
        self.step, self.warming_up = content["step"], content["warming_up"]

    def _forward_backward(self) -> None:
        epoch, place = divmod(self.step, self.epoch_steps)
        plan = self._epoch_plan(epoch)
        size = self.recipe.batch_size
        chosen = self.parallel.share(slice(place * size, (place + 1) * size))
        # Ranks whose shares differ count by their examples in the mean over all of them.
        share = (chosen.stop - chosen.start) / size
        images, labels = self.split.train.training_batch(plan, chosen, self.recipe.padding)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        with self.arithmetic.precision():
            self._window[self._filled] = self._passes(self.arithmetic.layout(images), labels) * share
        self._filled += 1

    def _gradients(self, images: Tensor, labels: Tensor) -> Tensor:
        """Leave the gradients of a batch in the parameters, and return its loss and error rate."""
        with self.arithmetic.autocast():
            logits = answers(self.network, images)
        # Of tokens every one has logits and a label of its own.
        logits, labels = logits.flatten(0, -2), labels.flatten()
        logits = logits if logits.dtype is torch.float64 else logits.float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        (loss * (len(images) * self.parallel.size / self.recipe.batch_size)).backward()
        error = (logits.argmax(1) != labels).float().mean()
        return torch.stack((loss.detach(), error))

    def _epoch_plan(self, epoch: int) -> EpochPlan:
        if self._plan is None or self._plan[0] != epoch:
            drawn = EpochPlan.draw(self.seed, epoch, len(self.split.train), self.recipe.padding, self.recipe.flip)
            self._plan = epoch, drawn.to(self.arithmetic.device)
        return self._plan[1]

    def _look(self, tested: bool) -> dict[str, float]:
        """Make the row for the steps since the last reading, with a test if one is due."""
        window = self._finite_window()
        rate = self.optimizer.param_groups[0]["lr"]
        loss, error = window.double().mean(0).tolist()
        row = {
            "step": self.step,
            "epoch": self.step / self.epoch_steps,
            "learning_rate": rate,
            "train_loss": loss,
            "train_error": error,
        }
        if self.warming_up and error < 0.8:
            self.warming_up = False
        self._filled = self._summed = 0
        if tested:
            self.parallel.take_buffers(self.model)
            with self._tested:
                tests = evaluate(self.model, self.split.test, self.arithmetic, parallel=self.parallel)
            row["test_loss"], row["test_error"] = tests
        return row

    def _finite_window(self) -> Tensor:
        self.parallel.sum_(self._window[self._summed : self._filled])
        self._summed = self._filled
        window = self._window[: self._filled].cpu()
        if not (finite := window[:, 0].isfinite()).all():
            step = self.step - self._filled + int((~finite).nonzero()[0])
            raise GradlabError(
                f"the training diverged: the loss of step {step:,} is {float(window[~finite][0, 0])}; the last good "
                "checkpoint is kept; a lower learning rate may help"
            )
        return window

    def _content(self, config: dict[str, Any], lengths: dict[str, int]) -> dict[str, Any]:
        window = self._finite_window()
        wide = widest(self.arithmetic.device)
        sums = torch.stack([parameter.detach().sum(dtype=wide) for parameter in self.model.parameters()])
        if not sums.isfinite().all():
            raise GradlabError(f"the training diverged: weights are NaN or infinite after step {self.step - 1:,}")
        random, *others = self.parallel.gather(random_state(self.arithmetic.device))
        return {
            "model": on_host(self.model.state_dict()),
            "optimizer": on_host(self.optimizer.state_dict()),
            "step": self.step,
            "warming_up": self.warming_up,
            "window": window.clone(),
            "random": random | ({"others": others} if others else {}),
            "lengths": dict(lengths),
            "config": config,
            "gradlab": {key: config[key] for key in ("network", "normalization", "recipe")},
        }
