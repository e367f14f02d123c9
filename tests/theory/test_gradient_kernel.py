"""The kernel of gradients along a line against automatic differentiation and a closed form."""

import pytest
import torch

from gradlab import theory


@pytest.mark.parametrize("depth", [1, 3, 6])
@pytest.mark.parametrize("norm", ["none", "center"])
def test_the_kernel_on_a_line_is_the_mixed_derivative(depth, norm):
    """The reference is automatic differentiation of the kernel itself, with the subtracted means held fixed."""
    x = torch.linspace(-2, 2, 8, dtype=torch.float64)
    got = theory.feedforward_gradient_kernel(x, depth, norm)
    dx, dy = (torch.zeros(8, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def values(moved_x, moved_y):
        """Compute kernels between shifted and unshifted inputs, with the means of the unshifted ones."""
        points = {"u": x, "x": x + moved_x, "y": x + moved_y}
        kernel = {a + b: points[a][:, None] * points[b] + 1 for a in points for b in points}
        for layer in range(1, depth + 1):
            if norm == "center" and 1 < layer < depth:
                mean = {a: kernel[a + "u"].mean(1) for a in points}
                back = {b: kernel["u" + b].mean(0) for b in points}
                whole = kernel["uu"].mean()
                kernel = {k: v - mean[k[0]][:, None] - back[k[1]] + whole for k, v in kernel.items()}
            diagonal = {a: kernel[a + a].diagonal() for a in points}
            scale = {k: (diagonal[k[0]][:, None] * diagonal[k[1]]).sqrt() for k in kernel}
            off = ~torch.eye(8, dtype=torch.bool)
            rho = {k: torch.where(off, kernel[k] / scale[k], 0.0) for k in kernel}
            # On the diagonal the points coincide; the kernel there is √(ac) up to second order, and is not needed.
            kernel = {k: scale[k] * torch.where(off, theory.kappa1(rho[k]), kernel[k] / scale[k]) for k in kernel}
        return kernel["xy"]

    mixed = torch.zeros(8, 8, dtype=torch.float64)
    for i in range(8):
        for j in range(8):
            if i == j:
                continue
            (first,) = torch.autograd.grad(values(dx, dy)[i, j], dx, create_graph=True)
            (second,) = torch.autograd.grad(first[i], dy)
            mixed[i, j] = second[j]
    off = ~torch.eye(8, dtype=torch.bool)
    assert torch.allclose(got[off], mixed[off], rtol=1e-8, atol=1e-10)
    assert torch.allclose(got.diagonal(), torch.ones(8, dtype=torch.float64))


@pytest.mark.parametrize(("acf_of", "points"), [((lambda k: 1 - 3 * k / 256), 256), ((lambda k: 1 - 3 * k / 64), 64)])
@pytest.mark.parametrize("depth", [1, 5, 50])
def test_without_bias_and_norm_the_gradient_is_one_step(acf_of, points, depth):
    x = torch.linspace(-2, 2, points, dtype=torch.float64)
    kernel = theory.feedforward_gradient_kernel(x, depth, bias=False)
    acf = theory.expected_autocorrelation(kernel, 10)
    assert acf.tolist() == pytest.approx([acf_of(k) for k in range(11)], abs=1e-7)
