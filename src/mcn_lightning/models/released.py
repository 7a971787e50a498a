"""Released weights of the authors (MCN, and AVLnet before it): reading, renaming and loading into this network."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from mcn_lightning.errors import InputError
from mcn_lightning.models.mcn import MCN
from mcn_lightning.models.options import NetworkConfig
from mcn_lightning.options.config import as_config

_BLOCK_PARTS = {
    "conv1": "conv1",
    "bn1": "bn1",
    "conv2": "conv2",
    "bn2": "bn2",
    "downsample.0": "shortcut.0",
    "downsample.1": "shortcut.1",
}
_MODULES = {
    "DAVEnet.conv1": "audio.network.conv1",
    "DAVEnet.bn1": "audio.network.bn1",
    **{
        f"DAVEnet.layer{stage + 1}.{block}.{theirs}": f"audio.network.stages.{stage}.{block}.{ours}"
        for stage in range(4)
        for block in range(2)
        for theirs, ours in _BLOCK_PARTS.items()
    },
    "DAVEnet_projection": "audio.projection",
    "GU_audio.fc": "audio.gated.projection",
    "GU_audio.cg.fc": "audio.gated.gate",
    "GU_video.fc": "video.projection",
    "GU_video.cg.fc": "video.gate",
    "text_pooling_caption.fc": "text.word_projection",
    "GU_text_captions.fc": "text.gated.projection",
    "GU_text_captions.cg.fc": "text.gated.gate",
    "GU_audio_text.fc_audio": "fusion.audio",
    "GU_audio_text.fc_text": "fusion.text",
    "GU_audio_text.cg.fc": "fusion.gate",
    **{
        f"recon_{name[0]}.{layer}": f"reconstruction.{name}.{layer}"
        for name in ("video", "audio", "text")
        for layer in "02"
    },
}
"""Names of this project's layers by their released names. The names of weights in a layer are the same."""
_RELEASED = {ours: theirs for theirs, ours in _MODULES.items()}
_SIZES = {
    "embedding_dim": ("GU_video.fc.weight", 0, 2),
    "video_dim": ("GU_video.fc.weight", 1, 2),
    "audio_bands": ("DAVEnet.conv1.weight", 1, 3),
    "text_dim": ("text_pooling_caption.fc.weight", 1, 2),
    "reconstruction_hidden": ("recon_v.0.weight", 0, 2),
}
"""Fields of ``NetworkConfig``: the weight that defines each, its axis, and the weight's number of dimensions."""
# keys under which training scripts commonly save a state dict
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_WEIGHTS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_COUNTER = "num_batches_tracked"
"""Counter of batch-norm steps, which may be missing, as no layer here uses it."""


class WeightsError(InputError):
    """A weight file cannot be read or does not fit the network; the message is one line."""


@dataclass(frozen=True)
class ReleasedModel:
    """A model of the releases.

    Args:
        name: of the model.
        prefixes: names of its weights begin so. Of several models that match, the first in the table is meant.
        config: options of its network, whose sizes follow from the weights.
        unused: layers that the file has, and that the released ``forward`` never uses.
    """

    name: str
    prefixes: tuple[str, ...]
    config: NetworkConfig
    unused: tuple[str, ...] = ()


_MODELS = (
    ReleasedModel(
        "AVLnet-Text-Fused",
        ("GU_audio_text.",),
        NetworkConfig(reconstruction=False, fuse_audio_text=True),
        ("GU_audio.fc", "GU_audio.cg.fc"),
    ),
    ReleasedModel("MCN with reconstruction", ("recon_",), NetworkConfig()),
    # without reconstruction heads, both have the same names and shapes and cannot be distinguished
    ReleasedModel(
        "MCN or AVLnet-Text-Tri", ("text_pooling_caption.", "GU_text_captions."), NetworkConfig(reconstruction=False)
    ),
    ReleasedModel(
        "AVLnet",
        ("DAVEnet.", "DAVEnet_projection.", "GU_audio.", "GU_video."),
        NetworkConfig(modalities=("video", "audio"), reconstruction=False),
    ),
)


