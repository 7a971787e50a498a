"""Every loss against the slow formula: values, gradients, degenerate batches."""

import math

import pytest
import torch
from references import losses as reference

from mcn_lightning.losses import (
    ClusterLoss,
    ClusterLossConfig,
    ContrastiveConfig,
    LossConfig,
    cluster_contrast,
    info_nce,
    make_contrastive,
    max_margin,
    mil_nce,
    mms,
    reconstruction_loss,
)

KINDS = {
    "mms": lambda x, y: reference.mms(x, y, 0.3),
    "mil_nce": reference.mil_nce,
    "info_nce": lambda x, y: reference.info_nce(x, y, 0.5),
    "max_margin": lambda x, y: reference.max_margin(x, y, 0.2),
}


def leaves(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes]


def same_with_gradients(ours, theirs, inputs):
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_contrastive_equals_reference(kind):
    text, video, audio = inputs = leaves((5, 3), (5, 3), (5, 3))
    temperature = 0.5 if kind == "info_nce" else 1.0
    loss = make_contrastive(ContrastiveConfig(kind=kind, margin=0.3, ranking_margin=0.2, temperature=temperature))
    terms = loss({"video": video, "audio": audio, "text": text})
    assert list(terms) == ["text_video", "audio_text", "audio_video"]
    formula = KINDS[kind]
    expected = {
        "text_video": formula(text, video),
        "audio_text": formula(audio, text),
        "audio_video": formula(audio, video),
    }
    for name, term in terms.items():
        torch.testing.assert_close(term, expected[name])
    same_with_gradients(sum(terms.values()), sum(expected.values()), inputs)


@pytest.mark.parametrize("loss", [lambda s: mms(s, 0.3), mil_nce, info_nce, lambda s: max_margin(s, 0.2)])
def test_gradcheck(loss):
    (similarity,) = leaves((4, 4))
    assert torch.autograd.gradcheck(loss, (similarity,))


def test_margin_is_taken_after_the_temperature():
    x, y = leaves((4, 3), (4, 3))
    loss = make_contrastive(ContrastiveConfig(margin=0.3, temperature=0.5))({"text": x, "video": y})
    torch.testing.assert_close(loss["text_video"], reference.mms(2 * x, y, 0.3))


def test_normalize_forgets_lengths():
    x, y = leaves((4, 3), (4, 3))
    loss = make_contrastive(ContrastiveConfig(normalize=True))
    a = loss({"text": x, "video": y})["text_video"]
    torch.testing.assert_close(a, loss({"text": 7 * x, "video": y / 3})["text_video"])


def test_one_clip_and_identical_rows():
    one = torch.tensor([[5.0]])
    assert mms(one, 0.3) == 0
    assert info_nce(one) == 0
    assert max_margin(one, 0.3) == 0
    torch.testing.assert_close(mil_nce(one).item(), math.log(2), rtol=0, atol=1e-6)
    flat = torch.full((6, 6), 2.0, dtype=torch.float64)
    # the true pair has exp(-margin) of the mass of a false one
    expected = 2 * math.log(5 * math.exp(0.3) + 1)
    torch.testing.assert_close(mms(flat, 0.3).item(), expected)
    torch.testing.assert_close(info_nce(flat).item(), math.log(6))
    torch.testing.assert_close(mil_nce(flat).item(), math.log(12))
    torch.testing.assert_close(max_margin(flat, 0.3).item(), 0.6)


def test_large_similarities_stay_finite_in_half_precision():
    similarity = (torch.eye(4) * 3e4).half()
    for value in (mms(similarity, 0.001), mil_nce(similarity), info_nce(similarity), max_margin(similarity, 0.1)):
        assert value.dtype == torch.float32
        assert torch.isfinite(value)


