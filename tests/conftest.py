"""What all tests share: one thread a process, no network, the real data beside the checkout, a small generated set."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import tarfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if gc.isenabled():  # until all tests are found: imports leave no garbage
    gc.disable()
# a shell's background job and nohup ignore these, and what the tests start would too
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
sys.path.insert(0, str(Path(__file__).parent))  # so that `from references import ...` works from every folder

import forked  # noqa: F401 (before any data loader: all share its server of forks)
import pytest
import torch
import yaml
from hypothesis import HealthCheck, settings

from mcn_lightning.data.sources.synthetic import SyntheticConfig, write_synthetic

torch.set_num_threads(1)
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")  # a busy machine is no fault of what is tested

TINY = SyntheticConfig(videos=6, held_out=2, seconds=30.0, topics=3, widths=(8, 8), word_dim=8)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with files that have slow tests, those of clusters first: one alone at the end would cost minutes."""
    rank: dict[Path, int] = {}
    for item in items:
        slow = 2 * bool(item.get_closest_marker("slurm")) + bool(item.get_closest_marker("slow"))
        rank[item.path] = max(slow, rank.get(item.path, 0))
    items.sort(key=lambda item: -rank[item.path])


def pytest_collection_finish() -> None:
    """Search the garbage seldom, and not in what the libraries hold: a tenth of the time would go into that."""
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    gc.enable()


def pytest_sessionfinish() -> None:
    """End processes that read for a run that a test broke off: they ignore the signal by which Python ends them."""
    for process in multiprocessing.active_children():
        process.kill()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the checkout; the test is skipped where there is none."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real data in {folder}, which is absent")
    return folder


@pytest.fixture(scope="session")
def annotations(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published annotations, unpacked: ``crosstask_release`` and ``mining_youtube``."""
    folder = tmp_path_factory.mktemp("annotations")
    for path in (shared / "annotations").glob("*.tar.gz"):
        with tarfile.open(path) as archive:
            archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of a generated data set, not to be written to: 6 training and 2 held-out videos of 30 s, 3 topics."""
    root = tmp_path_factory.mktemp("generated") / "tiny"
    write_synthetic(root, TINY)
    return root


@pytest.fixture
def overlay(tmp_path: Path, tiny: Path) -> Path:
    """A file that makes any recipe tiny; what a recipe leaves out stays as it is."""
    from launch import tiny_options

    few = {"max_steps": 3, "limit_val_batches": 1, "precision": 32, "check_val_every_n_epoch": 3}  # 1 batch an epoch
    options = tiny_options(tiny, tmp_path / "runs", **few) | {"checkpoint": {"every_n_epochs": 3}}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(options))
    return path
