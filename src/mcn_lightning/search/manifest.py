"""The file that says what an index holds. It is written last, so an index is whole or as it was before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mcn_lightning.errors import InputError
from mcn_lightning.files import read_json, reading, replacing
from mcn_lightning.metrics.directions import embedding_names
from mcn_lightning.module import MCNModule
from mcn_lightning.search.options import modalities_of

FORMAT = 1
"""Version of the files; another one is refused."""
MANIFEST, MODEL, WORDS, CLUSTERS, PARTS = (
    "index.json",
    "network.safetensors",
    "words.safetensors",
    "clusters.safetensors",
    "parts",
)
FUSED = "fused"
"""Name of the sum of the video and audio embeddings."""


@dataclass(frozen=True)
class Manifest:
    """What an index holds.

    Args:
        model: hash of the weights and options of the network.
        options: that all clips share: kinds of clips, length of windows, how the data are read.
        inputs: what a query needs; see ``Inputs``.
        network: options of the network.
        table: file of the table of clips.
        shards: files of the embeddings, and the rows of each.
        embeddings: names of the embeddings.
        galleries: search indexes by the letters of their modalities.
        choices: options that the search indexes were built with.
        own: the user's columns and their SQL types.
        generation: counts the additions; part of the names of files that an addition replaces.
        skipped: videos that could not be used, with the reason.
    """

    model: str
    options: dict[str, Any]
    inputs: dict[str, Any]
    network: dict[str, Any]
    table: str
    shards: list[tuple[str, int]]
    embeddings: list[str]
    galleries: dict[str, dict[str, Any]] = field(default_factory=dict)
    choices: dict[str, Any] = field(default_factory=dict)
    own: dict[str, str] = field(default_factory=dict)
    generation: int = 1
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def clips(self) -> int:
        """N, the number of clips."""
        return sum(rows for _, rows in self.shards)

    def write(self, folder: Path) -> None:
        """Write the file into the folder of the index."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"
        with replacing(folder / MANIFEST) as partial:
            partial.write_text(text, encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Read what an index holds.

    Args:
        folder: of the index.

    Raises:
        InputError: if it is no index, of another version, or damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        found = "a folder without index.json" if folder.is_dir() else "no such folder"
        more = " (lightning index has not finished; run the same command again)" if (folder / PARTS).is_dir() else ""
        raise InputError(f"{folder}: expected an index that lightning index made, found {found}{more}")
    found = read_json(path, "what an index holds")
    version = found.get("format") if isinstance(found, dict) else None
    if version != FORMAT:
        raise InputError(f"{path}: expected an index of format {FORMAT}, found {version}; make the index again")
    names = {each.name for each in fields(Manifest)}
    with reading(path, "what an index holds", TypeError, ValueError, advice="make the index again"):
        manifest = Manifest(**{name: value for name, value in found.items() if name in names})
        shards = [(str(name), int(rows)) for name, rows in manifest.shards]
    for name in (
        manifest.table,
        *(name for name, _ in shards),
        *(each["file"] for each in manifest.galleries.values()),
    ):
        # an index may come from others: no file outside of its folder is opened
        if Path(name).name != name:
            raise InputError(f"{path}: expected names of files in its folder, found {name!r}; make the index again")
    return Manifest(**{**vars(manifest), "shards": shards})


def hash_model(module: MCNModule) -> str:
    """Return the SHA-256 of the options and weights of a network and of its centroids.

    Args:
        module: the model.
    """
    digest = hashlib.sha256(json.dumps(network_options(module), sort_keys=True).encode())
    clusters = {} if module.clustering is None else module.clustering.centroids_by_name()
    # sorted: the order of a state dict changes with the code
    for name, value in sorted({**module.network.state_dict(), **clusters}.items()):
        array = value.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}\n".encode())
        digest.update(array.numpy().tobytes())
    return digest.hexdigest()


def network_options(module: MCNModule) -> dict[str, Any]:
    """Return the options of the network as plain data."""
    # through JSON, as they are compared with what was read from a file
    found: dict[str, Any] = json.loads(json.dumps(asdict(module.network_config)))
    return found


def check_same(folder: Path, kept: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse options other than those that the clips of an index share.

    Args:
        folder: of the index.
        kept: options of the index.
        given: options of the command.

    Raises:
        InputError: naming the first that differs.
    """
    for name, value in given.items():
        if kept.get(name) != value:
            raise InputError(
                f"--output {folder}: expected {name} as in this index ({kept.get(name)!r:.80}), found {value!r:.80}; "
                "give another folder"
            )


def gallery_names(letters: str, names: Sequence[str], option: str) -> list[str]:
    """Return the names of the stored embeddings whose sum is searched.

    Args:
        letters: of the modalities.
        names: of the stored embeddings.
        option: its name in messages.

    Raises:
        InputError: if a modality is not stored.
    """
    modalities = modalities_of(letters, option)
    wanted = embedding_names(modalities, "audio_text" in names)
    if absent := [name for name in wanted if name not in names]:
        found = ", ".join(name for name in names if name != FUSED)
        raise InputError(
            f"{option} {letters}: expected embeddings of {', '.join(wanted)}, found {found} without {absent[0]}"
        )
    if {"video", "audio"} <= {*wanted} and FUSED in names:
        return [FUSED, *(name for name in wanted if name not in ("video", "audio"))]
    return wanted
