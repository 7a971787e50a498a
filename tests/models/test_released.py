"""Released weights: the network that reads them computes what the released network computes."""

import dataclasses

import pytest
import torch
from references import model as reference

from mcn_lightning.models import MCN, NetworkConfig
from mcn_lightning.models.released import (
    WeightsError,
    load_released,
    read_released,
    released_config,
    released_model,
)
from mcn_lightning.models.weights import read_weights

SMALL = {"video_dim": 10, "text_dim": 6, "audio_widths": (4, 4, 6, 8), "recon_hidden": 5}
TRI = {"recon": False}
KINDS = {
    "MCN with reconstruction": {},
    "MCN or AVLnet-Text-Tri": TRI,
    "AVLnet": {"text": "none"},
    "AVLnet-Text-Fused": {"text": "fused"},
}


def weights(dim=12, **options):
    return reference.random_released_state_dict(dim, **{**SMALL, **options})


def inputs(batch=3, frames=80, video_dim=10, text_dim=6):
    generator = torch.Generator().manual_seed(7)
    words = torch.randn(batch, 4, text_dim, generator=generator)
    words[0, 2:] = 0
    return (
        torch.randn(batch, video_dim, generator=generator),
        -20 * torch.rand(batch, 40, frames, generator=generator),
        torch.tensor([frames, 37, 5][:batch]),
        words,
    )


def network_of(state):
    network = MCN(released_config(state))
    load_released(network, state)
    return network


def same_outputs(state, batch, training):
    network = network_of(state).train(training)
    with torch.no_grad():
        output = network(*batch)
        expected = reference.embed(state, *batch, training=training)
    ours = {
        **output.embeddings(),
        **{f"{name}_pooled": value for name, value in output.targets.items() if name != "video"},
        **{f"recon_{name}": value for name, value in output.reconstructions.items()},
    }
    assert set(ours) == {name for name, value in expected.items() if value is not None}
    for name, value in ours.items():
        scale = expected[name].abs().max().clamp(min=1)
        torch.testing.assert_close(value / scale, expected[name] / scale, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_equal_reference(kind, training):
    same_outputs(weights(**KINDS[kind]), inputs(), training)


@pytest.mark.parametrize("kind", ["MCN with reconstruction", "AVLnet-Text-Fused"])
def test_embeddings_equal_reference_at_released_widths(kind):
    state = reference.random_released_state_dict(256, **KINDS[kind])
    for training in (False, True):
        same_outputs(state, inputs(2, 160, 4096, 300), training)


@pytest.mark.parametrize("kind", KINDS)
def test_kind_and_shape_are_found(kind):
    state = weights(**KINDS[kind])
    assert released_model(state).name == kind == released_model({f"module.{name}": v for name, v in state.items()}).name
    assert state["DAVEnet.conv1.weight"].shape == (4, 1, 40, 1)
    expected = {
        "embedding_dim": 12,
        "modalities": ["video", "audio"] + (["text"] if kind != "AVLnet" else []),
        "reconstruction": kind == "MCN with reconstruction",
        "fuse_audio_text": kind == "AVLnet-Text-Fused",
        "video_dim": 10,
        "audio_bands": 40,
        "audio_widths": [4, 4, 6, 8],
    }
    expected |= {"text_dim": 6} if kind != "AVLnet" else {}
    expected |= {"reconstruction_hidden": 5} if kind == "MCN with reconstruction" else {}
    assert released_config(state) == NetworkConfig(**expected)


def test_prefix_and_missing_counters():
    state = {f"module.{k}": v for k, v in weights().items() if not k.endswith("num_batches_tracked")}
    assert torch.equal(network_of(state).video.projection.weight, state["module.GU_video.fc.weight"])


def test_the_gate_that_fused_weights_do_not_use_is_set_aside():
    state = weights(text="fused")
    assert "GU_audio.cg.fc.weight" in state
    other = {name: torch.full_like(v, 9.0) if name.startswith("GU_audio.") else v for name, v in state.items()}
    without = {name: v for name, v in state.items() if not name.startswith("GU_audio.")}
    outputs = [network_of(one).eval()(*inputs()).audio_text for one in (state, other, without)]
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])


def drop(state, *starts):
    return {name: value for name, value in state.items() if not name.startswith(starts)}


