"""`gl.jacobian` on named networks: the matrix's own singular values, the law beside them, and what is refused."""

import numpy as np
import pytest
import torch

import gradlab as gl


def test_equals_the_matrix() -> None:
    frame = gl.jacobian("resnet20@init:0", images=1, probes=1, steps=10).frame
    model = gl.build("resnet20@init:0").eval().double()
    ((x, _),) = gl.batches("cifar10-sample", 1, model=model, images=1)
    matrix = torch.autograd.functional.jacobian(model, x.double()).reshape(10, -1)
    expected = torch.linalg.svdvals(matrix).sort().values.numpy()
    # Ten steps are all there are for ten outputs.
    assert np.sort(frame["singular_value"]) == pytest.approx(expected, rel=1e-6, abs=1e-6 * expected.max())
    assert (frame["outputs"].iloc[0], frame["inputs"].iloc[0]) == (10, 3072)


def test_the_body_of_a_plain_net_stands_beside_its_law() -> None:
    result = gl.jacobian("mlp4-norm=none@init", "noise", part="body", images=1, seeds=8, probes=2, steps=30)
    row = result.summary().iloc[0]
    assert (row["outputs"], row["inputs"], row["theory"]) == (200, 200, pytest.approx(1))
    assert row["mean square"] == pytest.approx(1, abs=4 * row["±"])
    law = result.record["networks"][0]["law"]
    log = np.log10(law["singular_value"])
    # Half of a layer's outputs are 0, and more of several: the rest is drawn.
    assert 0.4 < np.trapezoid(law["density"], log) < 0.51


def test_a_part_that_takes_the_embeddings_of_tokens() -> None:
    frame = gl.jacobian("gpt2-width=32@init:0", part="blocks.0", images=1, probes=1, steps=5).frame
    assert frame["singular_value"].gt(0).all()
    assert frame["outputs"].iloc[0] == frame["inputs"].iloc[0]


def test_of_tokens_the_input_is_their_embeddings() -> None:
    name = "gpt1-width=8-heads=2-vocab=5-context=3@init:0"
    frame = gl.jacobian(name, "tokens", images=1, probes=1, steps=15).frame
    model = gl.build(name).double()
    ((tokens, _),) = gl.batches("tokens", 1, model=model, images=1)

    def function(moved: torch.Tensor) -> torch.Tensor:
        with model.tokens.register_forward_hook(lambda module, args, output: output + moved):
            return model(tokens)

    matrix = torch.autograd.functional.jacobian(function, torch.zeros(3, 8).double()).reshape(15, 24)
    expected = torch.linalg.svdvals(matrix).sort().values.numpy()
    assert np.sort(frame["singular_value"]) == pytest.approx(expected, rel=1e-6, abs=1e-6 * expected.max())


def test_requests_that_cannot_be_meant() -> None:
    with pytest.raises(gl.UsageError, match="no module 'heart'"):
        gl.jacobian("resnet20@init:0", part="heart", images=1)
    with pytest.raises(gl.UsageError, match="bn is eval"):
        gl.jacobian("resnet20@init:0", images=1, bn="batch")


def test_values_that_are_not_finite_are_refused() -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 4))
    torch.nn.init.constant_(net[1].weight, float("nan"))
    with pytest.raises(gl.GradlabError, match="a Jacobian with NaN or infinite values"):
        gl.jacobian(net, images=1)


class InFloat32(torch.nn.Module):
    """A network that makes a float32 tensor as it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1)[:, :4] @ torch.eye(4))


def test_a_network_that_cannot_run_in_float64_is_named() -> None:
    with pytest.raises(gl.GradlabError, match=r"^InFloat32 cannot run on float64 images of shape \(1, 3, 32, 32\): "):
        gl.jacobian(InFloat32(), images=1)


class Constant(torch.nn.Module):
    """A network whose output has a graph, or none, and in no case one that leads to its input."""

    def __init__(self, graph: bool) -> None:
        super().__init__()
        self.graph, self.fc = graph, torch.nn.Linear(3072, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1).detach()) if self.graph else self.fc(x.flatten(1)).detach()


@pytest.mark.parametrize("graph", [False, True])
def test_an_output_that_does_not_depend_on_the_input_is_refused(graph: bool) -> None:
    with pytest.raises(gl.GradlabError, match=r"^Constant: its Jacobian cannot be computed, since the output "):
        gl.jacobian(Constant(graph), images=1)


def fail(gradient: torch.Tensor) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_the_reason_of_derivatives_that_fail_is_told() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
    model.register_forward_hook(lambda module, args, output: output.register_hook(fail) and None)
    with pytest.raises(gl.GradlabError, match=r"^Sequential: its Jacobian cannot .*: CUDA out of memory$") as raised:
        gl.jacobian(model, images=1)
    assert "does not depend" not in str(raised.value)
