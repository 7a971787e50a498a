"""The optimiser on CUDA is fused, and runs go on from checkpoints of either kind."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mcn_lightning.training.optimizer import OptimizerConfig, make_optimizer

KINDS = ("adam", "adamw")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def train(module, optimizer, steps, first=0):
    for step in range(first, first + steps):
        rows = torch.randn(5, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        module(rows).square().sum().backward()
        optimizer.step()


def on_disk(state):
    """Return a state as a checkpoint gives it back."""
    file = io.BytesIO()
    torch.save(state, file)
    return torch.load(io.BytesIO(file.getvalue()), map_location="cpu", weights_only=True)


@pytest.mark.parametrize("kind", KINDS)
def test_fused_on_cuda_alone(kind):
    config = OptimizerConfig(kind=kind)
    with FakeTensorMode():  # tensors without content, which may be on any device
        gpu = [nn.Parameter(torch.empty(3, *more, device="cuda")) for more in ((), (3,))]
        optimizer, _ = make_optimizer(config, gpu, 10, 5)
        assert [group["fused"] for group in optimizer.param_groups] == [True, True]
    for parameters in ([*network().parameters()], [*network().parameters(), gpu[0]]):
        optimizer, _ = make_optimizer(config, parameters, 10, 5)
        assert [group["fused"] for group in optimizer.param_groups] == [None, None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("before", "after"), [(False, True), (True, False)])
def test_a_run_goes_on_with_the_kernel_of_its_own(before, after, kind):
    config, whole, module = OptimizerConfig(kind=kind, lr=0.1, weight_decay=0.1), network(), network()
    straight, _ = make_optimizer(config, [*whole.parameters()], 10, 5, fused=after)
    straight.param_groups[0]["lr"] = straight.param_groups[1]["lr"] = 0.1  # the first step of a warm-up has the rate 0
    train(whole, straight, 6)
    first, _ = make_optimizer(config, [*module.parameters()], 10, 5, fused=before)
    first.param_groups[0]["lr"] = first.param_groups[1]["lr"] = 0.1
    train(module, first, 3)
    saved = on_disk(first.state_dict())
    given = copy.deepcopy(saved["param_groups"])
    assert [group["fused"] for group in given] == [before or None] * 2
    second, _ = make_optimizer(config, [*module.parameters()], 10, 5, fused=after)
    second.load_state_dict(saved)
    assert saved["param_groups"] == given, "what was given is not changed"
    assert [(group["fused"], group["lr"]) for group in second.param_groups] == [(after or None, 0.1)] * 2
    assert {state["step"].item() for state in second.state.values()} == {3}
    train(module, second, 3, first=3)
    for ours, theirs in zip(module.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_gradients_of_a_fused_optimizer_can_be_clipped_in_bfloat16():
    module, plugin = network(), MixedPrecision("bf16-mixed", "cpu")
    with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
        plugin.clip_gradients(torch.optim.Adam(module.parameters(), fused=True), 0.5)
    optimizer, _ = make_optimizer(OptimizerConfig(), [*module.parameters()], 10, 5, fused=True)
    module(torch.ones(5, 4)).sum().backward()
    plugin.clip_gradients(optimizer, 0.5)
    total = torch.stack([parameter.grad.norm() for parameter in module.parameters()]).norm()
    torch.testing.assert_close(total.item(), 0.5, rtol=1e-4, atol=0)
