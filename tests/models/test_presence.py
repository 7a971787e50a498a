"""A batch in which clips lack a modality: each branch sees the clips that have its own, and no others."""

import copy
import dataclasses

import pytest
import torch

from mcn_lightning.models import MCN, NetworkConfig

CONFIG = NetworkConfig(
    embedding_dim=6, video_dim=5, text_dim=4, audio_bands=3, audio_widths=(2, 2, 2, 4), reconstruction_hidden=3
)
FUSED = dataclasses.replace(CONFIG, reconstruction=False, fuse_audio_text=True)
PRESENT = torch.tensor([[letter in clip for letter in "vat"] for clip in ("vat", "vt", "va", "at", "v", "vat")])


def inputs():
    generator = torch.Generator().manual_seed(0)
    video, words = torch.rand(6, 5, generator=generator), torch.randn(6, 3, 4, generator=generator)
    audio, frames = -80 * torch.rand(6, 3, 32, generator=generator), torch.tensor([32, 0, 17, 32, 0, 9])
    return {"video": video, "audio": audio, "audio_frames": frames, "words": words}


def gradients(network):
    return {name: value.grad for name, value in network.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("training", [True, False])
def test_a_branch_runs_on_the_clips_that_have_its_modality(training):
    torch.manual_seed(0)
    network = MCN(CONFIG).train(training)
    apart, given = copy.deepcopy(network), inputs()
    found = network(**given, present=PRESENT)
    names = {"video": ("video",), "audio": ("audio", "audio_frames"), "text": ("words",)}
    for number, (modality, fields) in enumerate(names.items()):
        rows = PRESENT[:, number].nonzero()[:, 0]
        alone = apart(**{field: given[field][rows] for field in fields})
        embedding = getattr(found, modality)
        torch.testing.assert_close(embedding[rows], getattr(alone, modality))
        assert embedding.shape == (6, 6) and not embedding[~PRESENT[:, number]].any()
        assert torch.equal(found.present[modality], PRESENT[:, number])
        torch.testing.assert_close(found.targets[modality], alone.targets[modality])
        torch.testing.assert_close(found.reconstructions[modality], alone.reconstructions[modality])
        (getattr(alone, modality).square().sum() + alone.reconstructions[modality].sum()).backward()
        (embedding.square().sum() + found.reconstructions[modality].sum()).backward(retain_graph=True)
    for name, value in gradients(apart).items():
        torch.testing.assert_close(gradients(network)[name], value, msg=name)
    for name, value in apart.state_dict().items():  # the statistics of batch norm among them
        torch.testing.assert_close(network.state_dict()[name], value, msg=name)


def test_a_joint_embedding_needs_both():
    torch.manual_seed(0)
    network = MCN(FUSED).eval()
    given = inputs()
    found, whole = network(**given, present=PRESENT), network(**given)
    both = PRESENT[:, 1:].all(dim=1)
    assert torch.equal(found.present["audio_text"], both) and found.audio is None
    torch.testing.assert_close(found.audio_text[both], whole.audio_text[both])
    assert not found.audio_text[~both].any()
    torch.testing.assert_close(found.mean()[2], found.video[2])  # no text, so its video alone


def test_no_clip_with_sound_leaves_the_statistics_alone():
    network = MCN(CONFIG).train()
    before = copy.deepcopy(network.state_dict())
    found = network(**inputs(), present=PRESENT & torch.tensor([True, False, True]))
    assert not found.audio.any() and found.reconstructions["audio"].shape == (0, 4)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_where_all_is_there_nothing_changes():
    torch.manual_seed(0)
    network = MCN(CONFIG).eval()
    given = inputs()
    found, plain = network(**given, present=torch.ones(6, 3, dtype=torch.bool)), network(**given)
    assert found.present is None
    for name, value in plain.embeddings().items():
        assert torch.equal(found.embeddings()[name], value), name
