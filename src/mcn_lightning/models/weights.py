"""Reading of weights to start from, released or of this project, with the options of their network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from mcn_lightning.errors import InputError, naming
from mcn_lightning.models.mcn import MCN
from mcn_lightning.models.options import AUDIO_TEXT, MODALITIES, NetworkConfig
from mcn_lightning.models.released import (
    WeightsError,
    find_state,
    load_weights,
    read_file,
    released_config,
    released_model,
    rename,
)
from mcn_lightning.options.config import as_config

SHAPE_FIELDS = (
    "embedding_dim",
    "modalities",
    "video_dim",
    "audio_bands",
    "text_dim",
    "audio_widths",
    "reconstruction",
    "reconstruction_hidden",
    "fuse_audio_text",
    "audio_network",
)
"""Fields of NetworkConfig that define the names and shapes of weights."""
BEHAVIOUR_FIELDS = ("audio_pool", "mask_audio", "mask_words", "normalize")
"""Fields of NetworkConfig that change the embeddings but not the weights; the defaults are as released."""
_SET_BY_DATA = {
    "video_dim": ("video", "values of the video feature", "--data.streams"),
    "audio_bands": ("audio", "mel bands", "--data.audio.bands"),
    "text_dim": ("text", "values of a word vector", "--data.text.dim and --data.text.source"),
}
OWN_CHECKPOINT = "checkpoint of this project"
OWN_STATE_DICT = "state dict of this project"


@dataclass(frozen=True)
class Weights:
    """The weights of a network.

    Args:
        source: path of the file.
        kind: name of the released model, or a checkpoint or state dict of this project.
        config: options of their network.
        state: the weights under this project's names.
        behaviour: fields of ``config`` that do not follow from the weights, and are as they were in training.
    """

    source: str
    kind: str
    config: NetworkConfig
    state: dict[str, Tensor]
    behaviour: tuple[str, ...] = ()

    def follow(self, config: NetworkConfig) -> NetworkConfig:
        """Return the options of the network for these weights, without modalities that the data lack.

        Args:
            config: requested options, with the modalities and input sizes of the data.

        Raises:
            WeightsError: if the weights are for inputs of another size, or need a modality that the data lack.
        """
        own = self.config
        modalities = [name for name in config.modalities if name in own.modalities]
        split = own.fuse_audio_text and len({"audio", "text"} & set(modalities)) == 1
        # data with a single modality can be embedded, but not trained on
        if split or len(modalities) < min(2, len(config.modalities)):
            least = "all" if split else "at least two" if len(config.modalities) > 1 else "one"
            wanted, found = (", ".join(each) for each in (own.modalities, config.modalities))
            raise WeightsError(
                f"{self.source}: expected {least} of {wanted}, found {found} in the data; set --data.modalities"
            )
        for field, (modality, what, option) in _SET_BY_DATA.items():
            wanted, found = getattr(own, field), getattr(config, field)
            if modality in modalities and found != wanted:
                raise WeightsError(f"{self.source}: expected {wanted} {what}, found {found} in the data; set {option}")
        shape = {name: getattr(own, name) for name in SHAPE_FIELDS}
        return replace(config, **{**shape, "modalities": modalities})

    def load(self, network: MCN) -> None:
        """Copy the weights into a network with the options that ``follow`` returned.

        Raises:
            WeightsError: if weights are missing or left over, or their shapes do not agree.
        """
        left_out = tuple(absent_weights(network.config))
        state = {name: value for name, value in self.state.items() if not (left_out and name.startswith(left_out))}
        load_weights(network, state, self.source, "give the file as it was saved")

    def describe(self, config: NetworkConfig) -> str:
        """Return one line for the user: the kind of the weights, and options that differ from training.

        Args:
            config: options of the network that gets the weights.
        """
        text = f"{self.source}: {self.kind}, D = {config.embedding_dim}; model.network follows the weights"
        absent = [name for name in self.config.modalities if name not in config.modalities]
        if absent:
            text += f", without those of {' and '.join(absent)}, which data.modalities lacks"
        changed = [
            f"{name} is {getattr(config, name)} here and was {getattr(self.config, name)}"
            for name in self.behaviour
            if getattr(config, name) != getattr(self.config, name)
        ]
        return text + (f"; but model.network.{', '.join(changed)} in training" if changed else "")


def absent_weights(config: NetworkConfig) -> list[str]:
    """Return the name prefixes of weights that a network of all modalities has, and this one lacks.

    Args:
        config: shape of the network.
    """
    absent = [name for name in MODALITIES if name not in config.modalities]
    found = [f"{part}{name}." for name in absent for part in ("", "reconstruction.")]
    return found if AUDIO_TEXT in config.embeddings else [*found, "fusion."]


def read_weights(path: str | Path) -> Weights:
    """Read the weights of a network from a release of the authors, a checkpoint of this project, or a state dict.

    A state dict of ``MCNModule`` or of its ``network`` may be saved by ``torch.save`` or as safetensors. It does not
    define pooling and normalisation, which follow the options.

    Args:
        path: value of ``--model.weights``.

    Raises:
        WeightsError: if the file is missing, or does not hold exactly the weights of a network.
    """
    content = read_file(path)
    if isinstance(content, Mapping) and isinstance(options := content.get("hyper_parameters"), Mapping):
        return _from_checkpoint(options, content.get("state_dict"), str(path))
    state = find_state(content, path)
    # own names are tried first: the released names have nothing in common with them
    if (plain := _network_part(state)) is not None:
        return Weights(str(path), OWN_STATE_DICT, _own_config(plain, str(path)), plain)
    with naming(str(path)):
        kind = released_model(state).name
        return Weights(str(path), kind, released_config(state), rename(state), BEHAVIOUR_FIELDS)


def _network_part(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Return the network's weights in a state dict of this project's module or network; ``None`` for others."""
    plain = {name.removeprefix("module."): value for name, value in state.items()}
    if any(name.startswith("network.") for name in plain):
        plain = {name.removeprefix("network."): value for name, value in plain.items() if name.startswith("network.")}
    plain = {name: value for name, value in plain.items() if not name.startswith("text.embedder.")}
    return plain if any(name.startswith(_SIZE_LAYERS) for name in plain) else None


