"""`gl.AttentionStatistics` equals softmax written out, whichever way a model computes its attention."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradlab.errors import GradlabError, UsageError
from gradlab.probes.attention import AttentionStatistics
from gradlab.stats.attention import sampled_positions, token_cosine, token_participation

B, H, T, D = 2, 4, 9, 5


class Attention(nn.Module):
    """Heads of one layer, fused or written out."""

    def __init__(self, form: str, **options: object) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form, self.options = form, options
        self.query, self.key = nn.Linear(8, H * D), nn.Linear(8, H * D)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(3 * layer(x).unflatten(-1, (H, D)).transpose(1, 2) for layer in (self.query, self.key))

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.heads(x)
        if self.form == "fused":
            return F.scaled_dot_product_attention(q, k, k, **self.options)
        logits = q @ k.mT / math.sqrt(D) + torch.full((T, T), -torch.inf).triu(1)
        weights = F.dropout(logits.softmax(-1), 0.1)
        return torch.einsum("bhts,bhsd->bhtd", weights, k) if self.form == "einsum" else weights.to(k.dtype) @ k


def written_out(q: Tensor, k: Tensor, mask: Tensor, scale: float) -> list[tuple[float, float, float, int]]:
    """Entropy, relative entropy, largest logit and rows of each head, row by row, in float64."""
    found = []
    for head in range(q.shape[1]):
        entropy = uniform = 0.0
        largest, rows = -math.inf, 0
        for example in range(len(q)):
            for row in range(q.shape[2]):
                logits = k[example, head].double() @ q[example, head, row].double() * scale
                logits = (logits + mask[example, head, row].double())[mask[example, head, row] > -math.inf]
                if len(logits):
                    p = logits.exp() / logits.exp().sum()
                    entropy -= (p * p.log()).sum().item()
                    uniform += math.log(len(logits))
                    largest, rows = max(largest, logits.max().item()), rows + 1
        found.append((entropy / rows, entropy / uniform, largest, rows))
    return found


def boolean() -> Tensor:
    mask = torch.rand(B, 1, T, T, generator=torch.Generator().manual_seed(3)) > 0.4
    mask[0, 0, 2] = False
    return mask


BIAS = torch.randn(H, T, T, generator=torch.Generator().manual_seed(4))
CAUSAL = torch.full((T, T), -torch.inf).triu(1)
KEPT = torch.zeros(B, 1, T, T).masked_fill(~boolean(), -math.inf)
CASES = {
    "plain": (Attention("fused"), torch.zeros(T, T), 1 / math.sqrt(D)),
    "causal": (Attention("fused", is_causal=True), CAUSAL, 1 / math.sqrt(D)),
    "boolean mask": (Attention("fused", attn_mask=boolean()), KEPT, 1 / math.sqrt(D)),
    "bias and scale": (Attention("fused", attn_mask=BIAS, scale=0.3), BIAS, 0.3),
    "softmax": (Attention("matmul"), CAUSAL, 1 / math.sqrt(D)),
    "einsum": (Attention("einsum"), CAUSAL, 1 / math.sqrt(D)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_equals_softmax_written_out(case: str) -> None:
    model, mask, scale = CASES[case]
    x = torch.randn(B, T, 8, generator=torch.Generator().manual_seed(1))
    with AttentionStatistics(model, rows=None) as probe, torch.no_grad():
        output = model(x)
        if mask.ndim < 4:
            # An empty batch, to which no mask of examples fits, adds nothing.
            model(x[:0])
        model(x)
    frame = probe.result().frame
    with torch.no_grad():
        q, k = model.heads(x)
    expected = written_out(torch.cat((q, q)), torch.cat((k, k)), mask.expand(B, H, T, T).repeat(2, 1, 1, 1), scale)
    for (_, row), (entropy, relative, largest, rows) in zip(frame.iterrows(), expected, strict=True):
        assert row["entropy"] == pytest.approx(entropy, rel=1e-5)
        assert row["relative_entropy"] == pytest.approx(relative, rel=1e-5)
        assert row["largest_logit"] == pytest.approx(largest, rel=1e-5)
        assert row["rows"] == rows
    assert output.shape == (B, H, T, D)


class Given(nn.Module):
    """Attention with queries, keys and options as they are given."""

    def forward(self, q: Tensor, k: Tensor, **options: object) -> Tensor:
        if options.pop("fused"):
            return F.scaled_dot_product_attention(q, k, k, **options)
        return (q @ k.mT / math.sqrt(D)).softmax(-1) @ k


@pytest.mark.parametrize("shape", [(T, D), (2, T, D), (2, 3, H, T, D)], ids=["alone", "no heads", "windows"])
@pytest.mark.parametrize("options", [{"fused": False}, {"fused": True}, {"fused": True, "attn_mask": BIAS[0]}])
def test_attention_of_any_number_of_dimensions(shape: tuple[int, ...], options: dict[str, object]) -> None:
    if shape == (T, D) and not options["fused"]:
        pytest.skip("a softmax of a matrix is that of a classifier")
    q, k = torch.randn(2, *shape, generator=torch.Generator().manual_seed(5))
    with AttentionStatistics(Given(), rows=None) as probe:
        probe.model(q, k, **options)
    heads = H if len(shape) == 5 else 1
    four = [x.reshape(-1, heads, T, D) for x in (q, k)]
    mask = torch.zeros(T, T) if "attn_mask" not in options else BIAS[0]
    expected = written_out(*four, mask.expand(len(four[0]), heads, T, T), 1 / math.sqrt(D))
    found = probe.result().frame[["entropy", "relative_entropy", "largest_logit", "rows"]]
    assert found.to_numpy() == pytest.approx(np.array(expected), rel=1e-5)


def test_query_heads_that_share_keys() -> None:
    q = torch.randn(B, H, T, D, generator=torch.Generator().manual_seed(5))
    k = torch.randn(B, 2, T, D, generator=torch.Generator().manual_seed(6))
    with AttentionStatistics(Given(), rows=None) as probe:
        probe.model(q, k, fused=True, enable_gqa=True, is_causal=True)
    expected = written_out(q, k[:, [0, 0, 1, 1]], CAUSAL.expand(B, H, T, T), 1 / math.sqrt(D))
    assert probe.result().frame["entropy"].tolist() == pytest.approx([entropy for entropy, *_ in expected], rel=1e-5)


@pytest.mark.parametrize("need_weights", [False, True])
def test_attention_of_torch(need_weights: bool) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.attend = nn.MultiheadAttention(8, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attend(x, x, x, need_weights=need_weights)[0]

    x = torch.randn(B, T, 8)
    model = Model().eval()
    with AttentionStatistics(model, rows=None) as probe, torch.no_grad():
        model(x)
        q, k, _ = F.linear(x, model.attend.in_proj_weight, model.attend.in_proj_bias).chunk(3, -1)
    q, k = (t.unflatten(-1, (4, 2)).transpose(1, 2) for t in (q, k))
    expected = written_out(q, k, torch.zeros(B, 4, T, T), 1 / math.sqrt(2))
    frame = probe.result().frame
    assert list(frame["layer"]) == ["attend"] * 4
    assert frame["entropy"].to_numpy() == pytest.approx([head[0] for head in expected], rel=1e-5)
    assert frame["largest_logit"].to_numpy() == pytest.approx([head[2] for head in expected], rel=1e-4)


@pytest.mark.parametrize("kind", ["GPT2", "Llama", "Bert", "T5", "Mixtral"])
def test_fused_and_eager_attention_of_transformers_agree(kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
    options = {"Llama": {"num_key_value_heads": 2}, "Mixtral": {"num_key_value_heads": 2, "num_local_experts": 4}}
    if kind == "T5":
        sizes = {"num_layers": 2, "d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 64}
    ids = torch.randint(0, 50, (2, 10), generator=torch.Generator().manual_seed(0))
    frames = []
    for implementation in ("sdpa", "eager"):
        torch.manual_seed(0)
        config = getattr(transformers, f"{kind}Config")(vocab_size=50, **sizes, **options.get(kind, {}))
        config._attn_implementation = implementation
        model = getattr(transformers, f"{kind}Model")(config).eval()
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids).index_fill(1, torch.tensor([9]), 0)}
        inputs |= {"decoder_input_ids": ids} if kind == "T5" else {}
        with AttentionStatistics(model, rows=None) as probe, torch.no_grad():
            model(**inputs)
        frames.append(probe.result().frame)
    layers = 6 if kind == "T5" else 2
    assert [frame["layer"].nunique() for frame in frames] == [layers, layers]
    for column in ("entropy", "relative_entropy", "largest_logit", "rows"):
        assert frames[0][column].to_numpy() == pytest.approx(frames[1][column].to_numpy(), rel=1e-4, abs=1e-6)


def test_rows_are_a_sample() -> None:
    assert sampled_positions(10, 4, torch.device("cpu")).tolist() == [0, 3, 6, 9]
    assert sampled_positions(3, 4, torch.device("cpu")).tolist() == [0, 1, 2]
    model = Attention("fused", is_causal=True)
    with AttentionStatistics(model, rows=3) as probe:
        model(torch.randn(B, T, 8))
    assert set(probe.result().frame["rows"]) == {3 * B}


def test_outputs_gradients_and_modes_stay_as_they_are() -> None:
    model, x = Attention("fused"), torch.randn(B, T, 8)
    model(x).sum().backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    with AttentionStatistics(model) as probe:
        model(x).sum().backward()
        with pytest.raises(RuntimeError):
            model(x[..., :3])
    assert not torch.overrides._get_current_function_mode_stack()
    assert set(probe.result().frame["rows"]) == {T * B}
    assert all(torch.equal(p.grad, e) for p, e in zip(model.parameters(), expected, strict=True))


def test_a_classifier_of_rows_is_no_attention() -> None:
    class Router(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return (self.gate(x).softmax(-1)[..., None] * x[:, :, None]).sum(-2)

    with AttentionStatistics(model := Router()) as probe:
        model(torch.randn(B, T, 8))
    with pytest.raises(GradlabError, match="no attention of Router"):
        probe.result()


def test_a_request_that_cannot_be_meant() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        AttentionStatistics(nn.Identity(), rows=0)


def test_tokens() -> None:
    x = torch.randn(3, 6, 4, dtype=torch.float64)
    for tokens in (x, x.mT):
        eigenvalues = torch.linalg.svdvals(tokens).square()
        expected = eigenvalues.sum(1).square() / eigenvalues.square().sum(1)
        torch.testing.assert_close(token_participation(tokens), expected)
    cosines = [
        torch.stack([F.cosine_similarity(a, b, 0) for i, a in enumerate(one) for b in one[i + 1 :]]).mean() for one in x
    ]
    torch.testing.assert_close(token_cosine(x), torch.stack(cosines))
    assert token_participation(torch.ones(1, 5, 3)).item() == pytest.approx(1)
