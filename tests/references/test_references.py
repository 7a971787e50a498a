"""The reference formulas against closed forms and torch's own modules."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from references import clustering, losses, model

SMALL = {"dim": 10, "video_dim": 12, "text_dim": 7, "audio_widths": (4, 6, 8, 10), "recon_hidden": 5}


def rows(count, width, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_losses_equal_torch_in_value_and_gradient():
    x, y = rows(5, 3, 0).requires_grad_(), rows(5, 3, 1).requires_grad_()
    centroids, labels, diagonal = rows(4, 3, 2), torch.tensor([0, 3, 3, 1, 2]), torch.arange(5)
    s = x @ y.T
    cosine = F.normalize(x) @ F.normalize(y).T / 0.07
    hinge = F.relu(0.1 + s - s.diag()[:, None]) + F.relu(0.1 + s - s.diag()[None])
    shifted = s - 0.3 * torch.eye(5)
    pairs = {
        "mms": (
            losses.mms(x, y, 0.3),
            F.cross_entropy(shifted, diagonal) + F.cross_entropy(shifted.T, diagonal),
        ),
        "mil_nce": (losses.mil_nce(x, y), (torch.cat([s, s.T], 1).logsumexp(1) - s.diag()).mean()),
        "info_nce": (
            losses.info_nce(x, y, 0.07),
            (F.cross_entropy(cosine, diagonal) + F.cross_entropy(cosine.T, diagonal)) / 2,
        ),
        "max_margin": (losses.max_margin(x, y, 0.1), hinge[~torch.eye(5, dtype=torch.bool)].mean()),
        "cluster_contrast": (
            losses.cluster_contrast(x, labels, centroids, 0.3),
            F.cross_entropy(x @ centroids.T - 0.3 * F.one_hot(labels, 4), labels),
        ),
        "reconstruction": (
            losses.reconstruction({"v": x, "a": x[:, :2]}, {"v": y, "a": y[:, 1:]}),
            F.mse_loss(x, y) + F.mse_loss(x[:, :2], y[:, 1:]),
        ),
    }
    for name, (slow, direct) in pairs.items():
        torch.testing.assert_close(slow, direct, msg=name)
        torch.testing.assert_close(
            torch.autograd.grad(slow, x, retain_graph=True), torch.autograd.grad(direct, x, retain_graph=True), msg=name
        )


def test_losses_of_a_constant_embedding():
    x = torch.ones(4, 3, dtype=torch.float64)
    assert float(losses.mms(x, x, 0.0)) == pytest.approx(2 * math.log(4))
    assert float(losses.mil_nce(x, x)) == pytest.approx(math.log(8))
    assert float(losses.info_nce(x, x, 0.5)) == pytest.approx(math.log(4))
    assert float(losses.max_margin(x, x, 0.1)) == pytest.approx(0.2)
    assert float(losses.contrastive(x, x, x, 0.0)) == pytest.approx(6 * math.log(4))
    assert float(losses.cluster([x, x], torch.zeros(4, dtype=torch.int64), x, 0.0)) == pytest.approx(math.log(4))
    one, two, three = (torch.tensor(float(value)) for value in (1, 2, 3))
    assert float(losses.total(one, two, three)) == 153


def test_kmeans_finds_two_directions_and_zeroes_an_empty_cluster():
    data = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [0.0, 4.0]])
    start = torch.tensor([[1.0, 0.1], [0.1, 1.0], [-1.0, -1.0]])
    released = clustering.kmeans(data, start)
    assert released.centroids.tolist() == [[2, 0], [0, 3], [0, 0]]
    assert released.labels.tolist() == released.last_assignment.tolist() == [0, 0, 1, 1]
    assert released.emptied == [1] * released.iterations == [1, 1]
    assert released.moves[-1] == 0
    kept = clustering.kmeans(data, start, zero_empty=False)
    assert kept.centroids[2].tolist() == [-1, -1]
    assert clustering.kmeans(data, start, max_iterations=1).iterations == 1


def test_assignment_takes_the_lowest_of_equal_centroids_and_scores_zero_as_zero():
    centroids = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    assert clustering.assign(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]]), centroids).tolist() == [1, 0, 0]


def test_queue_keeps_the_last_rows():
    queue: list[list[float]] = []
    for step in range(4):
        queue = clustering.push(queue, torch.tensor([[2.0 * step], [2.0 * step + 1]]), size=5)
    assert queue == [[3], [4], [5], [6], [7]]


def test_released_names_count_the_parameters_of_the_paper():
    shapes = model.released_shapes(6144)
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    parameters = sum(math.prod(shape) for name, shape in shapes.items() if not name.endswith(buffers))
    assert round(parameters / 1e6, 1) == 223.8
    assert shapes["DAVEnet.conv1.weight"] == (128, 1, 40, 1)
    assert not any(name.startswith("recon") for name in model.released_shapes(8, recon=False))


@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_and_gating_equal_torch(training):
    sd = {name: value.double() for name, value in model.random_released_state_dict(**SMALL).items()}
    norm = nn.BatchNorm2d(4).double().train(training)
    norm.load_state_dict({name: sd[f"DAVEnet.bn1.{name}"] for name in norm.state_dict()})
    x = rows(3, 4 * 6).view(3, 4, 1, 6)
    torch.testing.assert_close(model.batch_norm(sd, "DAVEnet.bn1", x, training), norm(x))
    h = F.linear(rows(3, 12), sd["GU_video.fc.weight"], sd["GU_video.fc.bias"])
    glu = F.glu(torch.cat([h, F.linear(h, sd["GU_video.cg.fc.weight"], sd["GU_video.cg.fc.bias"])], 1))
    torch.testing.assert_close(model.gated(sd, "GU_video", rows(3, 12)), glu)


@pytest.mark.parametrize("frames", [16, 33, 100])
def test_embed_shapes_and_audio_pooling(frames):
    sd = {name: value.double() for name, value in model.random_released_state_dict(**SMALL).items()}
    spec = rows(2, 40 * frames).view(2, 40, frames)
    words = rows(2, 3 * 7).view(2, 3, 7)
    inputs = (rows(2, 12), spec, torch.tensor([3, frames]), words)
    features = model.davenet(sd, spec, training=False)
    assert features.shape == (2, 10, math.ceil(frames / 16))
    out = model.embed(sd, *inputs, training=False)
    shapes = {name: tuple(value.shape) for name, value in out.items()}
    assert shapes == {
        **dict.fromkeys(
            ["video", "audio", "text", "audio_pooled", "text_pooled", "recon_audio", "recon_text"], (2, 10)
        ),
        "recon_video": (2, 12),
    }
    torch.testing.assert_close(out["audio_pooled"][0], features[0, :, 0])
    torch.testing.assert_close(out["audio_pooled"][1], features[1, :, : frames // 16].mean(1))
    trained = model.embed(sd, *inputs, training=True)
    torch.testing.assert_close(trained["audio_pooled"], model.davenet(sd, spec, training=True).mean(2))
    torch.testing.assert_close(trained["video"], out["video"])
    bare = model.random_released_state_dict(**SMALL, recon=False)
    assert model.embed(bare, *(x.float() if x.is_floating_point() else x for x in inputs), False)["recon_text"] is None


def test_random_state_dict_is_reproducible():
    one, same, other = (model.random_released_state_dict(**SMALL, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["GU_video.fc.weight"], other["GU_video.fc.weight"])
    assert one["DAVEnet.batchnorm1.running_var"].shape == (1,)
    assert one["DAVEnet.bn1.num_batches_tracked"].dtype == torch.int64