@pytest.mark.parametrize(
    ("options", "missing", "kind"),
    [
        (TRI, "GU_text_captions.cg.fc", "MCN or AVLnet-Text-Tri"),
        (TRI, "text_pooling_caption.fc", "MCN or AVLnet-Text-Tri"),
        (TRI, "GU_audio.fc", "MCN or AVLnet-Text-Tri"),
        (TRI, "DAVEnet.bn1", "MCN or AVLnet-Text-Tri"),
        ({}, "recon_a.2", "MCN with reconstruction"),
        ({}, "recon_t.0", "MCN with reconstruction"),
        ({"text": "none"}, "DAVEnet.layer3.1.conv2", "AVLnet"),
        ({"text": "none"}, "DAVEnet.layer1.0.downsample.0", "AVLnet"),
        ({"text": "none"}, "GU_video.fc", "AVLnet"),
        ({"text": "fused"}, "GU_audio_text.fc_text", "AVLnet-Text-Fused"),
        ({"text": "fused"}, "DAVEnet_projection", "AVLnet-Text-Fused"),
    ],
)
def test_missing_weights_are_named(options, missing, kind, tmp_path):
    torch.save(drop(weights(**options), missing), tmp_path / "cut.pth")
    with pytest.raises(WeightsError) as caught:
        read_weights(tmp_path / "cut.pth")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'cut.pth'}: expected all weights of {kind} and no others, found that ")
    assert f"{missing}.weight" in message and "missing" in message and "\n" not in message


def test_whole_parts_that_are_missing_are_named():
    for state, part in (
        (drop(weights(), "recon_v"), "recon_v.0.weight, recon_v.0.bias, recon_v.2.weight, recon_v.2.bias are missing"),
        (drop(weights(**TRI), "GU_text"), "GU_text_captions.fc.weight"),
        (drop(weights(**TRI), "DAVEnet.layer4"), "DAVEnet.layer4.0.conv1.weight"),
        (drop(weights(**TRI), "DAVEnet"), "and 103 more are missing"),
    ):
        with pytest.raises(WeightsError) as caught:
            released_config(state)
        assert part in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_unexpected_weights_are_named(kind):
    for name in ("extra.weight", "GU_video.fc.scale", "DAVEnet.layer5.0.conv1.weight"):
        with pytest.raises(WeightsError, match=rf"found that {name} is unexpected"):
            released_config({**weights(**KINDS[kind]), name: torch.ones(1)})
    with pytest.raises(WeightsError, match=r"GU_text_captions\.fc\.weight is unexpected"):
        released_config({**weights(text="fused"), "GU_text_captions.fc.weight": torch.ones(1)})


def test_what_is_no_released_state_dict_is_said():
    for state, found in (({}, "found none"), ({"layer.weight": torch.ones(1)}, r"found layer\.weight")):
        with pytest.raises(WeightsError, match=rf"naming of the MCN and AVLnet releases .*{found}"):
            released_model(state)
    with pytest.raises(WeightsError, match=r"GU_video\.fc\.weight: expected 2 dimensions"):
        released_config({**weights(), "GU_video.fc.weight": torch.ones(3)})


def refuse(network, state, *patterns):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load_released(network, state, "weights.pth")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("weights.pth: ")
    for pattern in patterns:
        assert pattern in message
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_what_does_not_fit_is_refused_whole():
    state = weights()
    network = MCN(released_config(state))
    refuse(network, {k: v for k, v in state.items() if k != "GU_video.fc.bias"}, "no weights for GU_video.fc.bias")
    refuse(network, {**state, "extra.weight": torch.ones(1)}, "no place in the network for extra.weight")
    refuse(network, weights(dim=14), "GU_video.fc.weight", "expected (12, 10)", "found (14, 10)")
    refuse(network, weights(recon=False), "no weights for recon_v.0.weight (reconstruction.video.0.weight)")
    bare = MCN(dataclasses.replace(released_config(state), reconstruction=False))
    refuse(bare, state, "no place in the network for recon_v.0.weight")
    refuse(network, weights(text="fused"), "no place in the network for GU_audio_text.fc_audio.weight")


