"""What a run has saved in its folder: options, metrics and record, read; options laid flat and compared."""

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

from mcn_lightning.errors import InputError
from mcn_lightning.text_files import read_json, read_text

CONFIG, METRICS, RECORD = "config.yaml", "metrics.csv", "run.json"

ASIDE = (
    "ckpt_path", "run_folder", "config", "verbose", "checkpoint", "resume", "report", "embeddings", "progress",
    "data.num_workers", "data.timeout", "data.eval_batch_size",
    "trainer.logger", "trainer.default_root_dir", "trainer.enable_progress_bar", "trainer.enable_model_summary",
    "trainer.enable_checkpointing", "trainer.log_every_n_steps", "trainer.plugins", "trainer.profiler",
)  # fmt: skip
"""Options, or groups of them, that do not change what a run reaches."""

DECISIVE = (
    "seed_everything", "data", "model", "centroids", "retrieval",
    "trainer.precision", "trainer.accumulate_grad_batches", "trainer.gradient_clip_val",
    "trainer.gradient_clip_algorithm", "trainer.limit_train_batches", "trainer.overfit_batches",
    "trainer.sync_batchnorm",
)  # fmt: skip
"""Options, or groups, that make a run what it is: a run goes on with these alone, and may be longer, or elsewhere."""

TOLD = 5  # differences in a message
WIDTH = 40  # letters of a value in a message


def folder_of(checkpoints: Path) -> Path:
    """Return the folder of the run whose checkpoints lie in a folder: the one above ``checkpoints``, else the same."""
    return checkpoints.parent if checkpoints.name == "checkpoints" else checkpoints


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the lines of a ``metrics.csv`` as Lightning's CSVLogger writes it, without the empty cells.

    A last line that was not written to its end, as when a run is killed, is told and left out.

    Raises:
        InputError: if it cannot be read.
    """
    text = read_text(path, "the metrics of a run")
    if not text:
        raise InputError(f"{path}: expected the metrics of a run, found an empty file")
    if not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        print(f"warning: {path}: the last line breaks off and is left out", file=sys.stderr)
    try:
        rows = csv.DictReader(io.StringIO(text, newline=""))
        found = [{name: value for name, value in row.items() if name and value} for row in rows]
        _ = [float(value) for row in found for value in row.values()]
    except (ValueError, TypeError, csv.Error) as error:
        raise InputError(f"{path}: expected the metrics of a run, found something else ({error})") from None
    return found


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Return the lines of a ``metrics.csv`` as numbers; see ``read_rows``."""
    return [{name: float(value) for name, value in row.items()} for row in read_rows(path)]


def read_record(folder: Path) -> dict[str, Any]:
    """Return what ``run.json`` says of how a run ran; empty where there is none, as in older runs.

    Raises:
        InputError: if it cannot be read.
    """
    path = folder / RECORD
    found = read_json(path, "the record of a run") if path.is_file() else {}
    if not isinstance(found, dict) or not all(isinstance(found.get(name, 0), Real) for name in ("hours", "memory_gb")):
        raise InputError(f"{path}: expected the record of a run, found something else; remove the file to go without")
    return found


def starts_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the starts in the record of a run; one whose record has no list was started once."""
    return list(record.get("starts") or ([dict(record)] if record else []))


def read_options(path: Path) -> dict[str, Any]:
    """Return the options in the ``config.yaml`` of a run; empty where there is none.

    Raises:
        InputError: if they cannot be read.
    """
    if not path.is_file():
        return {}
    text = read_text(path, "the options of a run")
    try:
        found = yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        found = " ".join(str(error).split())
    if isinstance(found, dict):
        for name, kinds in {"seed_everything": int, "data": dict, "model": dict, "trainer": dict}.items():
            if not isinstance(value := found.get(name), kinds | None):
                found = f"{name}: {_text(value)}"
                break
        else:
            return found
    raise InputError(f"{path}: expected the options of a run, found something else ({found}); mend or remove the file")


def logged_name(options: Mapping[str, Any]) -> str | None:
    """Return what the user called a run: the name that its logger was given, of several the first one's."""
    loggers = (options.get("trainer") or {}).get("logger")
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        if isinstance(logger, dict) and (name := (logger.get("init_args") or {}).get("name")):
            return str(name)
    return None


def flat_options(options: Any, aside: Collection[str] = (), prefix: str = "") -> dict[str, Any]:
    """Return nested options by their dotted names, as the command takes them; lists stay as they are.

    Args:
        options: as in config.yaml.
        aside: names of options and groups that are left out.
        prefix: name of what ``options`` are.
    """
    if prefix in aside:
        return {}
    if not isinstance(options, Mapping) or (prefix and not options):
        return {prefix: options}
    items = (flat_options(value, aside, f"{prefix}.{name}" if prefix else str(name)) for name, value in options.items())
    return {name: value for item in items for name, value in item.items()}


def counting_options(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the options that change what a run reaches, but for the seed, by their dotted names, values as text."""
    flat = flat_options(options, ("seed_everything", *ASIDE))
    return {name: value if isinstance(value, str) else _text(value) for name, value in flat.items()}


def differences(
    there: Mapping[str, Any], here: Mapping[str, Any], decisive: Sequence[str] = DECISIVE, aside: Collection[str] = ()
) -> list[str]:
    """Return the options in which two runs differ, of those that make a run what it is: ``name: 1 there, 2 here``.

    Args:
        there: the options of one run, as in config.yaml.
        here: those of the other.
        decisive: options, or groups of them, that are looked at.
        aside: options that may differ, beside ``ASIDE``.
    """
    one, other = (
        {name: value for name, value in flat_options(options, (*ASIDE, *aside)).items() if _within(name, decisive)}
        for options in (there, here)
    )
    names = sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
    return [f"{name}: {_shown(one, name)} there, {_shown(other, name)} here" for name in names]


def _within(name: str, groups: Sequence[str]) -> bool:
    return any(name == group or name.startswith(f"{group}.") for group in groups)


def told(unlike: Sequence[str]) -> str:
    """Return differences as part of a message."""
    more = f", and {len(unlike) - TOLD} more" if len(unlike) > TOLD else ""
    return ", ".join(unlike[:TOLD]) + more


def _shown(options: Mapping[str, Any], name: str) -> str:
    if name not in options:
        return "nothing"
    text = _text(options[name])
    return text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."


def _text(value: Any) -> str:
    return json.dumps(value, default=str)
