"""The three-branch projection model: video, audio and text into one embedding space."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcn_lightning.config import Options
from mcn_lightning.distributed import reach
from mcn_lightning.models.audio import ResDAVEnet, pool_time, valid_steps
from mcn_lightning.models.gating import GatedEmbedding, GatedFusion
from mcn_lightning.ranges import PositiveInt, ShareBelowOne

Modality = Literal["video", "audio", "text"]
MODALITIES: tuple[Modality, ...] = ("video", "audio", "text")
AUDIO_TEXT = "audio_text"
"""Name of the joint embedding of audio and text."""
OF_DATA = {"modalities": "", "video_dim": "streams", "audio_bands": "audio.bands", "text_dim": "text.dim"}
"""Fields of ``NetworkConfig`` that follow from the data, and the option of the data that each follows from."""
INPUT_OF = {"video_dim": "video", "audio_bands": "audio", "text_dim": "text"}
"""The modality whose inputs have that size."""


@dataclass(frozen=True)
class NetworkConfig(Options, option="--model.network"):
    """Shape of the network; the defaults are the released recipe.

    Args:
        embedding_dim: width D of the joint embedding space.
        modalities: branches to build, of video, audio, text (set from data.modalities). Training needs two; one is
            enough to embed with trained weights.
        video_dim: width C of the visual feature (set from data.streams).
        audio_bands: mel bands M (set from data.audio.bands).
        text_dim: width E of a word vector (set from data.text.dim).
        audio_widths: channels of the four ResDAVEnet stages.
        audio_pool: pooling of the audio features over time, mean (released) or max.
        mask_audio: leave padding out of the pooling: never in training and always in evaluation ("eval", released), or
            always.
        released_audio_steps: divide frame counts by round(T / ceil(T/16)) in evaluation as the released code does,
            instead of 16.
        frozen_batch_norm: batch norm of the audio network uses its running statistics in training, too, and leaves them
            as they are; its scales and offsets are still trained. For fine-tuning: AVLnet's published fine-tuning
            trains in this mode, with ``mask_audio`` always.
        mask_words: leave the zero rows after the last word out of the maximum over words (released: they take part).
        normalize: scale every embedding to length 1 (released: no).
        reconstruction: build the reconstruction heads.
        reconstruction_hidden: width of the hidden layer of a reconstruction head.
        dropout: share of the pooled audio, the pooled text and the video input that is dropped in training
            (released: 0).
        fuse_audio_text: AVLnet-Text-Fused: one joint embedding of audio and text in place of one of each; no
            reconstruction heads.
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

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in self.modalities if name not in MODALITIES]
        if unknown or not self.modalities or len(set(self.modalities)) < len(self.modalities):
            raise ValueError(
                f"--data.modalities: expected some of {', '.join(MODALITIES)}, each once, found {list(self.modalities)}"
            )
        if len(self.audio_widths) != 4:
            raise ValueError(f"--model.network.audio_widths: expected four widths, found {list(self.audio_widths)}")
        if self.fuse_audio_text:
            self._check_fused()

    def _check_fused(self) -> None:
        flag = "--model.network.fuse_audio_text"
        if len({"audio", "text"} & set(self.modalities)) == 1:
            raise ValueError(
                f"{flag}: expected --data.modalities with both or none of audio and text, which have one embedding, "
                f"found {list(self.modalities)}; add what is missing or set {flag} to false"
            )
        if self.reconstruction:
            raise ValueError(
                f"{flag}: expected --model.network.reconstruction false, found true: there is no embedding of audio or "
                "of text alone to rebuild from; set one of the two to false"
            )
        if self.embedding_dim % 2:
            raise ValueError(
                f"--model.network.embedding_dim: expected an even number with {flag}, which joins two features of half "
                f"the width, found {self.embedding_dim}"
            )

    def follow_data(self, sizes: Mapping[str, Any], free: Collection[str]) -> NetworkConfig:
        """Return the shape for inputs of the sizes that the data have.

        Args:
            sizes: fields of ``OF_DATA`` as the data have them.
            free: fields that nobody has chosen, which take the data's values.

        Raises:
            ValueError: if a size that somebody has chosen is another one.
        """
        modalities = sizes["modalities"] if "modalities" in free else self.modalities
        for name, found in sizes.items():
            own = getattr(self, name)
            if INPUT_OF.get(name) in modalities and name not in free and own != found:
                raise ValueError(
                    f"--model.network.{name}: expected {found}, which --data.{OF_DATA[name]} gives, found {own}; "
                    "leave it out, and it is taken from the data"
                )
        return replace(self, **{name: value for name, value in sizes.items() if name in free})

    @property
    def embeddings(self) -> tuple[str, ...]:
        """The names of the embeddings that the network gives when every modality is there."""
        if not self.fuse_audio_text:
            return tuple(self.modalities)
        found = {"video": "video" in self.modalities, AUDIO_TEXT: "audio" in self.modalities}
        return tuple(name for name, there in found.items() if there)

    @property
    def branch_width(self) -> int:
        """What the audio and the text branch end with: the width D, or D/2 where the two are joined."""
        return self.embedding_dim // 2 if self.fuse_audio_text else self.embedding_dim


