"""The option ``--labels`` of ``search``: a label for each clip."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mcn_lightning.search.explore.labels import check_output, classify, embed_labels, read_labels, write_labels
from mcn_lightning.search.options import SearchConfig

if TYPE_CHECKING:
    from mcn_lightning.search.index import Index


def label_clips(index: Index, path: str, output: str | None, config: SearchConfig) -> str:
    """Give each clip the nearest label, and write them.

    Args:
        index: of the clips.
        path: of a text file with a label on each line.
        output: Parquet or CSV file of the labelled clips.
        config: modality and condition.

    Returns:
        A table for people: the clips of each label, and the one with the highest score.

    Raises:
        InputError: if a label or an option is wrong.
    """
    if output is not None:
        check_output(Path(output))
    labels = read_labels(Path(path))
    embed_labels(index, labels)  # refuses unknown labels before the note
    if unknown := index.model.unknown_words(" ".join(labels)):
        print(f"note: words that the model does not know are left out: {', '.join(unknown)}", file=sys.stderr)
    blocks = classify(index, labels, config.modality, config.where)
    count: Counter[str] = Counter()
    best: dict[str, tuple[float, str]] = {}
    for block in blocks if output is None else write_labels(Path(output), blocks):
        for label, name, score in zip(block["label"], block["id"], block["score"], strict=True):
            count[label] += 1
            if label not in best or score > best[label][0]:
                best[label] = float(score), name
    return _table(labels, count, best)


def _table(labels: Sequence[str], count: Counter[str], best: dict[str, tuple[float, str]]) -> str:
    rows = [("clips", "label", "highest", "clip")]
    # labels without any clip too, which tell as much
    for label in sorted(labels, key=lambda each: -count[each]):
        score, name = best.get(label, (None, ""))
        rows.append((str(count[label]), label, "" if score is None else f"{score:.3f}", name))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
