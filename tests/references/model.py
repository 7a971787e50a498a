"""The released network computed straight from a state dict with the released names (MCN, arXiv 2104.12671).

Letters: B clips, T frames of 10 ms, W words, D joint width. Every function works in the dtype of the state dict.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

StateDict = dict[str, Tensor]


def linear(sd: StateDict, name: str, x: Tensor) -> Tensor:
    """W x + b on the last axis."""
    return x @ sd[f"{name}.weight"].T + sd[f"{name}.bias"]


def gated(sd: StateDict, name: str, x: Tensor) -> Tensor:
    """Context gating (Miech et al. 2017): h = W1 x + b1, then h * sigmoid(W2 h + b2)."""
    h = linear(sd, f"{name}.fc", x)
    return h * (1 / (1 + torch.exp(-linear(sd, f"{name}.cg.fc", h))))


def batch_norm(sd: StateDict, name: str, x: Tensor, training: bool, eps: float = 1e-5) -> Tensor:
    """Batch norm of (B, channels, 1, T): batch statistics with the biased variance in training, else the running ones.

    The running statistics are left as they are.
    """
    if training:
        mean = x.mean(dim=(0, 2, 3))
        variance = ((x - mean[None, :, None, None]) ** 2).mean(dim=(0, 2, 3))
    else:
        mean, variance = sd[f"{name}.running_mean"], sd[f"{name}.running_var"]
    scale = sd[f"{name}.weight"] / torch.sqrt(variance + eps)
    return (x - mean[None, :, None, None]) * scale[None, :, None, None] + sd[f"{name}.bias"][None, :, None, None]


def residual_block(sd: StateDict, name: str, x: Tensor, stride: int, training: bool) -> Tensor:
    """Two 1x9 convolutions and a shortcut; the shortcut is a 1x1 convolution where the state dict has one."""
    out = F.conv2d(x, sd[f"{name}.conv1.weight"], stride=(1, stride), padding=(0, 4))
    out = torch.relu(batch_norm(sd, f"{name}.bn1", out, training))
    out = F.conv2d(out, sd[f"{name}.conv2.weight"], padding=(0, 4))
    out = batch_norm(sd, f"{name}.bn2", out, training)
    shortcut = x
    if f"{name}.downsample.0.weight" in sd:
        shortcut = F.conv2d(x, sd[f"{name}.downsample.0.weight"], stride=(1, stride))
        shortcut = batch_norm(sd, f"{name}.downsample.1", shortcut, training)
    return torch.relu(out + shortcut)


def davenet(sd: StateDict, spec: Tensor, training: bool) -> Tensor:
    """ResDAVEnet (Harwath et al. 2018): spectrogram (B, 40, T) to features (B, 1024, ceil(T / 16))."""
    x = F.conv2d(spec[:, None], sd["DAVEnet.conv1.weight"])
    x = torch.relu(batch_norm(sd, "DAVEnet.bn1", x, training))
    for stage in (1, 2, 3, 4):
        x = residual_block(sd, f"DAVEnet.layer{stage}.0", x, 2, training)
        x = residual_block(sd, f"DAVEnet.layer{stage}.1", x, 1, training)
    return x[:, :, 0]


def pool_audio(features: Tensor, nframes: Tensor, training: bool) -> Tensor:
    """Mean over time (B, 1024): all steps in training, the first max(1, nframes // 16) in evaluation."""
    if training:
        return features.mean(dim=2)
    steps = [max(1, frames // 16) for frames in nframes.tolist()]
    return torch.stack([clip[:, :count].mean(dim=1) for clip, count in zip(features, steps, strict=True)])


def pool_text(sd: StateDict, word_vectors: Tensor) -> Tensor:
    """Maximum over words (zero rows included) of ReLU(W x + b): (B, W, 300) to (B, D)."""
    pooled = []
    for clip in word_vectors:
        best = torch.relu(linear(sd, "text_pooling_caption.fc", clip[0]))
        for word in clip[1:]:
            best = torch.maximum(best, torch.relu(linear(sd, "text_pooling_caption.fc", word)))
        pooled.append(best)
    return torch.stack(pooled)


def reconstruct(sd: StateDict, name: str, x: Tensor) -> Tensor | None:
    """Linear, ReLU, linear, ReLU; None where the state dict has no such head."""
    if f"{name}.0.weight" not in sd:
        return None
    return torch.relu(linear(sd, f"{name}.2", torch.relu(linear(sd, f"{name}.0", x))))


def fuse(sd: StateDict, audio: Tensor, text: Tensor) -> Tensor:
    """AVLnet-Text-Fused (Rouditchenko et al. 2020): h = Wa a + ba + Wt t + bt, then h * sigmoid(W h + b)."""
    h = linear(sd, "GU_audio_text.fc_audio", audio) + linear(sd, "GU_audio_text.fc_text", text)
    return h / (1 + torch.exp(-linear(sd, "GU_audio_text.cg.fc", h)))


def embed(
    sd: StateDict, video: Tensor, spec: Tensor, nframes: Tensor, word_vectors: Tensor, training: bool
) -> dict[str, Tensor | None]:
    """All outputs of the model.

    Takes video (B, 4096), spec (B, 40, T) in dB, nframes (B,) before padding, word_vectors (B, W, 300). Returns
    `video`, `audio`, `text` (B, D); `audio_pooled` (B, 1024) and `text_pooled` (B, D), the features before their gates,
    which are reconstruction targets beside the video input; `recon_video`, `recon_audio`, `recon_text`. Weights of
    AVLnet-Text-Fused give `video`, `audio_text` (B, D), and `text_pooled` (B, D / 2); those of AVLnet no text.
    """
    audio_pooled = pool_audio(davenet(sd, spec, training), nframes, training)
    video_out = gated(sd, "GU_video", video)
    if "GU_audio_text.cg.fc.weight" in sd:
        text_pooled = pool_text(sd, word_vectors)
        joint = fuse(sd, linear(sd, "DAVEnet_projection", audio_pooled), text_pooled)
        return {"video": video_out, "audio_text": joint, "audio_pooled": audio_pooled, "text_pooled": text_pooled}
    if "text_pooling_caption.fc.weight" not in sd:
        audio_out = linear(sd, "DAVEnet_projection", gated(sd, "GU_audio", audio_pooled))
        return {"video": video_out, "audio": audio_out, "audio_pooled": audio_pooled}
    text_pooled = pool_text(sd, word_vectors)
    audio_out = linear(sd, "DAVEnet_projection", gated(sd, "GU_audio", audio_pooled))
    text_out = gated(sd, "GU_text_captions", text_pooled)
    return {
        "video": video_out,
        "audio": audio_out,
        "text": text_out,
        "audio_pooled": audio_pooled,
        "text_pooled": text_pooled,
        "recon_video": reconstruct(sd, "recon_v", video_out),
        "recon_audio": reconstruct(sd, "recon_a", audio_out),
        "recon_text": reconstruct(sd, "recon_t", text_out),
    }


def released_shapes(
    dim: int,
    video_dim: int = 4096,
    text_dim: int = 300,
    audio_widths: tuple[int, int, int, int] = (128, 256, 512, 1024),
    recon: bool = True,
    recon_hidden: int = 1024,
    text: str = "gated",
) -> dict[str, tuple[int, ...]]:
    """Name and shape of every entry of a released state dict.

    `text` is "gated" for MCN and AVLnet-Text-Tri, "fused" for AVLnet-Text-Fused, "none" for AVLnet; the latter two have
    no reconstruction heads.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def add_linear(name: str, inputs: int, outputs: int) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs)
        shapes[f"{name}.bias"] = (outputs,)

    def add_gated(name: str, inputs: int, outputs: int) -> None:
        add_linear(f"{name}.fc", inputs, outputs)
        add_linear(f"{name}.cg.fc", outputs, outputs)

    def add_norm(name: str, channels: int) -> None:
        for entry in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{entry}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    add_norm("DAVEnet.batchnorm1", 1)
    shapes["DAVEnet.conv1.weight"] = (audio_widths[0], 1, 40, 1)
    add_norm("DAVEnet.bn1", audio_widths[0])
    before = audio_widths[0]
    for stage, width in enumerate(audio_widths, start=1):
        for block in (0, 1):
            name = f"DAVEnet.layer{stage}.{block}"
            shapes[f"{name}.conv1.weight"] = (width, before, 1, 9)
            add_norm(f"{name}.bn1", width)
            shapes[f"{name}.conv2.weight"] = (width, width, 1, 9)
            add_norm(f"{name}.bn2", width)
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (width, before, 1, 1)
                add_norm(f"{name}.downsample.1", width)
            before = width
    audio = audio_widths[-1]
    half = dim // 2 if text == "fused" else dim
    add_linear("DAVEnet_projection", audio, half)
    add_gated("GU_audio", audio, audio)
    add_gated("GU_video", video_dim, dim)
    if text != "none":
        add_linear("text_pooling_caption.fc", text_dim, half)
    if text == "gated":
        add_gated("GU_text_captions", dim, dim)
    if text == "fused":
        add_linear("GU_audio_text.fc_audio", half, dim)
        add_linear("GU_audio_text.fc_text", half, dim)
        add_linear("GU_audio_text.cg.fc", dim, dim)
    if recon and text == "gated":
        for head, target in (("recon_v", video_dim), ("recon_a", audio), ("recon_t", dim)):
            add_linear(f"{head}.0", dim, recon_hidden)
            add_linear(f"{head}.2", recon_hidden, target)
    return shapes


def random_released_state_dict(
    dim: int,
    video_dim: int = 4096,
    text_dim: int = 300,
    audio_widths: tuple[int, int, int, int] = (128, 256, 512, 1024),
    recon: bool = True,
    seed: int = 0,
    recon_hidden: int = 1024,
    text: str = "gated",
) -> StateDict:
    """Random float32 weights with the released names and shapes, batch-norm statistics away from 0 and 1."""
    generator = torch.Generator().manual_seed(seed)

    def normal(shape: tuple[int, ...], scale: float) -> Tensor:
        return torch.randn(shape, generator=generator) * scale

    def uniform(shape: tuple[int, ...], low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    sd: StateDict = {}
    for name, shape in released_shapes(dim, video_dim, text_dim, audio_widths, recon, recon_hidden, text).items():
        if name.endswith("num_batches_tracked"):
            sd[name] = torch.tensor(1000 + seed)
        elif name.endswith("running_var"):
            sd[name] = uniform(shape, 0.5, 2.0)
        elif name.endswith("running_mean"):
            sd[name] = normal(shape, 0.3)
        elif len(shape) == 4:
            sd[name] = normal(shape, math.sqrt(2 / (shape[0] * shape[2] * shape[3])))
        elif len(shape) == 2:
            sd[name] = normal(shape, 1 / math.sqrt(shape[1]))
        elif name.endswith("bias"):
            sd[name] = normal(shape, 0.1)
        else:
            sd[name] = uniform(shape, 0.5, 1.5)
    return sd