def test_softmax_is_float32_under_autocast():
    x, y = torch.randn(8, 4), torch.randn(8, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = make_contrastive(ContrastiveConfig())({"text": x, "video": y})["text_video"]
        clusters = cluster_contrast(x, torch.zeros(8, dtype=torch.int64), y, 0.001)
    assert loss.dtype == clusters.dtype == torch.float32
    torch.testing.assert_close(clusters, cluster_contrast(x, torch.zeros(8, dtype=torch.int64), y, 0.001))


def test_pairs_of_present_modalities_only():
    x, y = leaves((3, 2), (3, 2))
    assert list(make_contrastive(ContrastiveConfig())({"video": x, "audio": y})) == ["audio_video"]
    assert make_contrastive(ContrastiveConfig(kind="none")) is None


def test_pairs_have_weights_and_zero_leaves_one_out():
    x = {name: torch.randn(6, 4, dtype=torch.float64) for name in ("video", "audio", "text")}
    plain = make_contrastive(ContrastiveConfig())(x)
    loss = make_contrastive(ContrastiveConfig(text_video_weight=0.25, audio_video_weight=0.0))(x)
    assert list(loss) == ["text_video", "audio_text"]
    assert loss["text_video"].item() == pytest.approx(plain["text_video"].item() / 4, rel=1e-12)
    assert loss["audio_text"].item() == plain["audio_text"].item()
    with pytest.raises(ValueError, match="audio_text_weight"):
        ContrastiveConfig(audio_text_weight=-1.0)


def test_learned_temperature():
    loss = make_contrastive(ContrastiveConfig(kind="info_nce", temperature=0.07, learn_temperature=True))
    assert loss.learns_temperature
    assert loss.temperature.item() == pytest.approx(0.07)
    x, y = leaves((4, 3), (4, 3))
    loss({"text": x, "video": y})["text_video"].backward()
    assert loss.log_temperature.grad.abs() > 0
    with torch.no_grad():
        loss.log_temperature.fill_(-50.0)
        loss.log_temperature.grad = None
    assert loss.temperature.item() == pytest.approx(0.01)
    loss({"text": x, "video": y})["text_video"].backward()
    assert torch.isfinite(loss.log_temperature.grad)
    assert loss.log_temperature.grad != 0, "a temperature below the bound must be able to come back"
    assert not make_contrastive(ContrastiveConfig()).learns_temperature


def test_cluster_contrast_equals_reference():
    x, centroids = leaves((6, 3), (4, 3))
    labels = torch.tensor([0, 3, 1, 1, 2, 0])
    fixed = centroids.detach()
    same_with_gradients(cluster_contrast(x, labels, fixed, 0.3), reference.cluster_contrast(x, labels, fixed, 0.3), [x])
    torch.testing.assert_close(
        cluster_contrast(x, labels, fixed, 0.3, 0.5), reference.cluster_contrast(2 * x, labels, fixed, 0.3)
    )
    assert torch.autograd.gradcheck(lambda value: cluster_contrast(value, labels, fixed, 0.3), (x,))


def test_soft_codes_are_a_mixture_of_hard_ones():
    x, centroids = leaves((6, 3), (4, 3))
    codes = torch.rand(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    codes = codes / codes.sum(dim=1, keepdim=True)
    mixed = sum(
        (
            codes[:, k] * torch.stack([cluster_contrast(row[None], torch.tensor([k]), centroids, 0.0) for row in x])
        ).mean()
        for k in range(4)
    )
    same_with_gradients(cluster_contrast(x, codes, centroids, 0.0), mixed, [x, centroids])
    hard = torch.nn.functional.one_hot(torch.arange(6) % 4, 4).double()
    same = cluster_contrast(x, torch.arange(6) % 4, centroids, 0.3)
    torch.testing.assert_close(cluster_contrast(x, hard, centroids, 0.3), same)


def test_cluster_closed_forms():
    labels = torch.zeros(5, dtype=torch.int64)
    assert cluster_contrast(torch.randn(5, 3), labels, torch.randn(1, 3), 0.3) == 0
    flat = cluster_contrast(torch.randn(5, 3), labels, torch.ones(8, 3), 0.0)
    assert flat.item() == pytest.approx(math.log(8), abs=1e-5)


def test_cluster_loss_is_the_mean_over_the_features_with_a_target():
    video, audio, text, centroids = leaves((6, 3), (6, 3), (6, 3), (4, 3))
    labels, fixed = torch.arange(6) % 4, centroids.detach()
    features = {"video": video, "audio": audio, "text": text, "mean": (video + audio + text) / 3}
    loss = ClusterLoss(ClusterLossConfig(margin=0.3))
    ours = loss(features, {name: (fixed, labels, False) for name in ("video", "audio", "text")})
    same_with_gradients(ours, reference.cluster([video, audio, text], labels, fixed, 0.3), [video, audio, text])
    weighted = ClusterLoss(ClusterLossConfig(margin=0.3, video_weight=0.0, audio_weight=3.0))
    alone = reference.cluster_contrast(audio, labels, fixed, 0.3)
    torch.testing.assert_close(
        weighted(features, dict.fromkeys(("video", "audio"), (fixed, labels, False))), 1.5 * alone
    )
    joint = loss(features, {"mean": (fixed, labels, False)})
    torch.testing.assert_close(joint, reference.cluster_contrast(features["mean"], labels, fixed, 0.3))
    for normalize, cosine in ((True, False), (False, True)):
        unit = ClusterLoss(ClusterLossConfig(normalize=normalize))
        one = unit({"video": video}, {"video": (fixed, labels, cosine)})
        torch.testing.assert_close(one, unit({"video": 5 * video}, {"video": (fixed / 7, labels, cosine)}))


def test_reconstruction_equals_reference():
    names, shapes = ("video", "audio", "text"), ((4, 5), (4, 3), (4, 2))
    made = dict(zip(names, leaves(*shapes), strict=True))
    wanted = dict(zip(names, leaves(*shapes, seed=1), strict=True))
    ours = reconstruction_loss(made, wanted, detach_targets=False)
    assert list(ours) == list(names)
    same_with_gradients(sum(ours.values()), reference.reconstruction(made, wanted), [*made.values(), *wanted.values()])
    sum(reconstruction_loss(made, wanted, detach_targets=True).values()).backward()
    assert all(value.grad is None for value in wanted.values())
    assert all(value.grad is not None for value in made.values())
    assert reconstruction_loss({}, wanted, detach_targets=True) == {}


@pytest.mark.parametrize(
    ("make", "flag"),
    [
        (lambda: ContrastiveConfig(kind="mse"), "--model.loss.contrastive.kind"),
        (lambda: ContrastiveConfig(margin=-1), "--model.loss.contrastive.margin"),
        (lambda: ContrastiveConfig(temperature=0), "--model.loss.contrastive.temperature"),
        (lambda: ContrastiveConfig(temperature=0.001, learn_temperature=True), "--model.loss.contrastive.temperature"),
        (lambda: ContrastiveConfig(ranking_margin=math.nan), "--model.loss.contrastive.ranking_margin"),
        (lambda: ClusterLossConfig(margin=-1), "--model.loss.cluster.margin"),
        (lambda: ClusterLossConfig(audio_weight=-1), "--model.loss.cluster.audio_weight"),
        (lambda: ClusterLossConfig(temperature=-1), "--model.loss.cluster.temperature"),
        (lambda: LossConfig(contrastive_weight=-1), "--model.loss.contrastive_weight"),
        (lambda: LossConfig(cluster_weight=math.nan), "--model.loss.cluster_weight"),
        (lambda: LossConfig(reconstruction_weight=math.inf), "--model.loss.reconstruction_weight"),
    ],
)
def test_wrong_options_are_refused_by_name(make, flag):
    with pytest.raises(ValueError, match=flag.replace(".", r"\.")) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_of_sums_equals_reference(kind):
    """AVLnet-Text-Tri is fine-tuned with MMS(text, audio + video)."""
    text, video, audio = inputs = leaves((5, 3), (5, 3), (5, 3))
    temperature = 0.5 if kind == "info_nce" else 1.0
    config = ContrastiveConfig(kind=kind, margin=0.3, ranking_margin=0.2, temperature=temperature, pairs=["t-va"])
    terms = make_contrastive(config)({"video": video, "audio": audio, "text": text})
    assert list(terms) == ["text_video+audio"]
    same_with_gradients(terms["text_video+audio"], KINDS[kind](text, video + audio), inputs)


def test_pairs_may_mix_sums_and_single_modalities():
    text, video, audio = leaves((5, 3), (5, 3), (5, 3))
    config = ContrastiveConfig(margin=0.3, pairs=["v-t", "ta-v"], text_video_weight=0.5)
    terms = make_contrastive(config)({"video": video, "audio": audio, "text": text})
    expected = {
        "text_video": 0.5 * reference.mms(text, video, 0.3),
        "audio+text_video": reference.mms(audio + text, video, 0.3),
    }
    assert list(terms) == list(expected)
    for name, term in terms.items():
        torch.testing.assert_close(term, expected[name])


def test_audio_and_text_of_a_joint_embedding_are_that_embedding():
    config = ContrastiveConfig(pairs=["v-ta"], audio_text_video_weight=0.5)
    assert config.weighted_pairs(["video", "audio_text"]) == {("audio_text", "video"): 0.5}
    assert config.weighted_pairs(["video", "audio", "text"]) == {("video", "audio+text"): 1.0}


@pytest.mark.parametrize(
    "pairs", [[], ["t"], ["t-"], ["t-t"], ["ta-at"], ["t-x"], ["t->va"], ["t-va", "va-t"], ["tt-v"]]
)
def test_pairs_that_are_none_are_refused(pairs):
    with pytest.raises(ValueError, match=r"--model\.loss\.contrastive\.pairs: expected .*t-va.*, found"):
        ContrastiveConfig(pairs=pairs)


def test_a_pair_of_a_modality_that_is_not_there_is_refused_by_name():
    config = ContrastiveConfig(pairs=["t-v", "t-va"])
    config.check_pairs(["video", "audio", "text"])
    with pytest.raises(ValueError, match="found t-va, which needs audio"):
        config.check_pairs(["video", "text"])
