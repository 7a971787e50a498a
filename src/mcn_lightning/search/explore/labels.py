"""Zero-shot labels: each clip gets the label whose embedding is nearest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from mcn_lightning.data.text import split_words
from mcn_lightning.errors import InputError, need_package
from mcn_lightning.files import read_lines, replacing, writing
from mcn_lightning.search.manifest import gallery_names

if TYPE_CHECKING:
    import pandas as pd

    from mcn_lightning.search.index import Index

CHUNK = 8_192
"""Clips that are compared at a time."""
ENDINGS = (".parquet", ".csv")
SHOWN = ("id", "video", "start", "end", "text")


def read_labels(path: Path) -> list[str]:
    """Read labels, one on each line. Empty lines at the end of the file do not count.

    Args:
        path: of a text file.

    Raises:
        InputError: if the file cannot be read, or has no label, an empty line between labels, or a label twice.
    """
    lines = read_lines(path, "a label on each line")
    while lines and not lines[-1]:
        lines.pop()
    check_labels(lines, f"{path}, line ")
    return lines


def check_labels(labels: Sequence[str], where: str = "label ") -> None:
    """Refuse labels that cannot be told apart.

    Args:
        labels: the labels.
        where: name of a label in messages, before its number.

    Raises:
        InputError: if there is none, one is empty, or two have the same words.
    """
    if not labels:
        raise InputError(f"{where.partition(', line')[0].strip()}: expected a label on each line, found none")
    first: dict[str, int] = {}
    for number, label in enumerate(labels, 1):
        # labels that differ in marks or capitals have the same embedding or nearly so
        words = " ".join(split_words(label.lower()))
        if not label.strip():
            raise InputError(f"{where}{number}: expected a label, found none; delete the line")
        if before := first.get(words or label):
            raise InputError(f"{where}{number}: expected each label once, found {label!r} as number {before} too")
        first[words or label] = number


def classify(
    index: Index, labels: Sequence[str], modality: str | None = None, where: str | None = None
) -> Iterator[pd.DataFrame]:
    """Give each clip the label with the highest dot product, as the evaluation of action recognition does.

    Args:
        index: of the clips.
        labels: L labels.
        modality: letters of the modalities that are compared; by default those that a search compares.
        where: condition on the table of clips, in SQL.

    Yields:
        Blocks of clips in their order, with the columns ``id``, ``video``, ``start``, ``end``, ``text``, ``label``, its
        ``score``, and ``score_<label>`` for each label. Clips without the modality are left out. Of labels that tie,
        the first one counts.

    Raises:
        InputError: if a label or an option is wrong, or no word of a label is known.
    """
    check_labels(labels)
    letters = modality or index.default_gallery
    names = gallery_names(letters, index.manifest.embeddings, "--modality")
    embedded = embed_labels(index, labels)
    rows = index.ranking.rows_with(letters)
    if where is not None:
        rows = np.intersect1d(rows, index.clips.where(where))
    for first in range(0, len(rows), CHUNK):
        yield _block(index, labels, embedded, names, rows[first : first + CHUNK])


def embed_labels(index: Index, labels: Sequence[str]) -> Tensor:
    """Embed labels.

    Args:
        index: whose model embeds.
        labels: L labels.

    Returns:
        ``(L, D)`` float32 on the CPU.

    Raises:
        InputError: naming the labels without any word that the model knows.
    """
    unknown = [label for label in labels if {*split_words(label)} <= {*index.model.unknown_words(label)}]
    if unknown:
        raise InputError(f"--labels: expected labels with a known word, found none known of: {', '.join(unknown)}")
    return index.model.embed_text(labels).cpu()


def _block(
    index: Index, labels: Sequence[str], embedded: Tensor, names: Sequence[str], rows: np.ndarray
) -> pd.DataFrame:
    import pandas as pd

    scores = (index.vectors.rows(names, rows) @ embedded.T).numpy()
    best = scores.argmax(axis=1)
    clips = index.clips.take(rows.tolist())
    columns: dict[str, Any] = {name: [clip[name] for clip in clips] for name in SHOWN}
    columns |= {"label": [labels[each] for each in best], "score": scores[np.arange(len(rows)), best]}
    columns |= {f"score_{label}": scores[:, number] for number, label in enumerate(labels)}
    return pd.DataFrame(columns).astype({"start": "float64", "end": "float64"})


def check_output(path: Path) -> None:
    """Refuse a file of labels that cannot be written.

    Raises:
        InputError: if its ending is unknown, or pyarrow is missing.
    """
    if path.suffix not in ENDINGS:
        raise InputError(f"--output {path}: expected a name ending in {' or '.join(ENDINGS)}")
    if path.suffix == ".parquet":
        need_package("pyarrow", f"--output {path}", "pip install pyarrow, or write .csv")


def write_labels(path: Path, blocks: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Write labelled clips block by block, whole or not at all.

    Args:
        path: ending in .parquet or .csv.
        blocks: of ``classify``.

    Yields:
        The blocks, each after it is written.

    Raises:
        InputError: if the file cannot be written.
    """
    check_output(path)
    with writing(f"--output {path}"), replacing(path) as partial:
        yield from (_write_parquet if path.suffix == ".parquet" else _write_csv)(partial, blocks)


def _write_csv(path: Path, blocks: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    with path.open("w", encoding="utf-8", newline="") as file:
        for number, block in enumerate(blocks):
            block.to_csv(file, index=False, header=number == 0)
            yield block


def _write_parquet(path: Path, blocks: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    import pyarrow as pa
    from pyarrow import parquet

    writer = None
    try:
        for block in blocks:
            kinds = [(name, pa.float32()) for name in block.columns if name.startswith("score")]
            text = [(name, pa.string()) for name in ("id", "video")]
            times = [(name, pa.float64()) for name in ("start", "end")]
            # fixed, as a block of empty texts would get another type than the first
            schema = pa.schema([*text, *times, ("text", pa.string()), ("label", pa.string()), *kinds])
            writer = writer or parquet.ParquetWriter(path, schema)
            writer.write_table(pa.Table.from_pandas(block, schema, preserve_index=False))
            yield block
    finally:
        if writer is not None:
            writer.close()
