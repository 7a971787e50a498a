"""Reading of a run's saved files: options, metrics and record. Flattening and comparison of options."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import yaml

from mcn_lightning.errors import InputError, one_line
from mcn_lightning.files import read_json, read_text, reading

CONFIG, METRICS, RECORD = "config.yaml", "metrics.csv", "run.json"

Options = Mapping[str, Any]
"""Nested options, as in ``config.yaml``: a group of options is a mapping."""
Record = dict[str, Any]
"""The contents of a ``run.json``; its fields are those of ``RunRecord``."""

IGNORED_OPTIONS = (
    "ckpt_path", "run_folder", "config", "verbose", "checkpoint", "resume", "report", "embeddings", "progress",
    "data.num_workers", "data.timeout", "data.eval_batch_size", "model.compile",
    "trainer.logger", "trainer.default_root_dir", "trainer.enable_progress_bar", "trainer.enable_model_summary",
    "trainer.enable_checkpointing", "trainer.log_every_n_steps", "trainer.plugins", "trainer.profiler",
)  # fmt: skip
"""Options, or groups of options, that do not change the result of a run."""

DEFINING_OPTIONS = (
    "seed_everything", "data", "model", "centroids", "retrieval",
    "trainer.precision", "trainer.float32_matmul_precision", "trainer.accumulate_grad_batches",
    "trainer.gradient_clip_val", "trainer.gradient_clip_algorithm", "trainer.limit_train_batches",
    "trainer.overfit_batches", "trainer.sync_batchnorm",
)  # fmt: skip
"""Options, or groups, that define a run. Resuming needs the same ones; others, such as its length, may change."""

MAX_SHOWN = 5  # differences named in a message
WIDTH = 40  # characters of a value in a message


def folder_of(checkpoints: Path) -> Path:
    """Return the run folder for a folder of checkpoints: the one above ``checkpoints``, else the same folder."""
    return checkpoints.parent if checkpoints.name == "checkpoints" else checkpoints


def version_order(folder: Path) -> tuple[Path, int, int]:
    """Return the sort key of a run's folder: the folder above it, its version number, its age."""
    number = folder.name.removeprefix("version_")
    # as a number, since version_10 comes after version_9; names of wandb count by their age
    return folder.parent, int(number) if number.isdecimal() else -1, folder.stat().st_mtime_ns


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a ``metrics.csv`` of Lightning's CSVLogger, without the empty cells.

    A killed run may leave an incomplete last line. It is left out with a warning.

    Raises:
        InputError: if the file cannot be read.
    """
    text = read_text(path, "the metrics of a run")
    if not text:
        raise InputError(f"{path}: expected the metrics of a run, found an empty file")
    # every whole row ends with a line break
    if not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        print(f"warning: {path}: the last line breaks off and is left out", file=sys.stderr)
    with reading(path, "the metrics of a run", ValueError, TypeError, csv.Error, advice="remove the file"):
        rows = csv.DictReader(io.StringIO(text, newline=""))
        found = [{name: value for name, value in row.items() if name and value} for row in rows]
        _ = [float(value) for row in found for value in row.values()]  # raises if a cell is no number
    return found


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Return the rows of a ``metrics.csv`` as numbers; see ``read_rows``."""
    return [{name: float(value) for name, value in row.items()} for row in read_rows(path)]


def read_record(folder: Path) -> Record:
    """Return the contents of a run's ``run.json``; empty if there is no such file, as in older runs.

    Raises:
        InputError: if it cannot be read.
    """
    path = folder / RECORD
    found = read_json(path, "the record of a run") if path.is_file() else {}
    if not isinstance(found, dict) or not all(isinstance(found.get(name, 0), Real) for name in ("hours", "memory_gb")):
        raise InputError(f"{path}: expected the record of a run, found something else; remove the file to go without")
    return found


