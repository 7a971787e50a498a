"""Weights of the authors' releases (MCN, and AVLnet before it), read into our network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mcn_lightning.models.mcn import MCN

_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"DAVEnet\.(conv1|bn1)\.(.+)", r"audio.network.\1.\2"),
        (r"DAVEnet_projection\.(.+)", r"audio.projection.\1"),
        (r"GU_audio\.fc\.(.+)", r"audio.gated.projection.\1"),
        (r"GU_audio\.cg\.fc\.(.+)", r"audio.gated.gate.\1"),
        (r"GU_video\.fc\.(.+)", r"video.projection.\1"),
        (r"GU_video\.cg\.fc\.(.+)", r"video.gate.\1"),
        (r"text_pooling_caption\.fc\.(.+)", r"text.word_projection.\1"),
        (r"GU_text_captions\.fc\.(.+)", r"text.gated.projection.\1"),
        (r"GU_text_captions\.cg\.fc\.(.+)", r"text.gated.gate.\1"),
        (r"recon_v\.(.+)", r"reconstruction.video.\1"),
        (r"recon_a\.(.+)", r"reconstruction.audio.\1"),
        (r"recon_t\.(.+)", r"reconstruction.text.\1"),
    )
)
_BLOCK = re.compile(r"DAVEnet\.layer([1-4])\.([01])\.(downsample|conv1|conv2|bn1|bn2)\.(.+)")
_WRAPPERS = ("state_dict", "model_state_dict", "model")


class WeightsError(ValueError):
    """A weight file cannot be read or does not fit the network; the message is one line."""


def _our_name(name: str) -> str | None:
    """Return our name for a released one, ``None`` for one that the network does not know."""
    if block := _BLOCK.fullmatch(name):
        stage, index, part, rest = block.groups()
        part = "shortcut" if part == "downsample" else part
        return f"audio.network.stages.{int(stage) - 1}.{index}.{part}.{rest}"
    for pattern, replacement in _RULES:
        if pattern.fullmatch(name):
            return pattern.sub(replacement, name)
    return None


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take off the prefix of ``DataParallel`` and leave out the batch norm that the released forward never calls."""
    plain = {name.removeprefix("module."): value for name, value in state.items()}
    return {name: value for name, value in plain.items() if not name.startswith("DAVEnet.batchnorm1.")}


def _some(names: Iterable[str]) -> str:
    found = list(names)
    return ", ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")


def _one_dimensional(name: str, value: Tensor) -> Tensor:
    """Turn a 2-d kernel ``(C, 1, 40, 1)`` or ``(O, I, 1, k)`` into the 1-d kernel over time with the same numbers."""
    if value.dim() != 4:
        return value
    if name == "DAVEnet.conv1.weight":
        return value[:, 0] if value.shape[1] == 1 else value
    return value[:, :, 0] if value.shape[2] == 1 else value


def load_released(network: MCN, state: Mapping[str, Tensor], source: str = "weights") -> None:
    """Copy released weights into a network of the same shape; nothing is copied when anything does not fit.

    Args:
        network: network to fill; its frozen word embedder is left alone.
        state: state dict with the released names, with or without the prefix ``module.``.
        source: what to call the weights in messages.

    Raises:
        WeightsError: if names are missing or left over, or a shape differs.
    """
    plain = _plain(state)
    fused = [name for name in plain if name.startswith("GU_audio_text.")]
    if fused:
        raise WeightsError(
            f"{source}: these are AVLnet-Text-Fused weights ({_some(fused)}), which join audio and text in one gate; "
            "use the weights of AVLnet, AVLnet-Text-Tri or MCN"
        )
    expected = {name: v for name, v in network.state_dict().items() if not name.startswith("text.embedder.")}
    given: dict[str, Tensor] = {}
    original: dict[str, str] = {}
    unknown = []
    for name, value in plain.items():
        ours = _our_name(name)
        if ours is None or ours not in expected:
            unknown.append(name)
        else:
            given[ours], original[ours] = _one_dimensional(name, value), name
    missing = [name for name in expected if name not in given and not name.endswith("num_batches_tracked")]
    problems = []
    if missing:
        problems.append(f"no weights for {_some(missing)}")
    if unknown:
        problems.append(f"no place in the network for {_some(unknown)}")
    shapes = [
        f"{original[name]} ({name}) expected {tuple(expected[name].shape)}, found {tuple(value.shape)}"
        for name, value in given.items()
        if value.shape != expected[name].shape
    ]
    if shapes:
        problems.append(f"shapes differ: {_some(shapes)}")
    if problems:
        raise WeightsError(
            f"{source}: {'; '.join(problems)}; set --model.network and --data.modalities to the shape of these weights"
        )
    network.load_state_dict(given, strict=False)


def read_released(path: str | Path) -> dict[str, Tensor]:
    """Read a file of released weights, on the CPU and without running code from it.

    Args:
        path: file made by ``torch.save``: a state dict, or a dictionary that holds one under ``state_dict``,
            ``model_state_dict`` or ``model``.

    Returns:
        The state dict, its names as they are in the file.

    Raises:
        WeightsError: if the file is not there or holds no state dict.
    """
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the broken bytes lead to
        # torch's own words advise to load with weights_only=False, which lets a file run code
        found = "no file" if isinstance(error, FileNotFoundError) else f"something else ({type(error).__name__})"
        raise WeightsError(
            f"{path}: expected a state dict of plain tensors saved by torch.save, found {found}; "
            "give the path of a released .pth file"
        ) from error
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(f"{path}: expected a state dict of tensors, found {type(content).__name__}")
    return dict(content)


def released_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Tell the shape of the network from the shapes of released weights.

    Args:
        state: state dict with the released names.

    Returns:
        Values for the fields of ``NetworkConfig`` that the weights decide.

    Raises:
        WeightsError: if there are fewer than two modalities in the weights.
    """
    plain = _plain(state)
    layers = {"video": "GU_video.fc", "audio": "DAVEnet_projection", "text": "text_pooling_caption.fc"}
    marks = {name: f"{layer}.weight" for name, layer in layers.items()}
    modalities = [name for name, mark in marks.items() if mark in plain]
    if len(modalities) < 2:
        raise WeightsError(
            f"expected weights with two or three of {', '.join(marks.values())}, found {_some(plain) or 'none'}"
        )
    config: dict[str, Any] = {
        "embedding_dim": plain[marks[modalities[0]]].shape[0],
        "modalities": modalities,
        "reconstruction": any(name.startswith("recon_") for name in plain),
    }
    if "video" in modalities:
        config["video_dim"] = plain[marks["video"]].shape[1]
    if "text" in modalities:
        config["text_dim"] = plain[marks["text"]].shape[1]
    if "audio" in modalities:
        kernels = [f"DAVEnet.layer{stage}.0.conv1.weight" for stage in (1, 2, 3, 4)]
        absent = [name for name in ("DAVEnet.conv1.weight", *kernels) if name not in plain]
        if absent:
            raise WeightsError(f"expected released weights of a whole ResDAVEnet, found no {_some(absent)}")
        config["audio_bands"] = plain["DAVEnet.conv1.weight"].shape[2]
        config["audio_widths"] = [plain[name].shape[0] for name in kernels]
    for name in ("recon_v", "recon_a", "recon_t"):
        if f"{name}.0.weight" in plain:
            config["reconstruction_hidden"] = plain[f"{name}.0.weight"].shape[0]
    return config
