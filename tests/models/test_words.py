"""The maximum over words: the numbers of torch's own operations, and less memory."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mcn_lightning.models.branches import _relu_of_maximum


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_maximum_and_gradient_are_those_of_torch_bit_for_bit(dtype):
    torch.manual_seed(0)
    rows = torch.randn(6, 5, 7).to(dtype)
    rows[:, 3] = rows[:, 1]  # equal words share the gradient
    rows[1] = -1.0  # no word reaches 0
    rows[2] = float("-inf")  # all words are masked
    rows[3, :, 2] = 0.0
    slope, found = torch.randn(6, 7).to(dtype), []
    for function in (_relu_of_maximum, lambda given: F.relu(given.amax(dim=1))):
        given, saved = rows.clone().requires_grad_(), []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, saved=saved: saved.append(tensor) or tensor, lambda tensor: tensor
        ):
            result = function(given)
        result.backward(slope)
        found.append((result.detach(), given.grad, sum(tensor.numel() for tensor in saved)))
    (ours, gradient, kept), (plain, truth, more) = found
    assert torch.equal(ours, plain) and torch.equal(gradient, truth) and truth.count_nonzero() > 20
    assert kept == rows.numel() + ours.numel() and more == kept + ours.numel()
