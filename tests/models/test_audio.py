"""ResDAVEnet in both memory layouts: the same numbers, the same weights, and dB in full precision."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcn_lightning.batch import ClipBatch
from mcn_lightning.models import MCN, NetworkConfig
from mcn_lightning.models.audio import ResDAVEnet

WIDTHS = (8, 8, 12, 16)


class Plain(nn.Module):
    """The network of 1-d convolutions, layer by layer as it is published."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(40, WIDTHS[0], 1, bias=False), nn.BatchNorm1d(WIDTHS[0])
        self.stages = nn.ModuleList()
        for fan_in, width in zip((WIDTHS[0], *WIDTHS[:-1]), WIDTHS, strict=True):
            blocks = nn.Sequential(nn.Module(), nn.Module())
            for block, channels, stride in zip(blocks, (fan_in, width), (2, 1), strict=True):
                block.conv1 = nn.Conv1d(channels, width, 9, stride=stride, padding=4, bias=False)
                block.bn1 = nn.BatchNorm1d(width)
                block.conv2, block.bn2 = nn.Conv1d(width, width, 9, padding=4, bias=False), nn.BatchNorm1d(width)
                if stride == 2:
                    shortcut = nn.Conv1d(channels, width, 1, stride=2, bias=False)
                    block.shortcut = nn.Sequential(shortcut, nn.BatchNorm1d(width))
            self.stages.append(blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in self.stages:
            for number, block in enumerate(stage):
                hidden = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
                x = F.relu(hidden + (block.shortcut(x) if number == 0 else x))
        return x


def spectrogram(clips: int = 3, frames: int = 67) -> Tensor:
    """Return dB ``(B, 40, T)`` as loaders give it: a view of ``(B, T, 40)``."""
    return (-80 * torch.rand(clips, frames, 40)).transpose(1, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_channels_last_is_the_plain_network(dtype: torch.dtype) -> None:
    """Features, gradients and running statistics, in training and evaluation, from weights that either can load."""
    torch.manual_seed(0)
    network, plain = ResDAVEnet(40, WIDTHS).to(dtype), Plain().to(dtype)
    plain.load_state_dict(network.state_dict())
    network.channels_last = True
    # batch norm takes the mean of -40 dB from what it normalises, which amplifies rounding in float32
    limits = {True: 1e-4, False: 1e-6} if dtype == torch.float32 else {True: 1e-12, False: 1e-12}
    for training in (False, True):
        for x in (spectrogram().to(dtype), spectrogram(4, 16).contiguous().to(dtype)):
            found, want = (each.train(training)(x) for each in (network, plain))
            assert found.shape == want.shape
            assert (found - want).norm() < limits[training] * want.norm()
            slope = torch.randn_like(want)
            found.backward(slope)
            want.backward(slope)
        for (name, ours), theirs in zip(network.named_parameters(), plain.parameters(), strict=True):
            assert ours.grad is not None and theirs.grad is not None
            assert (ours.grad - theirs.grad).norm() < limits[True] * theirs.grad.norm(), name
            assert ours.grad.stride() == ours.stride(), name  # optimisers and DDP see the usual layout
            ours.grad = theirs.grad = None
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value, rtol=limits[True], atol=limits[True])


def test_processors_run_the_plain_network() -> None:
    """Without CUDA numbers are bit for bit those of 1-d convolutions. Weights have the same names."""
    network, plain = ResDAVEnet(40, WIDTHS), Plain()
    assert list(network.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(network.state_dict())
    x = spectrogram()
    found, want = network(x), plain(x.contiguous())
    assert torch.equal(found, want)
    found.sum().backward()
    want.sum().backward()
    for ours, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None and torch.equal(ours.grad, theirs.grad)
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # on several GPUs
    assert {type(layer) for layer in synced.modules() if "BatchNorm" in type(layer).__name__} == {nn.SyncBatchNorm}


def test_layout_of_time_major_spectrograms() -> None:
    """A spectrogram of a loader reaches the first convolution without a copy, and no later layer changes the layout."""
    network = MCN(NetworkConfig(16, ["audio"], audio_widths=WIDTHS, reconstruction=False))
    assert network.audio is not None and isinstance(network.audio.network, ResDAVEnet)
    network.audio.network.channels_last = True
    seen: list[Tensor] = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv1d):
            layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    lengths = torch.tensor([33, 64])
    batch = ClipBatch(
        ("a:0", "b:0"),
        frames=-torch.rand(97, 40),
        frame_start=torch.tensor([0, 33]),
        audio_frames=lengths,
        num_frames=64,
    )
    batch = batch.ready()
    network(audio=batch.audio, audio_frames=lengths)
    assert batch.audio is not None and seen[0].data_ptr() == batch.audio.data_ptr()
    assert len(seen) == 21
    assert all(x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) for x in seen)


@pytest.mark.parametrize("channels_last", [False, True])
def test_first_layer_in_full_precision(channels_last: bool) -> None:
    """Under autocast dB are not rounded to the 0.25 that bfloat16 has around -60, and later layers are bfloat16."""
    network, x = ResDAVEnet(40, WIDTHS), spectrogram()
    network.channels_last = channels_last
    seen: dict[nn.Module, Tensor] = {}
    for layer in (network.conv1, network.bn1, network.stages[0][0].conv1):
        layer.register_forward_hook(lambda layer, _, result: seen.update({layer: result}))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = network(x)
    want = torch.einsum("cmk,bmt->bct", network.conv1.weight.double(), x.double())
    found = seen[network.conv1].double().reshape(want.shape)
    assert (found - want).norm() < 1e-6 * want.norm()
    rounded = torch.einsum("cmk,bmt->bct", network.conv1.weight.double(), x.bfloat16().double())
    assert (rounded - want).norm() > 1e-4 * want.norm()  # what the test would see
    assert [value.dtype for value in seen.values()] == [torch.float32, torch.float32, torch.bfloat16]
    assert features.dtype == torch.bfloat16
