"""One GPU, under eight minutes: is everything right there, how fast is it, and where does the time go.

    python benchmarks/gpu.py --out gpu                 # on an H100 or H200
    python benchmarks/gpu.py --out gpu --tiny     # anywhere, also on a CPU: does the script run

Prints one Markdown table last. ``gpu.md`` and ``gpu.json`` in the folder are written after every section, so that a run
that is stopped leaves what it has. Rows of the section "parity" say ok or BAD. A section that fails leaves the others.
The installed package is measured; on a machine without it, set PYTHONPATH to ``src`` and to the packages that it needs.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from gpu_parts import costs, extraction, parity, steps, training
from gpu_parts.run import Run

COMMAND = ("jsonargparse", "omegaconf", "pytorch_lightning", "torchmetrics")


def sections(work: Path) -> dict[str, Callable[[Run], None]]:
    """Return the sections in their order: what decides most comes first."""
    return {
        "rates": steps.rates,
        "parity": parity.measure,
        "step": steps.steps,
        "waits": steps.waits,
        "loss": costs.losses,
        "kmeans": costs.kmeans,
        "evaluation": costs.evaluation,
        "loader": functools.partial(training.loader, work=work),
        "extract": functools.partial(extraction.extraction, work=work),
        "fit": functools.partial(training.fit, work=work),
        "compile": steps.compiled,
    }


def run_section(run: Run, name: str, section: Callable[[Run], None]) -> None:
    """Run a section, and write what there is."""
    if run.left() < 15:
        run.add(name, "section", "left out", "", "no time")
    begun = time.perf_counter()
    try:
        if run.left() >= 15:
            torch.manual_seed(0)
            section(run)
    except Exception as error:  # the other sections are worth their time
        traceback.print_exc()
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]} at {where}"
        run.add(name, "section", "FAILED", "", said)
    run.add(name, "seconds of the section", time.perf_counter() - begun, "s")
    run.clear()
    run.write()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "gpu")), help="folder of the table")
    parser.add_argument("--sections", help="some of the sections, as in step,loss; all by default")
    parser.add_argument("--budget", type=float, default=450.0, help="seconds; what would go beyond is left out")
    parser.add_argument("--tiny", action="store_true", help="small sizes, on any machine")
    options = parser.parse_args()
    gpu = torch.cuda.is_available()
    if not gpu and not options.tiny:
        sys.exit("error: expected a GPU, found none; --tiny runs small sizes on a CPU")
    if missing := [name for name in COMMAND if importlib.util.find_spec(name) is None]:
        sys.exit(f"error: not installed: {', '.join(missing)}; pip install -e .")
    warnings.filterwarnings("ignore")
    work = (options.out / "work").resolve()
    every = sections(work)
    chosen = options.sections.split(",") if options.sections else list(every)
    if unknown := [name for name in chosen if name not in every]:
        sys.exit(f"error: --sections: expected some of {', '.join(every)}, found {', '.join(unknown)}")
    work.mkdir(parents=True, exist_ok=True)
    run = Run(torch.device("cuda" if gpu else "cpu"), options.tiny, options.budget, options.out)
    try:
        for name in chosen:
            run_section(run, name, every[name])
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"\n{run.table()}")


if __name__ == "__main__":
    main()
