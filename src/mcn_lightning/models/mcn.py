"""The MCN network: three branches that project video, audio and text into one embedding space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcn_lightning.compiling import Compiler
from mcn_lightning.distributed import connect_parameters
from mcn_lightning.models.branches import AudioBranch, TextBranch
from mcn_lightning.models.gating import GatedEmbedding, GatedFusion
from mcn_lightning.models.options import AUDIO_TEXT, INPUT_OF, MODALITIES, SET_BY_DATA, Modality, NetworkConfig


@dataclass(frozen=True)
class MCNOutput:
    """The output of the network for a batch. The fields of a missing modality are ``None``.

    Args:
        video: video embedding ``(B, D)``.
        audio: audio embedding ``(B, D)``; ``None`` with a joint embedding of audio and text.
        text: text embedding ``(B, D)``; ``None`` with a joint embedding of audio and text.
        targets: targets of the reconstruction heads: the video input ``(B, C)``, the pooled audio feature ``(B, F)``,
            and the pooled text feature before its gate ``(B, D)``, or ``(B, D/2)`` with a joint embedding.
        reconstructions: outputs of the reconstruction heads, shaped as the targets; empty without heads.
        audio_text: joint embedding of audio and text ``(B, D)``, if the network has one and both are given.
        present: which clips have each embedding, ``(B,)`` bool by name, on the CPU; ``None`` if all have all. Rows of
            clips without an embedding are zeros. ``targets`` and ``reconstructions`` have only the rows of clips with
            the modality.
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
        """Return the fused feature of each clip, the mean of its embeddings, ``(B, D)``."""
        # absent rows are zeros, so a sum over all equals the sum over those present
        found = torch.stack(list(self.embeddings().values()))
        if self.present is None:
            return found.mean(dim=0)
        count = torch.stack(list(self.present.values())).sum(dim=0).clamp(min=1)
        return found.sum(dim=0) / count.to(found.device, non_blocking=True)[:, None]

    def has_any(self) -> Tensor | None:
        """Return which clips have any embedding, ``(B,)`` bool on the CPU; ``None`` if all have."""
        return None if self.present is None else torch.stack(list(self.present.values())).any(dim=0)


_Embedded = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]
"""Embeddings, targets and reconstructions by name."""


def _reconstruction_head(config: NetworkConfig, target_dim: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(config.embedding_dim, config.reconstruction_hidden),
        nn.ReLU(),
        nn.Linear(config.reconstruction_hidden, target_dim),
        nn.ReLU(),
    )


def _check_inputs(config: NetworkConfig, video: Tensor | None, audio: Tensor | None, words: Tensor | None) -> None:
    """Refuse inputs of another size, naming the option. A layer's error would only name the shapes of its matrices."""
    vectors = words if words is not None and words.dim() == 3 else None  # otherwise they are word indices
    for name, given, axis in (("video_dim", video, 1), ("audio_bands", audio, 1), ("text_dim", vectors, 2)):
        modality = INPUT_OF[name]
        if given is None or modality not in config.modalities:
            continue
        if given.dim() <= axis or given.shape[axis] != getattr(config, name):
            wanted, found = f"{modality} of {getattr(config, name)} values", f"the shape {tuple(given.shape)}"
            raise ValueError(
                f"--model.network.{name}: expected {wanted}, found {found}; see --data.{SET_BY_DATA[name]}"
            )


def _masks(inputs: Mapping[str, Tensor], present: Tensor | None) -> dict[str, Tensor]:
    """Return which clips have each input, ``(B,)`` bool; empty if all clips have all."""
    if present is None:
        return {}
    masks = {name: present[:, MODALITIES.index(cast("Modality", name))] for name in inputs}
    # a full batch takes the path without masks, which is bit for bit that of data without gaps
    return {} if all(bool(mask.all()) for mask in masks.values()) else masks


