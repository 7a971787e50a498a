"""What a model must know of its data to embed a new sentence, sound or video."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcn_lightning.data.files.pooling import DEFAULT_STREAMS, VisualStream
from mcn_lightning.data.files.spectrograms import AudioConfig
from mcn_lightning.data.text import TextConfig
from mcn_lightning.files import read_json
from mcn_lightning.options.config import as_config

RECIPE = "extract.json"
"""File of a data set that ``lightning extract`` wrote: the encoders of its streams."""


@dataclass(frozen=True)
class Inputs:
    """The options of the data that a model was trained on, as far as a query needs them.

    Args:
        streams: visual streams, joined in this order.
        audio: how spectrograms are cut.
        text: how sentences become vectors; its ``source`` is a path or the name of an encoder.
        encoders: options of ``lightning extract`` for each stream, empty if the features came from elsewhere.
        words: file of stored word vectors, in place of the source; see ``StoredWords``.
    """

    streams: tuple[VisualStream, ...] = DEFAULT_STREAMS
    audio: AudioConfig = AudioConfig()  # noqa: RUF009  # frozen
    text: TextConfig = TextConfig()  # noqa: RUF009  # frozen
    encoders: tuple[Mapping[str, Any], ...] = ()
    words: Path | None = None

    @classmethod
    def of_files(cls, root: Path, streams: Sequence[VisualStream], audio: AudioConfig, text: TextConfig) -> Inputs:
        """Return the inputs of a data set on disk.

        Args:
            root: its folder, which the source of the text is relative to.
            streams: its visual streams.
            audio: its spectrograms.
            text: its text.

        Raises:
            InputError: if the file of the encoders cannot be read.
        """
        source = root / text.source
        # absolute, as a query may be asked from another folder
        if source.exists():
            text = dataclasses.replace(text, source=str(source.resolve()))
        recipe = read_json(root / RECIPE, "options of lightning extract") if (root / RECIPE).is_file() else {}
        return cls(tuple(streams), audio, text, tuple(recipe.get("streams", ())))

    @classmethod
    def of_options(cls, data: Mapping[str, Any]) -> Inputs:
        """Return the inputs by the options of a run, as its ``config.yaml`` holds them under ``data``.

        Raises:
            InputError: if an option is wrong, or the file of the encoders cannot be read.
        """
        streams = [as_config(VisualStream, stream, "--data.streams") for stream in data.get("streams") or ()]
        audio = as_config(AudioConfig, data.get("audio") or {}, "--data.audio")
        text = as_config(TextConfig, data.get("text") or {}, "--data.text")
        return cls.of_files(Path(data.get("root") or "."), streams or DEFAULT_STREAMS, audio, text)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, without the stored words, which lie elsewhere on each machine."""
        found = dataclasses.asdict(self)
        del found["words"]
        return found | {"streams": list(found["streams"]), "encoders": [dict(each) for each in self.encoders]}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any], words: Path | None = None) -> Inputs:
        """Return what ``as_dict`` gave.

        Raises:
            InputError: if an option is wrong.
        """
        return cls(
            tuple(as_config(VisualStream, stream, "--data.streams") for stream in found["streams"]),
            as_config(AudioConfig, found["audio"], "--data.audio"),
            as_config(TextConfig, found["text"], "--data.text"),
            tuple(found["encoders"]),
            words,
        )


def without_places(inputs: Inputs) -> Inputs:
    """Return inputs without the folders of this machine: files keep their names alone."""
    text = dataclasses.replace(inputs.text, source=_name(inputs.text.source))
    encoders = [
        {
            name: _name(value) if name in ("encoder", "weights") and isinstance(value, str) else value
            for name, value in each.items()
        }
        for each in inputs.encoders
    ]
    return dataclasses.replace(inputs, text=text, encoders=tuple(encoders), words=None)


def _name(source: str) -> str:
    """Return the name of a file that a source is, after its kind, such as ``torch:``; other sources as they are."""
    kind, colon, place = source.rpartition(":")
    return kind + colon + Path(place).name if Path(place).is_absolute() or Path(place).exists() else source
