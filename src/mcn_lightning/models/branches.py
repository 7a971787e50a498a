"""The audio branch and the text branch: from the stored inputs to embeddings."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from mcn_lightning.errors import InputError
from mcn_lightning.models.audio import AudioNetwork, ResDAVEnet, pool_time, valid_steps
from mcn_lightning.models.gating import GatedEmbedding
from mcn_lightning.models.options import NetworkConfig


def make_audio_network(config: NetworkConfig) -> AudioNetwork:
    """Make ResDAVEnet, or the custom network that the options name.

    Args:
        config: shape of the network.

    Raises:
        InputError: if a custom network cannot be imported or made.
    """
    own = config.audio_network
    found = own.find(AudioNetwork, None)
    if found is None:
        return ResDAVEnet(config.audio_bands, config.audio_widths)
    network = own.make(found, bands=config.audio_bands)
    check_features(network, f"{own.option}: {own.class_path}")
    return network


def check_features(network: AudioNetwork, name: str) -> None:
    """Compare the features of a network of one's own with its ``width`` and ``stride``, by one forward pass.

    Weights, buffers, modes and random numbers stay as they are.

    Args:
        network: the network.
        name: what messages call it.

    Raises:
        InputError: if it does not say both, or its features have another shape.
    """
    for option in ("width", "stride"):
        value = getattr(network, option, None)
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{name}: expected a whole number of at least 1 as its {option}, found {value}; set it")
    first = next(network.parameters(), torch.zeros(()))
    # meta tensors have no values, and some operations are not defined for them
    if first.is_meta:  # the network is built for its shapes alone
        return
    # layers may have modes of their own, so one call of train() would not restore them
    modes = {layer: layer.training for layer in network.modules()}
    # two clips: a network that mixes batch and time is then seen in the shape
    spectrogram = torch.zeros((2, network.bands, _FRAMES), dtype=first.dtype, device=first.device)
    with torch.random.fork_rng([first.device] if first.is_cuda else []), torch.no_grad():
        features = network.eval()(spectrogram)
    for layer, mode in modes.items():
        layer.training = mode
    expected = (2, network.width, -(-_FRAMES // network.stride))
    found = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
    if found != expected:
        wanted = f"features {expected} of a spectrogram {tuple(spectrogram.shape)}"
        own = f"width {network.width} and stride {network.stride}"
        raise InputError(f"{name}: expected {wanted}, by its {own}, found {found}; correct width, stride or forward")


_FRAMES = 997
"""Frames of the spectrogram that a network of one's own is tried with: a prime number, so that strides differ."""


class AudioBranch(nn.Module):
    """Spectrogram to embedding: ResDAVEnet, pooling over time, gating in the small space, projection to D.

    With a joint embedding of audio and text there is no gating, and the projection is to D/2.

    Args:
        config: shape of the network.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.network = make_audio_network(config)
        self.width = width = self.network.width
        self.gated = nn.Identity() if config.fuse_audio_text else GatedEmbedding(width, width)
        self.projection = nn.Linear(width, config.branch_width)
        self.train()  # applies frozen_batch_norm: trainers keep the mode of a new module

    def train(self, mode: bool = True) -> AudioBranch:
        """Set training or evaluation mode. A frozen batch norm stays in evaluation mode."""
        super().train(mode)
        if self.config.frozen_batch_norm:
            for layer in self.network.modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    layer.train(False)
        return self

    def forward(self, spectrogram: Tensor, audio_frames: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(B, M, T)`` dB and frame counts ``(B,)`` to the embedding ``(B, D)`` and pooled feature ``(B, F)``."""
        # spectrograms have the stored precision, and are time-major from loaders
        spectrogram = spectrogram.to(self.projection.weight.dtype)
        if not self.network.any_strides:
            spectrogram = spectrogram.contiguous()
        features = self.network(spectrogram)
        steps = None
        if self.config.mask_audio == "always" or not self.training:
            released, stride = self.config.released_audio_steps, self.network.stride
            steps = valid_steps(audio_frames, spectrogram.shape[2], released, stride)
        pooled = pool_time(features, steps, self.config.audio_pool)
        # the target of the reconstruction stays without dropout
        hidden = F.dropout(pooled, self.config.dropout, self.training)
        return self.projection(self.gated(hidden)), pooled


class TextBranch(nn.Module):
    """Words to embedding: frozen word vectors, a linear layer and ReLU on each, maximum over the words, gating.

    With a joint embedding of audio and text the linear layer is to D/2, and there is no gating.

    The frozen embedder comes from the data (a word-vector table or a sentence encoder) and is not in checkpoints. Set
    it with :meth:`set_embedder`, or pass word vectors to :meth:`forward` directly.

    Args:
        config: shape of the network.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        width = config.branch_width
        self.word_projection = nn.Linear(config.text_dim, width)
        self.gated = nn.Identity() if config.fuse_audio_text else GatedEmbedding(width, width)
        self.embedder: nn.Module | None = None

    def set_embedder(self, embedder: nn.Module) -> None:
        """Set the module that maps indices ``(B, W)`` int32 to word vectors ``(B, W, E)``."""
        self.embedder = embedder

    def forward(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """Map indices ``(B, W)`` int32 or word vectors ``(B, W, E)`` to the embedding and the pooled text ``(B, D)``.

        Raises:
            RuntimeError: if indices come before an embedder was set.
        """
        if words.dim() == 2:
            if self.embedder is None:
                raise RuntimeError("the text branch has no word vectors: call set_embedder(data.text_embedder()) first")
            words = self.embedder(words)
        pooled = self._pool(words.to(self.word_projection.weight.dtype))
        return self.gated(F.dropout(pooled, self.config.dropout, self.training)), pooled

    def _pool(self, vectors: Tensor) -> Tensor:
        if not self.config.mask_words:
            return _relu_of_maximum(self.word_projection(vectors))
        # a word vector of zeros alone is what stands for "no word"
        absent = (vectors == 0).all(dim=2, keepdim=True)
        return _relu_of_maximum(self.word_projection(vectors).masked_fill(absent, float("-inf")))


class _Saved(FunctionCtx):
    saved_tensors: tuple[Tensor, Tensor]


class _ReluOfMaximum(torch.autograd.Function):
    """ReLU of the maximum over words. The two commute; in this order ReLU reads W times less.

    It keeps the result alone: where that is 0 the gradient is 0, and elsewhere it is the maximum.
    """

    @staticmethod
    def forward(ctx: _Saved, rows: Tensor) -> Tensor:
        result = F.relu(rows.amax(dim=1))
        ctx.save_for_backward(rows, result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: _Saved, *gradients: Tensor) -> Tensor:
        rows, result = ctx.saved_tensors
        largest = rows == result[:, None]
        own = gradients[0].masked_fill(result <= 0, 0)
        # words with equal values share the gradient, as those of torch's maximum do
        return (own[:, None] * largest).div_(largest.sum(dim=1, keepdim=True).clamp(min=1))


def _relu_of_maximum(rows: Tensor) -> Tensor:
    """Return ReLU of the maximum over words of ``(B, W, D)``, ``(B, D)``."""
    return cast(Tensor, _ReluOfMaximum.apply(rows))