def _scatter_rows(values: Tensor, rows: Tensor, size: int) -> Tensor:
    """Return ``(size, D)`` with values ``(m, D)`` in the given rows and zeros in the others."""
    return values.new_zeros(size, values.shape[1]).index_copy(0, rows, values)


class MCN(nn.Module):
    """Multimodal Clustering Network (Chen et al., ICCV 2021), section 3.1, as in the authors' released code.

    Args:
        config: shape of the network.
        compiler: what compiles it, if it is to be compiled.
    """

    def __init__(self, config: NetworkConfig, compiler: Compiler | None = None) -> None:
        super().__init__()
        self.config, self.compiler = config, compiler
        self.video = GatedEmbedding(config.video_dim, config.embedding_dim) if "video" in config.modalities else None
        self.audio = AudioBranch(config) if "audio" in config.modalities else None
        self.text = TextBranch(config) if "text" in config.modalities else None
        self.fusion = (
            GatedFusion(config.branch_width, config.embedding_dim) if AUDIO_TEXT in config.embeddings else None
        )
        widths = self._target_widths() if config.reconstruction else {}
        self.reconstruction = nn.ModuleDict(
            {name: _reconstruction_head(config, width) for name, width in widths.items()}
        )

    def _target_widths(self) -> dict[str, int]:
        """Return the width of the reconstruction target of each modality."""
        config, audio = self.config, self.audio.width if self.audio is not None else 0
        widths = {"video": config.video_dim, "audio": audio, "text": config.branch_width}
        return {name: width for name, width in widths.items() if name in config.modalities}

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
        # before what is compiled, as they decide shapes; on the CPU, where nonzero and all do not wait for the device
        masks = _masks(inputs, present)
        if self.fusion is not None and masks.keys() >= {"audio", "text"}:
            masks[AUDIO_TEXT] = masks["audio"] & masks["text"]
        lacking = [name for name, mask in masks.items() if not mask.all()]
        if lacking and self.compiler is not None:
            lacking = list(masks)  # one graph for all combinations
        device = next(iter(inputs.values())).device if inputs else "cpu"
        rows = {name: masks[name].nonzero()[:, 0].to(device) for name in lacking}
        embeddings, targets, reconstructions = self._run(inputs, audio_frames, rows)
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

    def _run(self, inputs: dict[str, Tensor], audio_frames: Tensor | None, rows: dict[str, Tensor]) -> _Embedded:
        """Call ``_embed``, compiled if there is a compiler."""
        given = (self, inputs, audio_frames, rows)
        if self.compiler is None or not inputs:
            return MCN._embed(*given)
        clips = len(next(iter(inputs.values())))
        if self.training:
            self.compiler.begin_step(clips)
        # other clips lack a modality in every step, so the sizes of its branch differ
        usual = self.training and self.compiler.is_usual(clips) and not rows
        frames = () if audio_frames is None else (audio_frames,)
        return self.compiler.call(MCN._embed, *given, free=(*inputs.values(), *frames, *rows.values()), usual=usual)

    def _embed(self, inputs: dict[str, Tensor], audio_frames: Tensor | None, rows: dict[str, Tensor]) -> _Embedded:
        """Embed a batch. Only tensors decide what it does, so that it compiles into one graph.

        Args:
            inputs: of all clips by modality.
            audio_frames: see ``forward``.
            rows: indices ``(m,)`` int64 of the clips that have a modality, or both of the joint embedding, if some lack
                it.

        Returns:
            Embeddings of all clips; targets and reconstructions of those that have the modality.
        """
        clips = next(iter(inputs.values())).shape[0] if inputs else 0
        inputs = {name: x[rows[name]] if name in rows else x for name, x in inputs.items()}
        embeddings: dict[str, Tensor] = {}
        targets: dict[str, Tensor] = {}
        if "video" in inputs:
            targets["video"] = inputs["video"]
            embeddings["video"] = F.dropout(inputs["video"], self.config.dropout, self.training)
        if "audio" in inputs:
            if audio_frames is not None and "audio" in rows:
                audio_frames = audio_frames[rows["audio"]]
            embeddings["audio"], targets["audio"] = self._audio(inputs["audio"], audio_frames)
        if self.video is not None and "video" in inputs:
            # after the audio network, so before it in the backward pass: what it keeps is gone at the peak of memory
            embeddings["video"] = self.video(embeddings["video"])
        if "text" in inputs and self.text is not None:
            embeddings["text"], targets["text"] = self.text(inputs["text"])
        if self.fusion is not None:
            self._fuse(embeddings, rows, clips)
        # before the embeddings are normalised: released heads take them at any length
        reconstructions = {
            name: self.reconstruction[name](embeddings[name]) for name in embeddings if name in self.reconstruction
        }
        if self.config.normalize:
            embeddings = {name: F.normalize(value, dim=1) for name, value in embeddings.items()}
        for name in rows.keys() & embeddings.keys():
            embeddings[name] = _scatter_rows(embeddings[name], rows[name], clips)
        return embeddings, targets, reconstructions

    def _audio(self, audio: Tensor, audio_frames: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the embedding and the pooled feature of spectrograms; there may be none."""
        branch = cast("AudioBranch", self.audio)
        if audio_frames is None:
            audio_frames = torch.full((len(audio),), audio.shape[2], device=audio.device)
        # SyncBatchNorm accepts an empty batch, and waits for every process
        # its shape, not its len: torch 2.4 would compile anew for every number of clips
        if audio.shape[0] > 0 or any(isinstance(part, nn.SyncBatchNorm) for part in branch.modules()):
            return branch(audio, audio_frames)
        empty = branch.projection.weight.new_zeros(0, self.config.branch_width)  # batch norm fails on an empty batch
        pooled = branch.projection.weight.new_zeros(0, branch.width)
        return connect_parameters(empty, branch.parameters()), pooled.detach()

    def _fuse(self, embeddings: dict[str, Tensor], rows: dict[str, Tensor], clips: int) -> None:
        """Replace audio and text by their joint embedding, for the clips that have both."""
        parts: dict[str, Tensor] = {name: embeddings.pop(name) for name in ("audio", "text") if name in embeddings}
        if len(parts) < 2 or self.fusion is None:
            return
        if AUDIO_TEXT in rows:
            for name in rows.keys() & parts.keys():
                parts[name] = _scatter_rows(parts[name], rows[name], clips)
            parts = {name: value[rows[AUDIO_TEXT]] for name, value in parts.items()}
        embeddings[AUDIO_TEXT] = self.fusion(parts["audio"], parts["text"])

    def empty_output(self, device: torch.device) -> MCNOutput:
        """Return the output for an empty batch without running a branch, as batch norm fails on an empty batch.

        A process without clips uses it in a step of several processes. The weights are connected to the output, so that
        ``backward`` reaches them after the losses. Otherwise DDP would sum gradients before the losses' own collectives
        on this process, and after them on the others.
        """
        config = self.config
        embeddings: dict[str, Tensor | None] = {}
        targets: dict[str, Tensor] = {}
        made: dict[str, Tensor] = {}
        for name, width in self._target_widths().items():
            branch = getattr(self, name)
            embeddings[name] = connect_parameters(
                torch.zeros(0, config.embedding_dim, device=device), branch.parameters()
            )
            targets[name] = torch.zeros(0, width, device=device)
            if name in self.reconstruction:
                made[name] = connect_parameters(targets[name], self.reconstruction[name].parameters())
        if self.fusion is not None:
            joined = [self.audio, self.text, self.fusion]
            weights = [parameter for part in joined if part is not None for parameter in part.parameters()]
            embeddings = {
                "video": embeddings["video"],
                AUDIO_TEXT: connect_parameters(torch.zeros(0, config.embedding_dim, device=device), weights),
            }
        return MCNOutput(
            embeddings.get("video"),
            embeddings.get("audio"),
            embeddings.get("text"),
            targets,
            made,
            embeddings.get(AUDIO_TEXT),
        )
