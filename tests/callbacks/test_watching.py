"""The watch as a callback of Lightning and of Hugging Face's Trainer, with the real libraries."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradlab as gl

KEYS = ["step", "layer", "statistic"]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def data() -> torch.utils.data.TensorDataset:
    generator = torch.Generator().manual_seed(1)
    return torch.utils.data.TensorDataset(
        torch.randn(24, 4, generator=generator), torch.randint(3, (24,), generator=generator)
    )


def by_hand(accumulate: int = 1) -> pd.DataFrame:
    """The same training in a plain loop, clipped at a total norm of 0.5."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = list(torch.utils.data.DataLoader(data(), batch_size=4))
    with gl.watch(model, optimizer, every=2) as watch:
        for start in range(0, len(batches), accumulate):
            optimizer.zero_grad()
            for x, y in batches[start : start + accumulate]:
                (F.cross_entropy(model(x), y) / accumulate).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
    return watch.result().frame


def same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    found = found.assign(layer=found["layer"].str.removeprefix("network."))
    found, expected = (
        f.astype({"layer": str, "statistic": str}).sort_values(KEYS).reset_index(drop=True) for f in (found, expected)
    )
    assert found[KEYS].astype(str).equals(expected[KEYS].astype(str))
    assert found["value"].tolist() == pytest.approx(expected["value"].tolist(), rel=1e-4, abs=1e-7)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_lightning(accumulate: int, tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")
    from gradlab.callbacks.lightning import WatchCallback

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = net()

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            return F.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    watch = WatchCallback(every=2)
    with pytest.raises(gl.GradlabError, match="training has not started"):
        watch.result()
    logger = lightning.loggers.CSVLogger(tmp_path)
    module = Module()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=logger,
        callbacks=[watch],
        accumulate_grad_batches=accumulate,
        gradient_clip_val=0.5,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader(data(), batch_size=4))
    frame = watch.result().frame
    same(frame, by_hand(accumulate))
    logged = pd.read_csv(Path(logger.log_dir) / "metrics.csv").set_index("step")
    first = frame[(frame["layer"] == "network.0") & (frame["statistic"] == "grad_norm")].set_index("step")["value"]
    assert logged["gradlab/grad_norm/network.0"].dropna().to_dict() == pytest.approx(first.to_dict())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in module.modules())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_transformers(accumulate: int, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from gradlab.callbacks.transformers import WatchCallback

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = net()

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": F.cross_entropy(self.network(x), labels)}

    examples = [{"x": x, "labels": y} for x, y in data()]
    arguments: dict[str, Any] = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
    settings = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=accumulate,
        max_grad_norm=0.5,
        num_train_epochs=1,
        lr_scheduler_type="constant",
        learning_rate=0.1,
        **arguments,
    )

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_: Any) -> torch.utils.data.Sampler[int]:
            return torch.utils.data.SequentialSampler(examples)

    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    watch = WatchCallback(every=2, log="all")
    trainer = InOrder(model, settings, train_dataset=examples, callbacks=[watch], optimizers=(optimizer, schedule))
    trainer.train()
    frame = watch.result().frame
    same(frame, by_hand(accumulate))
    logged = {entry["step"]: entry for entry in trainer.state.log_history if "gradlab/grad_norm/network.0" in entry}
    first = frame[(frame["layer"] == "network.0") & (frame["statistic"] == "grad_norm")]
    found = [entry["gradlab/grad_norm/network.0"] for entry in logged.values()]
    assert found == pytest.approx(first["value"].tolist())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
