"""Tokens under attention against attention that is run."""

import math

import pytest
import torch

from gradlab import theory


def tokens_of(kernel, width, seed):
    """Tokens whose covariance over channels is the kernel, exactly."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(width, len(kernel), generator=generator, dtype=torch.float64)
    white = torch.linalg.qr(draws).Q * math.sqrt(width)
    return (white @ torch.linalg.cholesky(kernel).T).T


def attended(x, heads, seed, causal, logits=1.0):
    """Softmax attention with weights of variance 1/d, written out."""
    width, generator = x.shape[1], torch.Generator().manual_seed(seed)
    # Drawn in float32, which takes a quarter of the time.
    q, k, v, last = (torch.randn(width, width, generator=generator).double() / math.sqrt(width) for _ in range(4))
    out = []
    for query, key, value in zip(*((x @ w).chunk(heads, 1) for w in (q, k, v)), strict=True):
        score = math.sqrt(logits) * query @ key.T / math.sqrt(query.shape[1])
        if causal:
            score = score.masked_fill(torch.ones_like(score).triu(1) == 1, -math.inf)
        out.append(score.softmax(-1) @ value)
    return torch.cat(out, 1) @ last


KERNELS = [(0.0, None), (0.5, None), (0.0, 4), (0.2, 16)]


@pytest.mark.parametrize(
    ("causal", "correlation", "head_width"),
    [
        # Each kernel once, and both ways of attention twice; all pairs are in the thorough tests.
        pytest.param(causal, *kernel, marks=() if number % 2 == causal else pytest.mark.thorough)
        for causal in (True, False)
        for number, kernel in enumerate(KERNELS)
    ],
)
def test_attention_kernel_of_a_wide_layer(causal, correlation, head_width):
    """The mean variance and covariance of tokens, within four standard errors, over ten layers."""
    kernel = theory.exchangeable_kernel(24, 1.0, correlation)
    found = theory.attention_kernel(kernel, causal=causal, head_width=head_width, samples=400)
    runs = []
    for seed in range(10):
        out = attended(tokens_of(kernel, 768, seed), 6 if head_width is None else 768 // head_width, seed, causal)
        runs.append(out @ out.T / out.shape[1])
    off = ~torch.eye(24, dtype=torch.bool)
    for part in (lambda k: k.diagonal().mean(), lambda k: k[off].mean()):
        values = torch.stack([part(run) for run in runs])
        error = float(values.std()) / math.sqrt(len(values))
        assert abs(float(values.mean() - part(found))) < 4 * error


def test_a_token_that_sees_itself_alone_keeps_its_variance():
    found = theory.attention_kernel(theory.exchangeable_kernel(8, 2.0, 0.1), causal=True, samples=50)
    assert float(found[0, 0]) == pytest.approx(2, rel=1e-5)


def test_uniform_attention_is_the_mean_over_tokens():
    """With logits 0: Noci et al. 2022's case, exact in the kernel."""
    kernel = theory.exchangeable_kernel(10, 1.5, 0.2)
    mean = kernel.mean()
    found = theory.attention_kernel(kernel, causal=False, logit_variance=0.0, samples=1)
    torch.testing.assert_close(found, mean.expand(10, 10), rtol=1e-6, atol=0)
    q, rho = theory.uniform_attention(1.5, 0.2, 10)
    total = kernel + mean
    assert q == pytest.approx(float(total[0, 0]))
    assert rho == pytest.approx(float(total[0, 1] / total[0, 0]))


def test_shortcuts_that_fade_keep_tokens_apart():
    """λ = 1/√L leaves the correlation below 1 at any depth; λ = 1 brings it to 1 (Noci et al. 2022)."""

    def after(blocks, branch):
        q, rho = 1.0, 0.0
        for _ in range(blocks):
            q, rho = theory.uniform_attention(q, rho, 20, branch)
        return rho

    assert after(64, 1.0) > 0.99
    assert after(64, 64**-0.5) < 0.15
    assert after(1024, 1024**-0.5) == pytest.approx(after(64, 64**-0.5), abs=0.01)


def test_pure_attention_loses_rank_doubly_exponentially():
    """The spread of tokens falls by its cube, layer by layer, in attention that is run."""
    tokens, width = 64, 1024
    kernel = theory.exchangeable_kernel(tokens, 1.0, 0.6)
    spreads = []
    for seed in range(5):
        x = tokens_of(kernel, width, seed)
        row = [0.4]
        for layer in range(2):
            x = attended(x, 8, 10 * seed + layer, causal=False)
            x = x / x.square().mean().sqrt()
            cosines = torch.nn.functional.normalize(x, dim=1)
            cosines = cosines @ cosines.T
            row.append(float(1 - (cosines.sum() - tokens) / (tokens * (tokens - 1))))
        spreads.append(row)
    found = torch.tensor(spreads, dtype=torch.float64).log().mean(0).exp()
    first = theory.pure_attention_spread(torch.tensor(0.4), tokens)
    second = theory.pure_attention_spread(found[1], tokens)
    # Tokens by chance more alike than others make the mean of cubes larger than the cube of the mean.
    assert float(found[1]) == pytest.approx(float(first), rel=0.2)
    assert float(second) < float(found[2]) < 2 * float(second) < 1e-9
    small = torch.tensor([1e-3, 1e-4], dtype=torch.float64)
    torch.testing.assert_close(theory.pure_attention_spread(small, tokens), small**3 / tokens, rtol=5e-3, atol=0)