@dataclass(frozen=True)
class MCNOutput:
    """What the network computes for a batch; the fields of an absent modality are ``None``.

    Args:
        video: video embedding ``(B, D)``.
        audio: audio embedding ``(B, D)``; ``None`` where audio and text have one joint embedding.
        text: text embedding ``(B, D)``; ``None`` where audio and text have one joint embedding.
        targets: what each reconstruction head has to rebuild: the video input ``(B, C)``, the pooled audio feature
            ``(B, widths[-1])``, the pooled text feature before its gate ``(B, D)``, or ``(B, D/2)`` before it is joined
            with the audio.
        reconstructions: what the heads made of the embeddings, shaped as the targets; empty without the heads.
        audio_text: joint embedding of audio and text ``(B, D)`` where the network joins them and both are there.
        present: where some clips lack a modality, which clips have each embedding, ``(B,)`` bool by name, on the CPU;
            the rows of the others are zeros. ``targets`` and ``reconstructions`` have rows for clips with their
            modality only.
    """

    video: Tensor | None
    audio: Tensor | None
    text: Tensor | None
    targets: dict[str, Tensor]
    reconstructions: dict[str, Tensor]
    audio_text: Tensor | None = None
    present: dict[str, Tensor] | None = None

    def embeddings(self) -> dict[str, Tensor]:
        """Return the embeddings that are present, in the order video, audio, text, audio_text."""
        return {name: value for name in (*MODALITIES, AUDIO_TEXT) if (value := getattr(self, name)) is not None}

    def mean(self) -> Tensor:
        """Return the fused feature of each clip, the mean over the embeddings that it has, ``(B, D)``."""
        found = torch.stack(list(self.embeddings().values()))
        if self.present is None:
            return found.mean(dim=0)
        count = torch.stack(list(self.present.values())).sum(dim=0).clamp(min=1)
        return found.sum(dim=0) / count.to(found.device, non_blocking=True)[:, None]

    def has_any(self) -> Tensor | None:
        """Return which clips have an embedding at all, ``(B,)`` bool on the CPU; ``None`` for all of them."""
        return None if self.present is None else torch.stack(list(self.present.values())).any(dim=0)


class AudioBranch(nn.Module):
    """Spectrogram to embedding: ResDAVEnet, pooling over time, gating in the small space, projection to D.

    Where audio and text are joined: no gating, and a projection to D/2, which is not yet an embedding.

    Args:
        config: shape of the network.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        width = config.audio_widths[-1]
        self.network = ResDAVEnet(config.audio_bands, config.audio_widths)
        self.gated = nn.Identity() if config.fuse_audio_text else GatedEmbedding(width, width)
        self.projection = nn.Linear(width, config.branch_width)
        self.train()  # trainers take the mode of a new module as it is

    def train(self, mode: bool = True) -> AudioBranch:
        """Change between training and evaluation; a frozen batch norm stays in evaluation."""
        super().train(mode)
        if self.config.frozen_batch_norm:
            for layer in self.network.modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    layer.train(False)
        return self

    def forward(self, spectrogram: Tensor, audio_frames: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(B, M, T)`` dB and frame counts ``(B,)`` to the embedding ``(B, D)`` and pooled ``(B, widths[-1])``."""
        # batches have the stored precision and are time-major from shards: one form here, so that all give one result
        spectrogram = spectrogram.to(self.projection.weight.dtype).contiguous()
        features = self.network(spectrogram)
        steps = None
        if self.config.mask_audio == "always" or not self.training:
            steps = valid_steps(audio_frames, spectrogram.shape[2], self.config.released_audio_steps)
        pooled = pool_time(features, steps, self.config.audio_pool)
        hidden = F.dropout(pooled, self.config.dropout, self.training)
        return self.projection(self.gated(hidden)), pooled