def starts_of(record: Record) -> list[Record]:
    """Return the starts in the record of a run. A record without a list is from a version with one start."""
    return list(record.get("starts") or ([record] if record else []))


def read_options(path: Path) -> Options:
    """Return the options in the ``config.yaml`` of a run; empty if there is no such file.

    Raises:
        InputError: if they cannot be read.
    """
    if not path.is_file():
        return {}
    text = read_text(path, "the options of a run")
    try:
        found = yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        found = one_line(error)
    if isinstance(found, dict):
        # only what other code reads without a check
        for name, kinds in {"seed_everything": int, "data": dict, "model": dict, "trainer": dict}.items():
            if not isinstance(value := found.get(name), kinds | None):
                found = f"{name}: {_text(value)}"
                break
        else:
            return found
    raise InputError(f"{path}: expected the options of a run, found something else ({found}); mend or remove the file")


def logged_name(options: Options) -> str | None:
    """Return the name of a run: the ``name`` of its first logger that has one."""
    loggers = (options.get("trainer") or {}).get("logger")
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        if isinstance(logger, dict) and (name := (logger.get("init_args") or {}).get("name")):
            return str(name)
    return None


def flat_options(options: object, ignored: Collection[str] = (), prefix: str = "") -> dict[str, object]:
    """Flatten nested options to dotted names, as on the command line. Lists are not flattened.

    Args:
        options: as in config.yaml.
        ignored: names of options and groups to leave out.
        prefix: dotted name of ``options`` themselves.
    """
    if prefix in ignored:
        return {}
    # an empty group is a value too: it differs from a group that is not there
    if not isinstance(options, Mapping) or (prefix and not options):
        return {prefix: options}
    items = (
        flat_options(value, ignored, f"{prefix}.{name}" if prefix else str(name)) for name, value in options.items()
    )
    return {name: value for item in items for name, value in item.items()}


def comparable_options(options: Options) -> dict[str, str]:
    """Return the options that change the result of a run, except the seed, as texts by dotted name."""
    flat = flat_options(options, ("seed_everything", *IGNORED_OPTIONS))
    return {name: value if isinstance(value, str) else _text(value) for name, value in flat.items()}


def differences(
    there: Options,
    here: Options,
    compared: Sequence[str] = DEFINING_OPTIONS,
    ignored: Collection[str] = (),
) -> list[str]:
    """Return the differences between the options of two runs, as texts such as ``name: 1 there, 2 here``.

    Args:
        there: options of one run, as in config.yaml.
        here: options of the other run.
        compared: options, or groups, that are compared.
        ignored: options that may differ, in addition to ``IGNORED_OPTIONS``.
    """
    one, other = (
        {
            name: value
            for name, value in _with_batch_size(flat_options(options, (*IGNORED_OPTIONS, *ignored))).items()
            if _in_groups(name, compared)
        }
        for options in (there, here)
    )
    names = sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
    return [f"{name}: {_shown(one, name)} there, {_shown(other, name)} here" for name in names]


def _with_batch_size(options: Options) -> Options:
    """Return flat options with the batch size that null stands for, as earlier versions wrote it."""
    given = options.get("data.batch_size", 0), options.get("data.global_batch_size")
    return {**options, "data.batch_size": 128} if given == (None, None) else options


def _in_groups(name: str, groups: Sequence[str]) -> bool:
    return any(name == group or name.startswith(f"{group}.") for group in groups)


def summarize_differences(unlike: Sequence[str]) -> str:
    """Return the first differences as part of a message."""
    more = f", and {len(unlike) - MAX_SHOWN} more" if len(unlike) > MAX_SHOWN else ""
    return ", ".join(unlike[:MAX_SHOWN]) + more


def _shown(options: Options, name: str) -> str:
    if name not in options:
        return "not set"
    text = _text(options[name])
    return text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."


def _text(value: object) -> str:
    # JSON: the same text for equal values, whether they come from YAML or from Python
    return json.dumps(value, default=str)
