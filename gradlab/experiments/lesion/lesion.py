"""Measure what lesions do to named networks, and which paths carry their gradients, for `gradlab lesion`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gradlab.errors import GradlabError, UsageError
from gradlab.experiments.accuracy import fits, near_chance, right_answers, wrong_by_nan
from gradlab.experiments.device import device_name, pick_device
from gradlab.experiments.input_gradients.segment import fix_statistics
from gradlab.experiments.lesion.plan import Lesion, deletions, orders
from gradlab.experiments.lesion.replay import Replay
from gradlab.experiments.lesion.request import SEVERAL, STUDIES, SWAPS, LesionRequest, Study
from gradlab.experiments.lesion.sampling import sampled_paths
from gradlab.experiments.lesion.structure import structure_of
from gradlab.experiments.request import BatchNormMode, Progress
from gradlab.experiments.spreading import share, summed
from gradlab.experiments.subject import (
    assumptions,
    batch_norm_mode,
    each_network,
    has_batch_norm,
    images_of,
    is_trained,
    network_facts,
    runner,
)
from gradlab.models.detectors import is_detector
from gradlab.results.grouping import counted
from gradlab.results.lesion.result import LesionResult
from gradlab.results.record import Stopwatch, make_record
from gradlab.stats import standard_error
from gradlab.stats.float32 import full_float32
from gradlab.transfer import placed

FEW = 2
"""The number of inputs on which the structure of a network is found."""


@full_float32()
def lesion(
    models: Sequence[str | nn.Module] | str | nn.Module,
    data: str = "cifar10-sample",
    *,
    weights: str | None = None,
    images: int | None = 100,
    batch_size: int = 50,
    device: str = "auto",
    seed: int = 0,
    bn: BatchNormMode | None = None,
    normalize: str | Sequence[str] | None = None,
    studies: Sequence[Study] | Study = STUDIES,
    several: Sequence[int] = SEVERAL,
    swaps: Sequence[int] = SWAPS,
    samples: int = 5,
    paths: int = 20,
    progress: Progress | None = None,
) -> LesionResult:
    """Delete and reorder parts of networks, and sample gradients on single paths (Veit et al. 2016, arXiv:1605.06431).

    A residual module is deleted by leaving out its branch and keeping its shortcut, whatever that does to the shape; in
    a network without residual modules, a layer is deleted together with the normalization behind it, if it keeps the
    shape of its input. Nothing is trained again. Residual modules are found while the network runs, as in
    `gl.BlockSignal`; several branches of a block, as in transformers, are modules of their own.

    Measured are the error with each module deleted, with several random ones deleted, and with random pairs of blocks
    of equal shapes swapped one after another. Then the norm of the gradient of the loss with respect to the input is
    sampled on single paths: a path of length k leads through the branches of k modules, and through the shortcuts of
    all others. Each sample is one random example, with a random path of every length.

    Args:
        models: The networks, as specifications for `gl.build` or as modules.
        data: A named data set with labels (see `gl.batches`).
        weights: The weights of networks whose specifications name none.
        images: The number of images or sequences to take from the beginning of the data set; None takes all.
        batch_size: The number of images per batch, at most the number of images.
        device: The device: `auto`, `cpu`, `cuda`, `cuda:1`.
        seed: The seed of random choices, initial weights and noise.
        bn: The statistics for batch normalization: `eval` uses running statistics (the default for trained weights),
            `batch` those of the first batch of the intact network (the default for initial weights).
        normalize: The normalization of the images, one for all networks or one for each; by default the normalization
            with which each network was trained, or else that of the data set.
        studies: The studies: `delete` (each module by itself), `several` (random ones at once), `reorder` (swaps of
            blocks) and `paths` (gradients on single paths).
        several: The numbers of modules to delete at once.
        swaps: The numbers of pairs of blocks to swap.
        samples: The number of random choices of each of these numbers.
        paths: The number of examples to sample, with a path of every length for each.
        progress: A function called after every pass with a lesion.

    Raises:
        UsageError: If the arguments are invalid or inconsistent.
        GradlabError: If something cannot be read or run, nothing of a network can be deleted, or all its outputs are
            NaN.
    """
    stopwatch, request = Stopwatch(), LesionRequest.of(locals())
    where = pick_device(device)

    def measure(label: str, variants: Sequence[nn.Module], normalization: str | None) -> LesionResult:
        return _Measurement(request, label, variants[0], where, normalization, progress).result()

    result = LesionResult.concat(each_network(request, measure, progress=progress))
    if result.paths_frame.empty and set(result.frame["study"]) == {"intact"}:
        raise UsageError(f"there is nothing to measure: {'; '.join(result.notes)}")
    result.record = make_record(
        "lesion", options=request.options(), device=device_name(where), stopwatch=stopwatch, **result.record
    )
    return result


class _Measurement:
    """The measurement of one network.

    Args:
        request: What is asked for.
        label: The label of the network.
        model: The network, which is not changed.
        device: The device of the measurement.
        normalization: The requested normalization of the images, if any.
        progress: A function called after every pass with a lesion.
    """

    def __init__(
        self,
        request: LesionRequest,
        label: str,
        model: nn.Module,
        device: torch.device,
        normalization: str | None,
        progress: Progress | None,
    ) -> None:
        self.request, self.label, self.original, self.progress = request, label, model, progress
        if is_detector(model):
            raise UsageError(f"{label} is a detector: lesions are measured by the errors of classifiers: give one")
        stream = images_of(request, model, device, normalization)
        self.stream = replace(stream, batch_size=min(stream.batch_size, stream.count))
        self.mode = batch_norm_mode(request.bn, model)
        self.model = placed(runner(model, self.mode), device).requires_grad_(False)
        first = next(iter(self.stream))[0]
        if self.mode == "batch" and has_batch_norm(self.model):
            fix_statistics(self.model, label, first)
        self.structure = structure_of(self.model, label, first[:FEW])
        if not self.structure.parts:
            raise GradlabError(
                f"{label} has no residual module and no layer that keeps the shape of its input: nothing can be deleted"
            )
        self.notes = assumptions(model, label, self.stream, normalization)
        self._done = self._without = 0

    def result(self) -> LesionResult:
        """Make all lesions and sample all paths."""
        with Replay(self.model, self.label, self.structure) as replay:
            rows, increases = self._lesions(replay)
            self._note_omissions(replay)
        if self._without == self.stream.count:
            raise GradlabError(f"{self.label}: all outputs hold NaN, which no lesion changes: look at the weights")
        facts = self._facts(rows[0]["error"], increases)
        if self._without:
            outputs = counted(self._without, "output")
            self.notes.append(f"{self.label}: {wrong_by_nan(outputs, self._without)}")
        return LesionResult.from_rows(self.label, rows, self._paths(), self.notes, facts)

    def _note_omissions(self, replay: Replay) -> None:
        """Note which lesions and paths that were asked for the network does not admit."""
        label, structure, studies = self.label, self.structure, self.request.listed_studies()
        self.notes += [f"{label}: {note}" for note in structure.notes]
        too_many = [str(count) for count in dict.fromkeys(self.request.several) if count > len(structure.parts)]
        if "several" in studies and too_many:
            self.notes.append(f"{label} has {structure.counted()}: {' or '.join(too_many)} cannot be deleted at once")
        if "reorder" in studies and not any(len(group) > 1 for group in replay.alike()):
            self.notes.append(f"{label}: no two blocks are alike, so that none can be swapped")
        if {"delete", "several"} & {*studies} and (omitted := structure.not_deleted()):
            self.notes.append(f"{label}: {omitted}")
        if "paths" in studies and structure.kind == "layer":
            self.notes.append(f"{label}: there is no residual module, and so no choice of paths to sample")

    def _lesions(self, replay: Replay) -> tuple[list[dict[str, Any]], Tensor]:
        """The rows of all lesions, and the mean increase of each image's error with one part deleted, (images,)."""
        planned, right = self._answers(replay)
        if not replay.stood_still():
            planned, right = self._answers(replay)
        answers = torch.zeros(len(planned), self.stream.count, dtype=torch.float64)
        if right:
            answers[[*right]] = torch.stack([torch.cat(parts) for parts in right.values()]).double().cpu()
        answers = summed(answers)
        increases = answers[0] - answers[torch.tensor([one.study == "delete" for one in planned])].mean(0)
        return [self._row(one, answers[0], now) for one, now in zip(planned, answers, strict=True)], increases

    def _answers(self, replay: Replay) -> tuple[list[Lesion], dict[int, list[Tensor]]]:
        """All lesions, and for those that this rank makes, which images were answered correctly, batch by batch."""
        planned: list[Lesion] = []
        right: dict[int, list[Tensor]] = {}
        self._done = 0
        without = torch.zeros((), dtype=torch.long, device=self.stream.device)
        for images, labels in self.stream:
            logits = replay.intact(images)
            intact, without = self._right(logits, labels), without + logits.isnan().any(-1).sum()
            if not planned:
                planned = self._planned(replay)
                right = {place: [] for place in share(range(len(planned)))}
            for place, parts in right.items():
                parts.append(self._right(replay.lesioned(planned[place]), labels) if place else intact)
                self._tell(len(right))
        self._without = int(without)
        return planned, right

    def _planned(self, replay: Replay) -> list[Lesion]:
        """No lesion, and those of the studies that are asked for."""
        asked, parts = self.request, len(self.structure.parts)
        planned = [Lesion("intact")]
        if "delete" in asked.listed_studies():
            planned += [Lesion("delete", 1, deleted=(index,)) for index in range(parts)]
        if "several" in asked.listed_studies():
            planned += deletions(parts, asked.several, asked.samples, asked.seed)
        if "reorder" in asked.listed_studies():
            planned += orders(replay.alike(), asked.swaps, asked.samples, asked.seed)
        return planned

    def _right(self, logits: Tensor, labels: Tensor | None) -> Tensor:
        if labels is None or not fits(logits, labels, self.stream.largest_label):
            raise UsageError(
                f"{self.stream.dataset.name} has no labels that fit the outputs of {self.label}, of shape "
                f"{tuple(logits.shape)}: a lesion is measured by the error, so give data with labels (--data)"
            )
        return right_answers(logits, labels)

    def _tell(self, lesions: int) -> None:
        self._done += 1
        if self.progress is not None:
            self.progress(self.label, self._done, lesions * len(self.stream))

    def _row(self, one: Lesion, before: Tensor, now: Tensor) -> dict[str, Any]:
        """The row of one lesion, from the correct answers before and with it."""
        part = self.structure.parts[one.deleted[0]] if one.study == "delete" else None
        addition = None if part is None else part.addition
        return {
            "study": one.study,
            "block": "" if part is None else part.block,
            "branch": "" if part is None else part.branch,
            "index": None if part is None else one.deleted[0] + 1,
            "resized": None if addition is None else addition.resized,
            "count": one.count,
            "sample": one.sample if one.study in ("several", "reorder") else None,
            "tau": _kendall_tau(one.order) if one.study == "reorder" else None,
            "error": 1 - float(now.mean()),
            "newly_wrong": float((before - now).clamp(min=0).sum()),
            "newly_right": float((now - before).clamp(min=0).sum()),
            "images": len(now),
        }

    def _facts(self, error: float, increases: Tensor) -> dict[str, Any]:
        """The facts on the network for the record."""
        classes = self.stream.dataset.classes
        facts = network_facts(self.original, self.label) | {
            "bn": self.mode if has_batch_norm(self.original) else "none",
            "data": self.stream.dataset.name,
            "images": self.stream.count,
            "normalization": None if self.stream.normalization is None else str(self.stream.normalization),
            "part": self.structure.kind,
            "parts": len(self.structure.parts),
            "blocks": len(self.structure.blocks),
            "left_out": self.structure.left_out,
            "classes": classes,
        }
        if "delete" in self.request.listed_studies():
            facts |= {"increase": increases.mean().item(), "increase_sem": standard_error(increases).item()}
        if classes and near_chance(1 - error, classes, self.stream.count):
            facts["near_chance"] = True
            kind = "trained weights" if is_trained(self.original) else "initial weights"
            self.notes.append(
                f"{self.label}: {kind} with an error of {error:.1%}, near chance, which no lesion increases"
            )
        return facts

    def _paths(self) -> list[dict[str, Any]]:
        """The norms of gradients on sampled paths, one row each."""
        if "paths" not in self.request.listed_studies() or self.structure.kind == "layer":
            return []
        try:
            return sampled_paths(self.model, self.label, self.structure, self.stream, self.request)
        except GradlabError as error:
            self.notes.append(f"{self.label}: no gradients on paths: {error}")
            return []


def _kendall_tau(order: Sequence[int]) -> float:
    """Kendall's rank correlation of an order with the original one."""
    from scipy.stats import kendalltau

    return float(kendalltau(range(len(order)), order).statistic)
