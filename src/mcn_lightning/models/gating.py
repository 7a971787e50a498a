"""Gated embedding units: projections with context gating."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GatedEmbedding(nn.Module):
    """Linear projection followed by context gating.

    Computes ``h * sigmoid(W2 h + b2)`` with ``h = W1 x + b1`` (Miech, Laptev and Sivic, "Learnable pooling with
    Context Gating for video classification", 2017, eq. 3).

    Args:
        in_features: width of the input.
        out_features: width of the result.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.projection = nn.Linear(in_features, out_features)
        self.gate = nn.Linear(out_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``."""
        hidden = self.projection(x)
        return hidden * torch.sigmoid(self.gate(hidden))


class GatedFusion(nn.Module):
    """One embedding of audio and text together: the sum of two projections, with context gating.

    Computes ``h * sigmoid(W h + b)`` with ``h = Wa a + ba + Wt t + bt`` (AVLnet-Text-Fused; Rouditchenko et al.,
    "AVLnet: Learning Audio-Visual Language Representations from Instructional Videos", 2020).

    Args:
        in_features: width of the audio and of the text feature.
        out_features: width D of the result.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.audio = nn.Linear(in_features, out_features)
        self.text = nn.Linear(in_features, out_features)
        self.gate = nn.Linear(out_features, out_features)

    def forward(self, audio: Tensor, text: Tensor) -> Tensor:
        """Map two features ``(..., in_features)`` to ``(..., out_features)``."""
        hidden = self.audio(audio) + self.text(text)
        return hidden * torch.sigmoid(self.gate(hidden))
