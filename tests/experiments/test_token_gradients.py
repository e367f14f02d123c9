"""Gradients with respect to the embeddings of tokens: against one sequence at a time, and shattering with depth."""

import itertools

import pytest
import torch
from torch import Tensor, nn

import gradlab as gl
from gradlab.errors import GradlabError
from gradlab.stats import noise_effective_rank

NAME = "gpt2-width=16-heads=2-vocab=11-context=6"


def of_embeddings(model: nn.Module, tokens: Tensor) -> Tensor:
    """The gradient of the summed logits of one sequence (T,) with respect to its embeddings, (T, d)."""
    delta = torch.zeros(1, len(tokens), 16, dtype=torch.float64, requires_grad=True)
    with model.tokens.register_forward_hook(lambda module, args, output: output + delta):  # type: ignore[union-attr]
        (gradient,) = torch.autograd.grad(model(tokens[None]).sum(), delta)
    return gradient[0]


def rank_and_cosine(rows: Tensor) -> tuple[float, float]:
    """‖D‖²/‖D‖₂² of the rows divided by their norms, over that of noise; the mean cosine of pairs."""
    unit = rows / rows.norm(dim=1, keepdim=True)
    rank = float(unit.square().sum() / torch.linalg.svdvals(unit)[0] ** 2)
    pairs = [float(a @ b) for a, b in itertools.combinations(unit, 2)]
    return rank / noise_effective_rank(*rows.shape, unit=True), sum(pairs) / len(pairs)


@pytest.mark.parametrize("more", ["", "-shortcut=none"])
def test_sequences_and_tokens_are_those_of_a_loop(more: str) -> None:
    result = gl.input_gradients(
        f"{NAME}{more}@init", "tokens:markov", images=8, batch_size=4, seeds=2, dtype="float64", points=8, lags=2
    )
    found: list[tuple[float, ...]] = []
    for seed in range(2):
        model = gl.build(f"{NAME}{more}@init", seed=seed).double()
        for tokens, _ in gl.batches("tokens:markov", 4, model=model, images=8):
            each = torch.stack([of_embeddings(model, sequence) for sequence in tokens])
            inside = [rank_and_cosine(sequence) for sequence in each]
            means = tuple(sum(values) / 4 for values in zip(*inside, strict=True))
            found.append((*rank_and_cosine(each.flatten(1)), *means))
    names = ("relative_effective_rank", "mean_cosine", "token_relative_effective_rank", "token_mean_cosine")
    expected = [sum(values) / len(found) for values in zip(*found, strict=True)]
    assert [result.value(result.networks[0], name)[0] for name in names] == pytest.approx(expected, rel=1e-9)
    assert "tokens: cosine" in result.summary()


def test_images_have_no_tokens() -> None:
    result = gl.input_gradients("plain8@init", images=4, batch_size=2, seeds=1, points=4, lags=1)
    assert not result.frame["statistic"].str.contains("token").any()
    assert "tokens: cosine" not in result.summary()
    flat = nn.Linear(3, 2)
    with gl.InputGradients(flat, tokens=True), pytest.raises(GradlabError, match=r"inputs \(B, T, …\), not of shape"):
        flat(torch.zeros(2, 3))


def test_plain_transformers_shatter_and_residual_ones_do_not() -> None:
    """Without shortcuts, gradients of sequences are hardly alike behind 24 blocks; with them, much as behind two."""
    forms = ("", "-shortcut=none")
    names = [f"gpt{depth}-width=32-context=8{form}@init" for depth in (2, 24) for form in forms]
    result = gl.input_gradients(names, "tokens", images=8, batch_size=8, seeds=4, points=24, lags=1)
    shallow, shallow_plain, deep, deep_plain = (result.value(name, "mean_cosine")[0] for name in result.networks)
    assert deep_plain < 0.15 < 0.35 < deep
    assert shallow - deep < shallow_plain - deep_plain
    assert any("From 2 to 24 blocks" in line for line in result.findings())