_SIZE_LAYERS = ("video.projection.", "audio.projection.", "text.word_projection.")
"""Name prefixes of the layers that define the sizes of inputs and embeddings, one for each modality."""


def _own_config(plain: Mapping[str, Tensor], source: str) -> NetworkConfig:
    """Return the options of this project's network by the names and shapes of its weights.

    Raises:
        WeightsError: if a weight that defines a size is missing.
    """
    modalities = [name for name in MODALITIES if any(weight.startswith(f"{name}.") for weight in plain)]
    reconstruction = any(weight.startswith("reconstruction.") for weight in plain)
    fused = any(weight.startswith("fusion.") for weight in plain)
    sizes: dict[str, object] = {}
    try:
        if "video" in modalities:
            sizes["embedding_dim"], sizes["video_dim"] = plain["video.projection.weight"].shape
        if "text" in modalities:
            sizes["text_dim"] = plain["text.word_projection.weight"].shape[1]
            # with fusion the gate is that of both together, in another layer
            if not fused:
                sizes["embedding_dim"] = plain["text.gated.gate.weight"].shape[0]
        if "audio" in modalities:
            sizes["audio_bands"] = plain["audio.network.conv1.weight"].shape[1]
            sizes["audio_widths"] = [plain[f"audio.network.stages.{n}.0.conv1.weight"].shape[0] for n in range(4)]
            # last: with fusion its output is D/2, and the video has told D
            sizes.setdefault("embedding_dim", plain["audio.projection.weight"].shape[0])
        if reconstruction:
            sizes["reconstruction_hidden"] = plain[f"reconstruction.{modalities[0]}.0.weight"].shape[0]
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsError(f"{source}: expected all weights, found none for {error}; save its state_dict()") from None
    found = {"modalities": modalities, "reconstruction": reconstruction, "fuse_audio_text": fused, **sizes}
    return _as_config(found, source)


def _as_config(found: Mapping[str, object], source: str) -> NetworkConfig:
    """Return the options of a network, where parts that the weights do not have get the default sizes."""
    try:
        return as_config(NetworkConfig, found, "--model.network")
    except InputError as error:
        raise WeightsError(f"{source}: {error}") from None


def _from_checkpoint(options: Mapping[str, object], state: object, source: str) -> Weights:
    network = options.get("network")
    if not isinstance(network, Mapping) or not isinstance(state, Mapping):
        lacking = "weights" if isinstance(network, Mapping) else "the shape of its network"
        raise WeightsError(
            f"{source}: expected a checkpoint of this project, found one without {lacking}; give another"
        )
    prefix = "network."
    names = [name for name in state if name.startswith(prefix) and not name.startswith("network.text.embedder.")]
    config = _as_config({name: network[name] for name in (*SHAPE_FIELDS, *BEHAVIOUR_FIELDS) if name in network}, source)
    weights = {name.removeprefix(prefix): state[name] for name in names}
    return Weights(source, OWN_CHECKPOINT, config, weights, tuple(name for name in BEHAVIOUR_FIELDS if name in network))