def test_shapes_that_disagree_are_named(tmp_path):
    torch.save({**weights(), "recon_t.2.bias": torch.ones(7)}, tmp_path / "w.pth")
    read = read_weights(tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"recon_t\.2\.bias \(.*\) expected \(12,\), found \(7,\)"):
        read.load(MCN(read.follow(NetworkConfig(video_dim=10, text_dim=6))))


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"modalities": ("video", "text")}, r"fuse_audio_text: expected --data\.modalities with both or none of"),
        ({"reconstruction": True}, r"fuse_audio_text: expected --model\.network\.reconstruction false"),
        ({"embedding_dim": 7}, r"embedding_dim: expected an even number"),
    ],
)
def test_what_a_joint_embedding_cannot_have(options, found):
    with pytest.raises(ValueError, match=found):
        NetworkConfig(**{"embedding_dim": 8, "reconstruction": False, "fuse_audio_text": True, **options})


def test_a_joint_embedding_needs_both():
    network = network_of(weights(text="fused"))
    video, audio, frames, words = inputs()
    assert set(network(video, audio, frames).embeddings()) == {"video"}
    assert set(network(audio=audio, audio_frames=frames, words=words).embeddings()) == {"audio_text"}
    nothing = network.empty_output(torch.device("cpu"))
    assert {name: tuple(value.shape) for name, value in nothing.embeddings().items()} == {
        "video": (0, 12),
        "audio_text": (0, 12),
    }


def test_word_embedder_is_left_alone():
    state = weights()
    network = MCN(released_config(state))
    embedder = torch.nn.Embedding(5, 6)
    network.text.set_embedder(embedder)
    before = embedder.weight.clone()
    load_released(network, state)
    assert torch.equal(embedder.weight, before)


@pytest.mark.parametrize("wrap", [None, "state_dict", "model_state_dict", "model"])
def test_read(tmp_path, wrap):
    state = weights()
    torch.save(state if wrap is None else {wrap: state, "epoch": 3}, tmp_path / "w.pth")
    read = read_released(tmp_path / "w.pth")
    assert list(read) == list(state)
    assert all(torch.equal(read[name], value) for name, value in state.items())


def test_bad_files(tmp_path):
    with pytest.raises(WeightsError, match=r"none\.pth"):
        read_released(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(WeightsError, match=r"text\.pth: expected a state dict of plain tensors") as caught:
        read_released(tmp_path / "text.pth")
    assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="found list"):
        read_released(tmp_path / "list.pth")


def test_frozen_batch_norm_and_masked_pooling_train_as_avlnet_fine_tunes():
    """AVLnet's fine-tuning trains the network in evaluation mode: values and gradients are those of that mode."""
    state = weights(recon=False)
    config = dataclasses.replace(released_config(state), frozen_batch_norm=True, mask_audio="always")
    network = MCN(config)
    load_released(network, state)
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    leaves = {name: value.double().requires_grad_(value.is_floating_point()) for name, value in state.items()}
    video, spec, frames, words = inputs()
    batch = (video.double(), spec.double(), frames, words.double())
    expected = reference.embed(leaves, *batch, training=False)
    network = network.double().train()
    output = network(*batch)
    names = ("video", "audio", "text")
    for name in names:
        torch.testing.assert_close(getattr(output, name), expected[name])
    sum((getattr(output, name) ** 3).sum() for name in names).backward()
    sum((expected[name] ** 3).sum() for name in names).backward()
    gradient = network.audio.network.bn1.weight.grad
    assert gradient.abs().sum() > 0  # scales are trained
    torch.testing.assert_close(gradient, leaves["DAVEnet.bn1.weight"].grad)
    torch.testing.assert_close(network.audio.projection.weight.grad, leaves["DAVEnet_projection.weight"].grad)
    for name, buffer in network.named_buffers():
        torch.testing.assert_close(buffer, before[name].to(buffer.dtype), rtol=0, atol=0)


def test_frozen_batch_norm_stays_so_through_evaluation_and_back():
    network = MCN(dataclasses.replace(released_config(weights()), frozen_batch_norm=True))
    modes = [
        layer.training for layer in network.train().eval().train().modules() if "BatchNorm" in type(layer).__name__
    ]
    assert len(modes) > 8 and not any(modes)
    assert network.audio.training and network.audio.network.training
