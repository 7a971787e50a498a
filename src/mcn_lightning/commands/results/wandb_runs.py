"""Runs from wandb, read through its public API."""

from __future__ import annotations

from numbers import Real
from typing import Any

from mcn_lightning.commands.results.runs import Points, Run
from mcn_lightning.errors import InputError, first_line
from mcn_lightning.runs.saved import Options, Record, logged_name

PREFIX = "wandb:"
SECONDS = 30  # timeout of a request to the server
OF_ABLATE = ("files", "seeds")
"""Options of ``ablate`` that a sweep sets. wandb adds them to the config of each run, which has no such options."""


def wandb_runs(location: str) -> list[Run]:
    """Return the runs of a project, or one run.

    Args:
        location: ``wandb:entity/project`` or ``wandb:entity/project/run``.

    Raises:
        InputError: if wandb has no key, does not answer, or knows no such project or run.
    """
    path = location.removeprefix(PREFIX)
    if path.count("/") not in (1, 2) or not all(path.split("/")):
        raise InputError(f"RUN {location}: expected wandb:entity/project or wandb:entity/project/run")
    import wandb  # takes a second, and only these runs need it

    try:
        api = wandb.Api(timeout=SECONDS)
        found = [api.run(path)] if path.count("/") == 2 else list(api.runs(path))
        runs = [_run(run, path) for run in found]
    except (wandb.Error, ValueError, OSError) as error:  # requests' errors are OSErrors
        advice = "`wandb login` stores a key, WANDB_BASE_URL names a server of your own"
        raise InputError(f"RUN {location}: expected runs, found none to read ({first_line(error)}); {advice}") from None
    if not runs:
        raise InputError(f"RUN {location}: expected runs, found a project without any")
    return runs


def _run(run: Any, path: str) -> Run:
    summary = dict(run.summary)
    options = _nested({str(name): value for name, value in dict(run.config).items() if name not in OF_ABLATE})
    origin = options.pop("run", None)  # commit and command differ between runs of one row
    known = {name: origin[name] for name in ("commit", "changed") if name in origin} if isinstance(origin, dict) else {}
    return Run(
        name=logged_name(options) or path.split("/")[1],  # wandb's random names would differ for every seed
        location=PREFIX + "/".join([*path.split("/")[:2], str(run.id)]),
        options=options,
        last={
            name: float(value)
            for name, value in summary.items()
            # wandb's own values begin with _
            if isinstance(value, Real) and not isinstance(value, bool) and not name.startswith(("_", "run."))
        },
        record=_record(run, summary) | known,
        finished=run.state == "finished",
        curve=lambda metric: _points(run, metric),
    )


def _nested(options: Options) -> Record:
    """Return options with dotted names, such as ``model.loss.cluster_weight``, as nested dicts."""
    found: Record = {}
    for name, value in options.items():
        group = found
        *above, last = name.split(".")
        for part in above:
            inner = group.get(part)
            group[part] = group = inner if isinstance(inner, dict) else {}
        both = isinstance(value, dict) and isinstance(group.get(last), dict)
        # wandb stores a group both as a dict and by dotted names, of which a sweep's are the latter
        group[last] = {**value, **group[last]} if both else value
    return found


def _record(run: Any, summary: Record) -> Record:
    """Return the part of ``run.json`` that wandb has: values that the run logged, else those that wandb recorded."""
    metadata = run.metadata or {}
    record: Record = {}
    if commit := (metadata.get("git") or {}).get("commit"):
        record["commit"] = commit
    if gpu := metadata.get("gpu"):
        record["hardware"] = f"{metadata.get('gpu_count') or 1} x {gpu}"
    elif cpus := metadata.get("cpu_count"):
        record["hardware"] = f"{cpus} CPU cores"
    if isinstance(seconds := summary.get("_runtime"), Real):
        record["hours"] = float(seconds) / 3600
    logged = _nested(summary).get("run")
    return record | (logged if isinstance(logged, dict) else {})


def _points(run: Any, metric: str) -> Points:
    """Return the points of a metric against Lightning's steps, which its logger logs with every metric."""
    # the whole history: run.history() is a sample of 500 rows
    rows = run.scan_history(keys=[metric, "trainer/global_step"])
    return [(float(row["trainer/global_step"]), float(row[metric])) for row in rows if row.get(metric) is not None]
