"""Collectives: what they give on one, two and three processes, and their gradients."""

from __future__ import annotations

import pytest
import torch
from processes import run

from mcn_lightning import distributed


def rows_of(rank, counts, width=3):
    whole = torch.arange(sum(counts) * width, dtype=torch.float64).view(-1, width)
    first = sum(counts[:rank])
    return whole[first : first + counts[rank]].clone()


def collect(counts):
    rank = distributed.rank()
    rows = rows_of(rank, counts).requires_grad_()
    found = distributed.row_counts(len(rows), "cpu")
    everyone = distributed.gather_summed(rows, found)
    (everyone * torch.arange(len(everyone))[:, None]).sum().backward()
    part = torch.tensor(float(rank + 1), requires_grad=True)
    whole = distributed.sum_with_gradient(part * 2)
    whole.backward()
    owned = distributed.reduce_scatter_rows(torch.ones(sum(counts), 2) * (rank + 1), found)
    sent = distributed.broadcast(torch.tensor([rank]))
    return found, everyone.detach(), rows.grad, whole.detach(), part.grad, owned, sent


@pytest.mark.parametrize("counts", [[4], [2, 2], [3, 0], [1, 2, 4]])
def test_every_process_gets_the_rows_of_all(counts):
    for rank, result in enumerate(run(collect, counts, world=len(counts))):
        found, everyone, gradient, whole, part, owned, sent = result
        assert found == counts
        assert torch.equal(everyone, torch.cat([rows_of(number, counts) for number in range(len(counts))]))
        first = sum(counts[:rank])
        expected = torch.arange(first, first + counts[rank]).double()[:, None].expand(-1, 3)
        assert torch.equal(gradient, len(counts) * expected)  # every process found as much
        processes = sum(range(1, len(counts) + 1))
        assert whole == 2 * processes and part == 2
        assert owned.shape == (counts[rank], 2) and (owned == processes).all()
        assert sent.tolist() == [0]
