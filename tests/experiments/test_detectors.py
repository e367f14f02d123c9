"""Detectors on synthetic images with boxes: each term of the loss against plain hooks, and levels in their order."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradlab as gl
from gradlab.data.datasets import load_dataset
from gradlab.errors import UsageError
from gradlab.experiments.catalog import list_networks
from gradlab.models.detectors import DETECTORS, LOSSES

SIDE = 64
ASKED: dict[str, Any] = {"images": 2, "batch_size": 2, "device": "cpu"}


def detector(name: str) -> Any:
    """A detector on small images with few regions."""
    model: Any = gl.build(f"{name}@init")
    model.input_shape = (3, SIDE, SIDE)
    model.transform.min_size, model.transform.max_size = (SIDE,), SIDE
    model.roi_heads.fg_bg_sampler.batch_size_per_image = 16
    model.rpn._pre_nms_top_n = model.rpn._post_nms_top_n = {"training": 100, "testing": 20}
    return model


@pytest.fixture(scope="module", params=[DETECTORS[0], pytest.param(DETECTORS[1], marks=pytest.mark.thorough)])
def model(request: pytest.FixtureRequest) -> Any:
    return detector(request.param)


def images_and_targets() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    images, boxes = load_dataset("boxes", shape=(3, SIDE, SIDE)).read(0, 2, (3, SIDE, SIDE))
    assert boxes is not None
    return [*images.double()], [{"boxes": b[:, 1:].double(), "labels": b[:, 0].long()} for b in boxes]


def gradients_by_hand(model: nn.Module) -> dict[str, dict[str, float]]:
    """Norms of the gradients of weights by the detector's own training mode, in float64, term by term."""
    net = copy.deepcopy(model).double().train()
    torch.manual_seed(0)
    losses = net(*images_and_targets())
    weights = {name.removesuffix(".weight"): p for name, p in net.named_parameters() if p.ndim > 1}
    found = {}
    for term in (*LOSSES, "sum"):
        loss = sum(losses.values()) if term == "sum" else losses[term]
        gradients = torch.autograd.grad(loss, [*weights.values()], retain_graph=True, allow_unused=True)
        norms = (0.0 if gradient is None else float(gradient.norm()) for gradient in gradients)
        found[term] = dict(zip(weights, norms, strict=True))
    return found


def test_each_term_of_the_loss_has_the_gradients_of_the_detectors_own_training_mode(model: Any) -> None:
    before = copy.deepcopy(model.state_dict())
    result, expected = gl.gradients(model, dtype="float64", **ASKED), gradients_by_hand(model)
    assert [name.rpartition(" ")[2] for name in result.networks] == [*expected]
    for network in result.networks:
        frame = result.layers()
        norms = frame[frame["network"] == network].groupby("layer")["grad_norm"].first()
        # The projections of shortcuts are measured where they are asked for.
        wanted = {k: v for k, v in expected[network.rpartition(" ")[2]].items() if "downsample" not in k}
        found = norms.reindex(list(wanted)).fillna(0.0).astype(float)
        np.testing.assert_allclose(found, list(wanted.values()), rtol=1e-6, atol=1e-12)
    assert [*result.summary()["network"]] == [f"{model.network.name} {term}" for term in expected]
    heads = {term: [note for note in result.notes if f"{term}: norm" in note] for term in LOSSES}
    assert all(len(notes) == 1 for notes in heads.values())
    assert "rpn" in heads["loss_objectness"][0]
    # Each term says which layers it does not reach.
    unreached = [note for note in result.notes if "the loss does not reach it" in note]
    assert [note.partition(": ")[0].rpartition(" ")[2] for note in unreached] == [*LOSSES]
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_levels_of_the_pyramid_are_in_the_order_in_which_they_run(model: Any) -> None:
    order: list[tuple[str, float]] = []
    net = copy.deepcopy(model).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    for name, module in net.named_modules():
        if name.startswith(("backbone.fpn", "rpn.head")) and isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda m, args, out, name=name: order.append((name, float(out.std(correction=0))))
            )
    with torch.no_grad():
        net([image.float() for image in images_and_targets()[0]])
    frame = gl.responses(model, layers="*", bn="batch", **ASKED).frame
    rows = frame[frame["layer"].isin([name for name, _ in order])].sort_values("index")
    assert [*rows["layer"]] == [name for name, _ in order]
    np.testing.assert_allclose(rows["std"], [std for _, std in order], rtol=1e-3)
    calls = rows.loc[rows["layer"].str.endswith("cls_logits"), "call"]
    assert [*calls] == [*range(1, len(calls) + 1)]


def test_signal_and_shattering_of_detectors(model: Any) -> None:
    blocks = gl.signal(model, **ASKED).frame
    assert np.isfinite(blocks["stream_total_std"]).all()
    ranks = gl.input_gradients(model, points=4, lags=1, **ASKED)
    assert 0 < ranks.value(ranks.networks[0], "relative_effective_rank")[0] < 1.2


@pytest.mark.parametrize("data", ["cifar10-sample", "boxes"])
def test_notes_name_other_data_than_asked_for_and_count_the_images(model: Any, data: str) -> None:
    notes = gl.gradients(model, loss="sum", dtype="float32", **ASKED, data=data).notes
    told = [note.partition(": ")[2] for note in notes if "measured on" in note]
    assert told == ["measured on boxes, its data by default, and not on cifar10-sample"] * (data != "boxes")
    assert not any("16 images" in note for note in notes)


def test_boxes_are_where_the_labels_say() -> None:
    dataset = load_dataset("boxes", seed=3)
    images, boxes = dataset.read(5, 9, (3, 40, 60))
    alone, _ = dataset.read(7, 8, (3, 40, 60))
    assert torch.equal(alone[0], images[2])
    assert boxes is not None
    for image, own in zip(images, boxes, strict=True):
        kind, left, top, right, bottom = own[-1].int().tolist()
        inside = image[:, top:bottom, left:right]
        assert (inside[kind - 1] >= 0.7).all()
        assert (inside.argmax(0) == kind - 1).all()
        assert (own[:, 3] <= 60).all()
        assert (own[:, 4] <= 40).all()
        assert (own[:, 1:3] < own[:, 3:]).all()


def test_detectors_are_listed_by_name_and_have_no_published_weights() -> None:
    frame, _ = list_networks("fasterrcnn-vgg16")
    # 13 convolutions, three of the proposals, and four linear layers.
    assert frame["layers"].item() == 20
    assert frame["multiply-adds"].isna().item()
    with pytest.raises(UsageError, match="detectors are measured as initialized: give fasterrcnn-vgg16@init"):
        gl.build("fasterrcnn-vgg16")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"data": "noise"}, r"fasterrcnn\S+@init is a detector, and noise has no boxes: give --data boxes"),
        ({"per_example": True}, "no example has its own"),
    ],
)
def test_what_a_detector_cannot_do(model: Any, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        gl.gradients(model, **{**ASKED, **arguments})
