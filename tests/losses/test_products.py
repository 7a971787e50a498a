"""Products of the loss in bfloat16, at the width and the size of released embeddings, against float64."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mcn_lightning.losses import ContrastiveConfig, make_contrastive, products
from mcn_lightning.losses.kinds import mil_nce, mms

CLIPS, WIDTH, WHOLE = 64, 6144, 64


def embeddings(norm: float, common: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two modalities ``(CLIPS, WIDTH)`` float32 in bfloat16's values.

    Embeddings of the released network are not normalised. All of them share a part, and true pairs another.
    """
    generator = torch.Generator().manual_seed(0)
    every, pair, *own = (torch.randn(n, WIDTH, generator=generator) for n in (1, CLIPS, CLIPS, CLIPS))
    true = 9 / norm**2  # so that similarities of true pairs are higher by 9
    rows = ((1 - true) ** 0.5 * z + true**0.5 * pair for z in own)
    rows = (common**0.5 * every + (1 - common) ** 0.5 * z for z in rows)
    x, y = (norm * z / z.norm(dim=1, keepdim=True) for z in rows)
    return x.bfloat16().float(), y.bfloat16().float()


def slopes(loss, x, y):
    """Return the gradients of both modalities, joined, in float64."""
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    return torch.cat(torch.autograd.grad(loss(x, y), (x, y))).double()


def of_texts_and_videos(config):
    loss = make_contrastive(config)
    return lambda x, y: loss({"text": x, "video": y})["text_video"]


def error(found, exact):
    return ((found - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("kind", ["mms", "mil_nce"])
@pytest.mark.parametrize(("norm", "common"), [(16, 0.3), (30, 0.3), (20, 0.5)])
def test_gradient_is_within_a_hundredth_of_float64(norm, common, kind):
    x, y = embeddings(norm, common)
    plain = {"mms": lambda similarity: mms(similarity, 0.001), "mil_nce": mil_nce}[kind]
    exact = slopes(lambda x, y: plain(x @ y.T), x.double(), y.double())
    rounded = slopes(lambda x, y: plain((x.bfloat16() @ y.bfloat16().T).float()), x, y)
    assert error(rounded, exact) > 0.03, "the size at which similarities in bfloat16 cost 3 % and more"
    for tile in (WHOLE, 48):
        loss = of_texts_and_videos(ContrastiveConfig(kind=kind, tile=tile))
        for dtype in (torch.bfloat16, torch.float32):  # as the network's output is under autocast, and gathered
            with torch.autocast("cpu", dtype=torch.bfloat16):
                found = slopes(loss, x.to(dtype), y.to(dtype))
            assert 1e-5 < error(found, exact) < 0.01, (tile, dtype)


def test_sums_are_float32_and_factors_bfloat16():
    x, y = (torch.randn(n, 3000, generator=torch.Generator().manual_seed(n)) for n in (5, 7))
    found = products.dot_products(x, y, torch.bfloat16)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), x.bfloat16().double() @ y.bfloat16().double().T, rtol=1e-5, atol=1e-4)
    for precision in (torch.float32, torch.float64):
        assert torch.equal(products.dot_products(x, y, precision), x.to(precision) @ y.to(precision).T)
    x, y = x.requires_grad_(), y.bfloat16().requires_grad_()
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (products.dot_products(x, y, torch.bfloat16) * weight).sum().backward()
    rounded = weight.bfloat16().double()
    assert (x.grad.dtype, y.grad.dtype) == (torch.float32, torch.bfloat16), "each of its embedding's precision"
    torch.testing.assert_close(x.grad.double(), rounded @ y.detach().double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(y.grad, (rounded.T @ x.detach().bfloat16().double()).bfloat16())


class Recorded(TorchDispatchMode):
    """The operations that ran."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.names.append(str(operation))
        return operation(*args, **(kwargs or {}))


@pytest.mark.skipif("dtype" not in torch.ops.aten.mm.overloads(), reason="torch.mm has no out_dtype before torch 2.8")
def test_cuda_multiplies_bfloat16_into_float32(monkeypatch):
    for wide, expected in ((True, ["aten.mm.dtype"]), (False, ["aten.mm.default"])):
        monkeypatch.setattr(products, "WIDE_PRODUCTS", wide)
        with FakeTensorMode(), Recorded() as recorded:  # tensors without content, which may be on any device
            x, y = (torch.empty(n, 8, device="cuda", dtype=torch.bfloat16) for n in (5, 7))
            found = products.product(x, y.T)
        assert (found.dtype, found.device.type, found.shape) == (torch.float32, "cuda", (5, 7))
        assert [name for name in recorded.names if ".mm." in name] == expected
