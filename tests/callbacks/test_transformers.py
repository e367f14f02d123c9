"""The callback of Hugging Face's Trainer, with the real library."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradlab as gl
from gradlab.callbacks.attached import AttachedProbe

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")


class Model(nn.Module):
    """Three classes of points; keeps what the first layer's gradient was, before any clipping."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        self.seen: list[float] = []
        self.network[0].weight.register_post_accumulate_grad_hook(
            lambda weight: self.seen.append(weight.grad.double().norm().item())
        )

    def forward(self, points: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(self.network(points), labels)}


def train(model: Model, callback: object, folder: Path, **options: object) -> None:
    generator = torch.Generator().manual_seed(1)
    data = [{"points": torch.randn(4, generator=generator), "labels": i % 3} for i in range(20)]
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
        per_device_train_batch_size=4,
        num_train_epochs=1,
        optim="sgd",
        **options,
    )
    transformers.Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train()


def test_gradients_of_a_training(tmp_path: Path) -> None:
    from gradlab.callbacks.transformers import ProbeCallback

    model, callback = Model(), ProbeCallback(lambda model: gl.ParameterGradients(model, every=2))
    train(model, callback, tmp_path, max_grad_norm=0.0)
    result = callback.result()
    first = result.frame[result.frame["layer"] == "network.0"]
    assert first["step"].tolist() == [0, 2, 4]
    assert first["grad_norm"].tolist() == pytest.approx(model.seen[::2], rel=1e-6)
    assert result.notes == []
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    """Five batches, two a step: the gradient is there whole when the step comes, and not yet cleared."""
    from gradlab.callbacks.transformers import ProbeCallback

    model, callback = Model(), ProbeCallback(gl.ParameterGradients)
    train(model, callback, tmp_path, max_grad_norm=0.0, gradient_accumulation_steps=2)
    first = callback.result().layers().query("layer == 'network.0'")
    assert len(model.seen) == 5
    assert first["step"].tolist() == [0, 1, 2]
    assert first["grad_norm"].tolist() == pytest.approx([model.seen[i] for i in (1, 3, 4)], rel=1e-6)


def test_clipping_is_told_of(tmp_path: Path) -> None:
    from gradlab.callbacks.transformers import ProbeCallback

    model, callback = Model(), ProbeCallback(gl.ParameterGradients)
    train(model, callback, tmp_path, max_grad_norm=1e-3)
    result = callback.result()
    assert result.frame["grad_norm"].max() <= 1.001e-3
    assert "clipped their total norm to max_grad_norm=0.001" in result.notes[0]


def test_a_probe_without_steps_goes_around_the_training() -> None:
    with pytest.raises(gl.UsageError, match=r"not ResponseStd: put others around the call that trains"):
        AttachedProbe(gl.ResponseStd).attach(Model(), 0, None)
