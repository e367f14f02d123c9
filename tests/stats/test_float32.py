from __future__ import annotations

import pytest
import torch

from gradlab.stats.float32 import full_float32


@pytest.mark.parametrize("convolutions", [True, False])
@pytest.mark.parametrize("products", ["highest", "high"])
def test_the_settings_are_the_users_again(convolutions: bool, products: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", convolutions)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(products)
    try:
        for _ in range(2):
            with pytest.raises(ValueError, match="wrong"), full_float32():
                raise ValueError("wrong")
            assert torch.backends.cudnn.allow_tf32 is convolutions
            assert torch.backends.cuda.matmul.allow_tf32 is (products == "high")
            assert torch.get_float32_matmul_precision() == products
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_convolutions_have_all_bits_of_float32() -> None:
    x, weight = torch.rand(8, 64, 32, 32), torch.rand(64, 64, 3, 3)
    exact = torch.nn.functional.conv2d(x.double(), weight.double())
    with full_float32():
        full = torch.nn.functional.conv2d(x.cuda(), weight.cuda()).cpu().double()
        product = (x.cuda() @ x.cuda()).cpu().double()
    assert float((full / exact - 1).abs().max()) < 1e-5
    assert float((product / (x.double() @ x.double()) - 1).abs().max()) < 1e-5
