"""Figures draw every row that their frame has."""

import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

import gradlab as gl


class Residual(nn.Module):
    """Convolutions of two kinds, a projection, an embedding of positions and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = (nn.Conv2d(4, 4, k, padding=k // 2) for k in (5, 3, 3))
        self.shortcut, self.head = nn.Conv2d(4, 4, 1), nn.Linear(4, 3)
        self.positions = nn.Parameter(torch.randn(4, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x) + self.positions
        x = self.two(self.one(x)) + self.shortcut(x)
        return self.head(x.mean((2, 3)))


def places(ax: Axes) -> set[float]:
    """The abscissae of all marks and lines of data."""
    return {float(x) for line in ax.lines if line.get_transform() == ax.transData for x in line.get_xdata()}


def hollow(ax: Axes) -> list[float]:
    return [float(x) for line in ax.lines if line.get_markerfacecolor() == "white" for x in line.get_xdata()]


def test_all_rows_of_gradients_and_responses_are_drawn() -> None:
    torch.manual_seed(0)
    model = Residual()
    with gl.ParameterGradients(model) as gradients, gl.ResponseStd(model) as responses:
        model(torch.randn(2, 4, 8, 8)).square().sum().backward()
        gradients.step()
    frame = gradients.result().frame
    assert frame["layer"].tolist() == ["stem", "positions", "one", "two", "shortcut", "head"]
    ax = gradients.result().plot()
    assert places(ax) == {1, 2, 3, 4, 5, 6}
    assert hollow(ax) == [5]
    (line,) = [line for line in ax.lines if line.get_linestyle() != "None"]
    assert line.get_xdata().tolist() == [3, 4]
    words = {text.get_text() for text in ax.figure.legends[0].get_texts()}
    assert {"conv5x5", "parameter", "linear", "projection of a shortcut"} <= words
    ax = responses.result().plot()
    assert places(ax) == {1, 2, 3, 4, 5}
    assert hollow(ax) == [4]


def test_a_transformer_is_drawn_whole() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(nn.Embedding(5, 8), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    with gl.ParameterGradients(model, parameters="all") as probe:
        model(torch.tensor([[1, 2, 3]]))[..., :3].square().sum().backward()
        probe.step()
    result = probe.result()
    drawn = result.frame[result.frame["grad_norm"] > 0]
    assert places(result.plot()) == {float(index) for index in drawn["index"]}
    assert result.summary()["depth"].item() == 9