def _renamed(name: str, layers: Mapping[str, str]) -> str | None:
    """Rename a weight by the name of its layer; ``None`` for an unknown layer."""
    layer, _, weight = name.rpartition(".")
    return f"{layers[layer]}.{weight}" if layer in layers else None


def _plain(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], ReleasedModel | None]:
    """Remove the prefix of ``DataParallel`` and the weights that are never used; find the model.

    Every released model has an unused batch norm, and AVLnet-Text-Fused an unused gate of the audio.
    """
    plain = {name.removeprefix("module."): value for name, value in state.items()}
    # before the model is found: this layer alone would pass for AVLnet
    plain = _without_layers(plain, ("DAVEnet.batchnorm1",))
    model = next((model for model in _MODELS if any(name.startswith(model.prefixes) for name in plain)), None)
    return plain if model is None else _without_layers(plain, model.unused), model


def _without_layers(plain: Mapping[str, Tensor], layers: Collection[str]) -> dict[str, Tensor]:
    unused = {f"{layer}.{weight}" for layer in layers for weight in _WEIGHTS}
    return {name: value for name, value in plain.items() if name not in unused}


def first_names(names: Iterable[str]) -> str:
    """Return the first four names and the number of the others, as text."""
    found = list(names)
    return ", ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")


def released_model(state: Mapping[str, Tensor]) -> ReleasedModel:
    """Return the released model that weights belong to, by their names.

    Args:
        state: state dict with the released names, with or without the prefix ``module.``.

    Raises:
        WeightsError: if no weight has a released name.
    """
    plain, model = _plain(state)
    if model is not None:
        return model
    wanted = "weights in the naming of the MCN and AVLnet releases (as GU_video.fc.weight) or of this project"
    raise WeightsError(f"expected {wanted}, found {first_names(plain) or 'none'}; give the path of such a file")


def _one_dimensional(name: str, value: Tensor) -> Tensor:
    """Convert a 2-d kernel ``(C, 1, 40, 1)`` or ``(O, I, 1, k)`` to the 1-d kernel over time with the same numbers."""
    if value.dim() != 4:
        return value
    if name == "DAVEnet.conv1.weight":
        return value[:, 0] if value.shape[1] == 1 else value
    return value[:, :, 0] if value.shape[2] == 1 else value


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename released weights to this project's names, with 1-d kernels. Unknown weights keep their names.

    Args:
        state: state dict with the released names, with or without the prefix ``module.``.
    """
    plain, _ = _plain(state)
    return {_renamed(name, _MODULES) or name: _one_dimensional(name, value) for name, value in plain.items()}


def _both_names(name: str) -> str:
    """Return a weight's released name followed by its name here, or the latter alone if there is no released one."""
    theirs = _renamed(name, _RELEASED)
    return name if theirs is None else f"{theirs} ({name})"


def load_weights(
    network: MCN, given: Mapping[str, Tensor], source: str, advice: str = "use the weights of such a network"
) -> None:
    """Copy weights into a network of the same shape. If any weight does not fit, no weight is copied.

    Args:
        network: network to fill, except its frozen word embedder.
        given: weights under this project's names.
        source: name of the weights in messages.
        advice: advice in the message if they do not fit.

    Raises:
        WeightsError: if weights are missing or left over, or a shape differs.
    """
    expected = {name: value for name, value in network.state_dict().items() if not name.startswith("text.embedder.")}
    missing, unknown = _compare(expected, given)
    shapes = [
        f"{_both_names(name)} expected {tuple(expected[name].shape)}, found {tuple(value.shape)}"
        for name, value in given.items()
        if name in expected and value.shape != expected[name].shape
    ]
    problems = []
    if missing:
        problems.append(f"no weights for {first_names(map(_both_names, missing))}")
    if unknown:
        problems.append(f"no place in the network for {first_names(map(_both_names, unknown))}")
    if shapes:
        problems.append(f"shapes differ: {first_names(shapes)}")
    if problems:
        raise WeightsError(f"{source}: {'; '.join(problems)}; {advice}")
    # not strict: counters and the frozen embedder may be missing, all else is checked above
    network.load_state_dict(given, strict=False)


def _compare(expected: Collection[str], given: Collection[str]) -> tuple[list[str], list[str]]:
    """Return the names that are missing, except counters, and the names that are not expected."""
    missing = [name for name in expected if name not in given and not name.endswith(_COUNTER)]
    return missing, [name for name in given if name not in expected]