class TextBranch(nn.Module):
    """Words to embedding: frozen word vectors, a linear layer and ReLU on each, maximum over the words, gating.

    Where audio and text are joined: a linear layer to D/2 and no gating, which is not yet an embedding.

    The frozen embedder comes from the data (a word-vector table or a sentence encoder) and is no part of a checkpoint:
    set it with :meth:`set_embedder`, or give word vectors to :meth:`forward` directly.

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
        """Take the module that maps indices ``(B, W)`` int32 to word vectors ``(B, W, E)``."""
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
            # ReLU and maximum commute, and the maximum leaves W times less for ReLU to read and to remember
            return F.relu(self.word_projection(vectors).amax(dim=1))
        absent = (vectors == 0).all(dim=2, keepdim=True)
        return F.relu(self.word_projection(vectors).masked_fill(absent, float("-inf")).amax(dim=1))


def _reconstruction_head(config: NetworkConfig, target_dim: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(config.embedding_dim, config.reconstruction_hidden),
        nn.ReLU(),
        nn.Linear(config.reconstruction_hidden, target_dim),
        nn.ReLU(),
    )


def _check_inputs(config: NetworkConfig, video: Tensor | None, audio: Tensor | None, words: Tensor | None) -> None:
    """Refuse inputs of another size in one line, where a layer would only tell the shapes of its matrices."""
    vectors = words if words is not None and words.dim() == 3 else None  # else indices of words
    for name, given, axis in (("video_dim", video, 1), ("audio_bands", audio, 1), ("text_dim", vectors, 2)):
        modality = INPUT_OF[name]
        if given is None or modality not in config.modalities:
            continue
        if given.dim() <= axis or given.shape[axis] != getattr(config, name):
            raise ValueError(
                f"--model.network.{name}: expected {modality} of {getattr(config, name)} values, found the shape "
                f"{tuple(given.shape)}; set it to what --data.{OF_DATA[name]} gives"
            )


def _masks(inputs: Mapping[str, Tensor], present: Tensor | None) -> dict[str, Tensor]:
    """Return which clips have each input, ``(B,)`` bool; empty where all clips have all."""
    if present is None:
        return {}
    masks = {name: present[:, MODALITIES.index(cast("Modality", name))] for name in inputs}
    return {} if all(bool(mask.all()) for mask in masks.values()) else masks


def _spread(values: Tensor, rows: Tensor, size: int) -> Tensor:
    """Return ``(size, D)`` with values ``(m, D)`` in some rows and zeros in the others."""
    return values.new_zeros(size, values.shape[1]).index_copy(0, rows, values)


class MCN(nn.Module):
    """Multimodal Clustering Network (Chen et al., ICCV 2021), section 3.1, as in the authors' released code.

    Args:
        config: shape of the network.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.video = GatedEmbedding(config.video_dim, config.embedding_dim) if "video" in config.modalities else None
        self.audio = AudioBranch(config) if "audio" in config.modalities else None
        self.text = TextBranch(config) if "text" in config.modalities else None
        self.fusion = (
            GatedFusion(config.branch_width, config.embedding_dim) if AUDIO_TEXT in config.embeddings else None
        )
        target_dims = {"video": config.video_dim, "audio": config.audio_widths[-1], "text": config.branch_width}
        names = [name for name in MODALITIES if name in config.modalities and config.reconstruction]
        self.reconstruction = nn.ModuleDict({name: _reconstruction_head(config, target_dims[name]) for name in names})

    def forward(
        self,
        video: Tensor | None = None,
        audio: Tensor | None = None,
        audio_frames: Tensor | None = None,
        words: Tensor | None = None,
        present: Tensor | None = None,
    ) -> MCNOutput:
        """Embed a batch; a modality that is not given, or has no branch, is ``None`` in the result.

        Args:
            video: visual features ``(B, C)``.
            audio: log-mel spectrograms in dB, ``(B, M, T)``.
            audio_frames: frames before padding, ``(B,)`` int64; all T when ``None``.
            words: indices ``(B, W)`` int32 or word vectors ``(B, W, E)``.
            present: which clips have video, audio and text, ``(B, 3)`` bool on the CPU; all of them when ``None``. A
                branch runs on the clips that have its modality, so the statistics of batch norm are theirs alone.

        Returns:
            Embeddings, reconstruction targets and reconstructions.

        Raises:
            ValueError: if an input is of another size than the network was built for.
        """
        _check_inputs(self.config, video, audio, words)
        given = {"video": video, "audio": audio, "text": words}
        inputs = {name: x for name, x in given.items() if x is not None and getattr(self, name) is not None}
        masks = _masks(inputs, present)
        rows = {name: mask.nonzero()[:, 0].to(inputs[name].device) for name, mask in masks.items() if not mask.all()}
        inputs = {name: x[rows[name]] if name in rows else x for name, x in inputs.items()}
        embeddings: dict[str, Tensor] = {}
        targets: dict[str, Tensor] = {}
        if "video" in inputs and self.video is not None:
            x = F.dropout(inputs["video"], self.config.dropout, self.training)
            embeddings["video"], targets["video"] = self.video(x), inputs["video"]
        if "audio" in inputs:
            if audio_frames is not None and "audio" in rows:
                audio_frames = audio_frames[rows["audio"]]
            embeddings["audio"], targets["audio"] = self._audio(inputs["audio"], audio_frames)
        if "text" in inputs and self.text is not None:
            embeddings["text"], targets["text"] = self.text(inputs["text"])
        if self.fusion is not None:
            self._fuse(embeddings, masks, rows)
        reconstructions = {
            name: self.reconstruction[name](embeddings[name]) for name in embeddings if name in self.reconstruction
        }
        if self.config.normalize:
            embeddings = {name: F.normalize(value, dim=1) for name, value in embeddings.items()}
        for name in rows.keys() & embeddings.keys():
            embeddings[name] = _spread(embeddings[name], rows[name], len(masks[name]))
        found = cast("dict[str, Tensor | None]", embeddings)
        return MCNOutput(
            found.get("video"),
            found.get("audio"),
            found.get("text"),
            targets,
            reconstructions,
            found.get(AUDIO_TEXT),
            {name: masks[name] for name in (*MODALITIES, AUDIO_TEXT) if name in embeddings} if rows else None,
        )

    def _audio(self, audio: Tensor, audio_frames: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the embedding and the pooled feature of spectrograms, of which there may be none."""
        branch = cast("AudioBranch", self.audio)
        if audio_frames is None:
            audio_frames = torch.full((len(audio),), audio.shape[2], device=audio.device)
        if len(audio) or any(isinstance(part, nn.SyncBatchNorm) for part in branch.modules()):
            return branch(audio, audio_frames)
        empty = branch.projection.weight.new_zeros(0, self.config.branch_width)  # batch norm has no use for it
        pooled = branch.projection.weight.new_zeros(0, self.config.audio_widths[-1])
        return reach(empty, branch.parameters()), pooled.detach()

    def _fuse(self, embeddings: dict[str, Tensor], masks: dict[str, Tensor], rows: dict[str, Tensor]) -> None:
        """Put the joint embedding of the clips that have audio and text in place of those of audio and of text."""
        parts: dict[str, Tensor] = {name: embeddings.pop(name) for name in ("audio", "text") if name in embeddings}
        if len(parts) < 2 or self.fusion is None:
            return
        if masks:
            masks[AUDIO_TEXT] = masks["audio"] & masks["text"]
        if rows.keys() & parts.keys():
            both = masks[AUDIO_TEXT].nonzero()[:, 0].to(parts["audio"].device)
            for name in rows.keys() & parts.keys():
                parts[name] = _spread(parts[name], rows[name], len(masks[name]))
            parts = {name: value[both] for name, value in parts.items()}
            rows[AUDIO_TEXT] = both
        embeddings[AUDIO_TEXT] = self.fusion(parts["audio"], parts["text"])

    def nothing(self, device: torch.device) -> MCNOutput:
        """Return what a batch of no clips gives, without any branch being run (batch norm has no use for it).

        For a process without clips in a step of several. Its weights are reached where those of the others are, behind
        the losses: otherwise its gradients would be summed before the losses' own sums, and the others' after them.
        """
        config = self.config
        widths = {"video": config.video_dim, "audio": config.audio_widths[-1], "text": config.branch_width}
        embeddings: dict[str, Tensor | None] = {}
        targets: dict[str, Tensor] = {}
        made: dict[str, Tensor] = {}
        for name in (name for name in MODALITIES if name in config.modalities):
            branch = getattr(self, name)
            embeddings[name] = reach(torch.zeros(0, config.embedding_dim, device=device), branch.parameters())
            targets[name] = torch.zeros(0, widths[name], device=device)
            if name in self.reconstruction:
                made[name] = reach(targets[name], self.reconstruction[name].parameters())
        if self.fusion is not None:
            joined = [self.audio, self.text, self.fusion]
            weights = [parameter for part in joined if part is not None for parameter in part.parameters()]
            embeddings = {
                "video": embeddings["video"],
                AUDIO_TEXT: reach(torch.zeros(0, config.embedding_dim, device=device), weights),
            }
        return MCNOutput(
            embeddings.get("video"),
            embeddings.get("audio"),
            embeddings.get("text"),
            targets,
            made,
            embeddings.get(AUDIO_TEXT),
        )
