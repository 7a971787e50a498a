"""Reads what wandb wrote for a run: blocks of 32 KiB with records in parts, as in LevelDB's log; each a protobuf."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

BLOCK, HEADER, FILE_HEADER = 32768, 7, 7
LAST_PARTS = (1, 4)  # a whole record, or its last part


def records(path: Path) -> list[Any]:
    """Return the records of a ``.wandb`` file."""
    from wandb.proto import wandb_internal_pb2

    data, place, parts, found = path.read_bytes(), FILE_HEADER, b"", []
    while place + HEADER <= len(data):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        if kind == 0:
            break
        parts += data[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in LAST_PARTS:
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            found.append(record)
            parts = b""
    return found


def display_name(folder: Path) -> str:
    """Return what the one run in a folder of wandb's is called."""
    (path,) = folder.glob("*.wandb")
    return next(record.run.display_name for record in records(path) if record.WhichOneof("record_type") == "run")


def exit_status(folder: Path) -> int | None:
    """Return the exit status that the one run in a folder of wandb's ended with; none where it was cut off."""
    (path,) = folder.glob("*.wandb")
    found = [record.exit.exit_code for record in records(path) if record.WhichOneof("record_type") == "exit"]
    return found[-1] if found else None


def summary(folder: Path) -> dict[str, Any]:
    """Return the summary of the one run in a folder of wandb's: what was logged last, and what it was told itself."""
    (path,) = folder.glob("*.wandb")
    items = (item for record in records(path) for item in record.summary.update)
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def logged(folder: Path) -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
    """Return id, config and rows of the one run in a folder of wandb's, by the names that were logged."""
    (path,) = folder.glob("*.wandb")
    run, config, rows = "", {}, []
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run.run_id
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "config":
            config |= {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.config.update}
        elif kind == "history":
            rows.append(
                {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            )
    return run, config, rows
