"""The drawing of normal numbers against torch's, to the bit, and against their definition."""

import numpy as np
import pytest
import torch

from gradlab.models.mlp import drawing
from gradlab.models.mlp.drawing import draw_normal

needs_library = pytest.mark.skipif(
    drawing._library() is None, reason="there is no C compiler, or torch draws otherwise"
)


def generator(seed):
    return torch.Generator().manual_seed(seed)


@needs_library
@pytest.mark.parametrize("sizes", [(16,), (17, 31, 623, 624, 625), (15, 200, 200, 7, 40_000), (1248, 1, 40_003)])
@pytest.mark.parametrize("seed", [0, 5, 2**63 - 1])
@pytest.mark.parametrize("inference", [False, True])
def test_numbers_and_generator_are_those_of_torch_to_the_bit(sizes, seed, inference):
    one, other = generator(seed), generator(seed)
    with torch.inference_mode(inference):
        for size in sizes:
            found = draw_normal(torch.empty(size), 0.1, one)
            expected = torch.empty(size).normal_(0, 0.1, generator=other)
            assert torch.equal(found.view(torch.int32), expected.view(torch.int32))
            assert torch.equal(one.get_state(), other.get_state())
        # What others draw in between does not disturb it.
        assert torch.equal(torch.rand(3, generator=one), torch.rand(3, generator=other))
        assert torch.equal(draw_normal(torch.empty(4, 5), 1, one), torch.randn(4, 5, generator=other))


def test_numbers_are_box_and_muller_s_of_the_mersenne_twister():
    words = np.random.RandomState(3).randint(0, 2**32, 3200, dtype=np.uint32)
    uniform = ((words & 0xFFFFFF) / 2**24).reshape(-1, 2, 8)
    radius, angle = np.sqrt(-2 * np.log(1 - uniform[:, 0])), 2 * np.pi * uniform[:, 1]
    expected = 0.5 * np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).ravel()
    found = draw_normal(torch.empty(3200), 0.5, generator(3))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_what_the_library_does_not_serve_is_drawn_by_torch(monkeypatch):
    monkeypatch.setattr(drawing, "_draw", lambda *_: pytest.fail("drawn by the library"))
    for out in (
        torch.empty(15),
        torch.empty(40, dtype=torch.float64),
        torch.nn.Parameter(torch.empty(20)).detach()[:9],
    ):
        expected = torch.empty_like(out).normal_(0, 2, generator=generator(1))
        assert torch.equal(draw_normal(out, 2, generator(1)), expected)
    assert draw_normal(torch.empty(40, device="meta"), 2, generator(1)).is_meta


@pytest.mark.parametrize("std", [-1.0, float("nan")])
def test_what_torch_refuses_is_refused(std):
    with pytest.raises(RuntimeError, match="std"):
        draw_normal(torch.empty(40), std, generator(1))
    with pytest.raises(RuntimeError, match="leaf"):
        draw_normal(torch.zeros(40, requires_grad=True), 1, generator(1))


@needs_library
def test_a_library_that_draws_other_numbers_does_not_serve(monkeypatch):
    draw, library = drawing._draw, drawing._library()
    assert drawing._draws_as_torch(library)

    def one_bit_off(*args):
        draw(*args)
        args[1].view(torch.int32)[1000] ^= 1

    monkeypatch.setattr(drawing, "_draw", one_bit_off)
    assert not drawing._draws_as_torch(library)
