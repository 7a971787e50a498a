"""Options of the network."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from mcn_lightning.errors import InputError, check_rules
from mcn_lightning.options.config import ClassOptions, Options, as_config
from mcn_lightning.options.ranges import PositiveInt, ShareBelowOne

Modality = Literal["video", "audio", "text"]
MODALITIES: tuple[Modality, ...] = ("video", "audio", "text")
AUDIO_TEXT = "audio_text"
"""Name of the joint embedding of audio and text."""
SET_BY_DATA = {"modalities": "", "video_dim": "streams", "audio_bands": "audio.bands", "text_dim": "text.dim"}
"""Fields of ``NetworkConfig`` that the data set, and the data option behind each."""
INPUT_OF = {"video_dim": "video", "audio_bands": "audio", "text_dim": "text"}
"""The modality of each input size."""


class InputSizes(TypedDict):
    """Fields of ``NetworkConfig`` that follow the data."""

    modalities: Sequence[Modality]
    video_dim: int
    audio_bands: int
    text_dim: int


@dataclass(frozen=True, kw_only=True)
class AudioNetworkConfig(ClassOptions, option="--model.network.audio_network"):
    """The audio network; ResDAVEnet if no class is named.

    Args:
        class_path: a custom network: a subclass of ``models.AudioNetwork``.
        init_args: arguments of the custom network.
    """


@dataclass(frozen=True)
class NetworkConfig(Options, option="--model.network"):
    """Shape of the network; the defaults are the released recipe.

    Args:
        embedding_dim: width D of the joint embedding space.
        modalities: branches to build, of video, audio, text (set from data.modalities). Training needs at least two;
            one is enough to embed with trained weights.
        video_dim: width C of the visual feature (set from data.streams).
        audio_bands: mel bands M (set from data.audio.bands).
        text_dim: width E of a word vector (set from data.text.dim).
        audio_widths: channels of the four ResDAVEnet stages.
        audio_pool: pooling of the audio features over time, mean (released) or max.
        mask_audio: exclude padding from the pooling only in evaluation ("eval", released), or always.
        released_audio_steps: divide frame counts by round(T / ceil(T/16)) in evaluation as the released code does,
            instead of 16.
        frozen_batch_norm: batch norm of the audio network uses its running statistics in training too, and does not
            update them. Its scales and offsets are trained. AVLnet's published fine-tuning uses this mode, with
            ``mask_audio`` always.
        mask_words: exclude the zero rows after the last word from the maximum over words (released: included).
        normalize: scale every embedding to length 1 (released: no).
        reconstruction: build the reconstruction heads.
        reconstruction_hidden: width of the hidden layer of a reconstruction head.
        dropout: share of the pooled audio, the pooled text and the video input that is dropped in training
            (released: 0).
        fuse_audio_text: AVLnet-Text-Fused: one joint embedding of audio and text in place of two; no reconstruction
            heads.
        audio_network: a custom network in place of ResDAVEnet, by ``class_path`` and ``init_args``: a subclass of
            ``models.AudioNetwork``.
    """

    embedding_dim: PositiveInt = 6144
    modalities: Sequence[Modality] = MODALITIES
    video_dim: PositiveInt = 4096
    audio_bands: PositiveInt = 40
    text_dim: PositiveInt = 300
    audio_widths: Sequence[PositiveInt] = (128, 256, 512, 1024)
    audio_pool: Literal["mean", "max"] = "mean"
    mask_audio: Literal["eval", "always"] = "eval"
    released_audio_steps: bool = False
    frozen_batch_norm: bool = False
    mask_words: bool = False
    normalize: bool = False
    reconstruction: bool = True
    reconstruction_hidden: PositiveInt = 1024
    dropout: ShareBelowOne = 0.0
    fuse_audio_text: bool = False
    audio_network: AudioNetworkConfig = AudioNetworkConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        names, fused, flag = set(self.modalities), self.fuse_audio_text, f"{self.option}.fuse_audio_text"
        check_rules(
            (
                not names or not names.issubset(MODALITIES) or len(names) < len(self.modalities),
                f"--data.modalities: expected some of {', '.join(MODALITIES)}, each once, found {[*self.modalities]}",
            ),
            (
                len(self.audio_widths) != 4,
                f"{self.option}.audio_widths: expected four widths, found {list(self.audio_widths)}",
            ),
            (
                fused and len({"audio", "text"} & names) == 1,
                f"{flag}: expected --data.modalities with both or none of audio and text, which have one embedding, "
                f"found {list(self.modalities)}; add what is missing or set {flag} to false",
            ),
            (
                fused and self.reconstruction,
                f"{flag}: expected {self.option}.reconstruction false, found true: there is no embedding of audio or "
                "of text alone to rebuild from; set one of the two to false",
            ),
            (
                fused and self.embedding_dim % 2,
                f"{self.option}.embedding_dim: expected an even number with {flag}, which joins two features of half "
                f"the width, found {self.embedding_dim}",
            ),
        )

    def follow_data(self, sizes: InputSizes, free: Collection[str]) -> NetworkConfig:
        """Return the options for inputs of the data's sizes.

        Args:
            sizes: of the data.
            free: fields that the user did not set, which take the data's values.

        Raises:
            InputError: if a size that the user set differs from the data.
        """
        modalities = sizes["modalities"] if "modalities" in free else self.modalities
        for name, found in sizes.items():
            own = getattr(self, name)
            if INPUT_OF.get(name) in modalities and name not in free and own != found:
                wanted = f"{found}, which --data.{SET_BY_DATA[name]} gives"
                raise InputError(f"--model.network.{name}: expected {wanted}, found {own}; leave it out")
        taken = {name: value for name, value in sizes.items() if name in free}
        return as_config(NetworkConfig, {**vars(self), **taken}, self.option)

    @property
    def embeddings(self) -> tuple[str, ...]:
        """Names of the network's embeddings, if all its modalities are given."""
        if not self.fuse_audio_text:
            return tuple(self.modalities)
        found = {"video": "video" in self.modalities, AUDIO_TEXT: "audio" in self.modalities}
        return tuple(name for name, present in found.items() if present)

    @property
    def branch_width(self) -> int:
        """Output width of the audio and text branches: D, or D/2 with a joint embedding of both."""
        return self.embedding_dim // 2 if self.fuse_audio_text else self.embedding_dim


def unset_sizes(network: NetworkConfig | Mapping[str, object]) -> tuple[str, ...]:
    """Return the input sizes that were left out, or that have their default values."""
    if isinstance(network, Mapping):
        return tuple(name for name in SET_BY_DATA if name not in network)
    defaults = NetworkConfig()
    return tuple(name for name in SET_BY_DATA if getattr(network, name, None) == getattr(defaults, name))
