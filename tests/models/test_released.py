"""Released weights: the network that reads them computes what the released network computes."""

import pytest
import torch
from references import model as reference

from mcn_lightning.models import MCN, NetworkConfig
from mcn_lightning.models.released import WeightsError, load_released, read_released, released_config

SMALL = {"video_dim": 10, "text_dim": 6, "audio_widths": (4, 4, 6, 8), "recon_hidden": 5}


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


def same_outputs(state, batch, training):
    network = MCN(NetworkConfig(**released_config(state))).train(training)
    load_released(network, state)
    with torch.no_grad():
        output = network(*batch)
        expected = reference.embed(state, *batch, training=training)
    ours = {
        **output.embeddings(),
        "audio_pooled": output.targets["audio"],
        "text_pooled": output.targets["text"],
        **{f"recon_{name}": value for name, value in output.reconstructions.items()},
    }
    assert set(ours) == {name for name, value in expected.items() if value is not None}
    for name, value in ours.items():
        scale = expected[name].abs().max().clamp(min=1)
        torch.testing.assert_close(value / scale, expected[name] / scale, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("recon", [True, False])
def test_embeddings_equal_reference(training, recon):
    same_outputs(weights(recon=recon), inputs(), training)


@pytest.mark.parametrize("training", [False, True])
def test_embeddings_equal_reference_at_released_widths(training):
    state = reference.random_released_state_dict(256)
    same_outputs(state, inputs(2, 160, 4096, 300), training)


def test_prefix_and_missing_counters():
    state = {f"module.{k}": v for k, v in weights().items() if not k.endswith("num_batches_tracked")}
    network = MCN(NetworkConfig(**released_config(state)))
    load_released(network, state)
    assert torch.equal(network.video.projection.weight, state["module.GU_video.fc.weight"])


def test_config_from_shapes():
    assert released_config(weights()) == {
        "embedding_dim": 12,
        "modalities": ["video", "audio", "text"],
        "reconstruction": True,
        "video_dim": 10,
        "text_dim": 6,
        "audio_bands": 40,
        "audio_widths": [4, 4, 6, 8],
        "reconstruction_hidden": 5,
    }
    pair = {k: v for k, v in weights(recon=False).items() if "text" not in k}
    config = released_config(pair)
    assert config["modalities"] == ["video", "audio"]
    assert not config["reconstruction"]
    load_released(MCN(NetworkConfig(**config)), pair)
    with pytest.raises(WeightsError, match="two or three of"):
        released_config({})


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
    network = MCN(NetworkConfig(**released_config(state)))
    refuse(network, {k: v for k, v in state.items() if k != "GU_video.fc.bias"}, "no weights for video.projection.bias")
    refuse(network, {**state, "extra.weight": torch.ones(1)}, "no place in the network for extra.weight")
    refuse(network, weights(dim=14), "GU_video.fc.weight", "expected (12, 10)", "found (14, 10)")
    refuse(network, weights(recon=False), "no weights for reconstruction.video.0.weight")
    bare = MCN(NetworkConfig(**{**released_config(state), "reconstruction": False}))
    refuse(bare, state, "no place in the network for recon_v.0.weight")
    refuse(network, {**state, "GU_audio_text.fc_audio.weight": torch.ones(1)}, "AVLnet-Text-Fused")


def test_word_embedder_is_left_alone():
    state = weights()
    network = MCN(NetworkConfig(**released_config(state)))
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