def load_released(network: MCN, state: Mapping[str, Tensor], source: str = "weights") -> None:
    """Copy released weights into a network of the same shape. If any weight does not fit, no weight is copied.

    Args:
        network: network to fill, except its frozen word embedder.
        state: state dict with the released names, with or without the prefix ``module.``.
        source: name of the weights in messages.

    Raises:
        WeightsError: if weights are missing or left over, or a shape differs.
    """
    advice = "build the network of these weights, MCN(released_config(state))"
    load_weights(network, rename(state), source, advice)


def read_file(path: str | Path) -> object:
    """Read a file of ``torch.save`` or safetensors, on the CPU and without running code from it.

    Raises:
        WeightsError: if the file is missing or has another format.
    """
    try:
        if Path(path).suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # for damaged files torch.load raises many kinds of errors
        # torch's message is not shown: it advises weights_only=False, which lets a file run code
        found = "no file" if isinstance(error, FileNotFoundError) else f"something else ({type(error).__name__})"
        if Path(path).is_file() and Path(path).stat().st_size == 0:
            found = "an empty file"
        advice = "give the path of a released .pth file or of a checkpoint of this project"
        raise WeightsError(f"{path}: expected a state dict of plain tensors, found {found}; {advice}") from error


def find_state(content: object, path: str | Path) -> dict[str, Tensor]:
    """Return the state dict in the contents of a file, which may be nested under a key.

    Raises:
        WeightsError: if there is none.
    """
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        found = type(content).__name__
        raise WeightsError(f"{path}: expected a state dict of tensors, found {found}; give a released .pth file")
    return dict(content)


def read_released(path: str | Path) -> dict[str, Tensor]:
    """Read a file of released weights, on the CPU and without running code from it.

    Args:
        path: file made by ``torch.save``: a state dict, or a dictionary that holds one under ``state_dict``,
            ``model_state_dict`` or ``model``.

    Returns:
        The state dict with the names of the file.

    Raises:
        WeightsError: if the file is missing or holds no state dict.
    """
    return find_state(read_file(path), path)


def _size(plain: Mapping[str, Tensor], name: str, axis: int, dims: int) -> int:
    value = _one_dimensional(name, plain[name])
    if value.dim() != dims or 0 in value.shape:
        raise WeightsError(f"{name}: expected {dims} dimensions, none of them 0, found {tuple(plain[name].shape)}")
    return value.shape[axis]


def _check_names(plain: Mapping[str, Tensor], model: ReleasedModel) -> None:
    """Refuse weights that are incomplete for their model, or have unknown names.

    Raises:
        WeightsError: with the missing and the unknown names.
    """
    with torch.device("meta"):  # only the names are needed
        ours = MCN(replace(model.config, embedding_dim=2)).state_dict()
    missing, unknown = _compare([theirs for name in ours if (theirs := _renamed(name, _RELEASED)) is not None], plain)
    problems = []
    if missing:
        problems.append(f"{first_names(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    if unknown:
        problems.append(f"{first_names(unknown)} {'is' if len(unknown) == 1 else 'are'} unexpected")
    if problems:
        found = f"{' and that '.join(problems)}; give the released file as it is"
        raise WeightsError(f"expected all weights of {model.name} and no others, found that {found}")


def released_config(state: Mapping[str, Tensor]) -> NetworkConfig:
    """Return the options of the network that fit released weights, by their names and shapes.

    Args:
        state: state dict with the released names.

    Raises:
        WeightsError: if weights are missing or have unknown names.
    """
    plain, model = _plain(state)[0], released_model(state)
    _check_names(plain, model)
    # names are known to be complete, so a missing weight means that the model has no such part
    sizes = {field: _size(plain, *weight) for field, weight in _SIZES.items() if weight[0] in plain}
    widths = [_size(plain, f"DAVEnet.layer{stage}.0.conv1.weight", 0, 3) for stage in (1, 2, 3, 4)]
    lists = {"modalities": list(model.config.modalities), "audio_widths": widths}
    return as_config(NetworkConfig, {**vars(model.config), **sizes, **lists}, "--model.network")
