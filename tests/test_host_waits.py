"""Training, k-means and evaluation on a simulated device: no step waits for it, and nothing mixes devices."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from modules import make_data, make_module
from processes import run
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.strategies import SingleDeviceStrategy

from mcn_lightning.callbacks import Progress
from mcn_lightning.clustering import KMeans
from mcn_lightning.data.sources.synthetic import SyntheticConfig, write_synthetic
from mcn_lightning.losses import check_state
from mcn_lightning.runs.lightning import set_monitored_metrics

NEEDED = hasattr(torch._C, "_acc") and hasattr(torch._C._acc, "register_python_privateuseone_device_guard")
ALLOWED = {
    "k-means": {"clustering/kmeans.py", "clustering/rows.py", "clustering/online.py"},
    "reports": {"callbacks/centroids.py", "module.py"},
    "last step": {"callbacks/progress.py"},
    "evaluation": {
        "batch.py", "callbacks/evaluation.py", "callbacks/held_out.py", "clustering/kmeans.py", "clustering/rows.py",
        "metrics/checks.py", "metrics/clustering.py", "metrics/items.py", "metrics/retrieval.py", "metrics/ties.py",
        "module.py", "apply_func.py",
    },
}  # fmt: skip
"""Files that may wait where a step with k-means, an epoch or an evaluation ends. The last two are Lightning's logging.

They end with numbers on the host, and some results have sizes that the host must know. No other step has such a file.
"""


class AnyDevice(CPUAccelerator):
    """An accelerator for a device that Lightning does not know."""

    def setup_device(self, device: torch.device) -> None:
        """Accept it."""

    def teardown(self) -> None:
        """There is nothing to free."""


class FromTheHost(Callback):
    """Log a number of the host, and know metrics as a run does that goes on."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        set_monitored_metrics(trainer, {"val/before": 1.0})

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: object) -> None:
        pl_module.log("mine", torch.tensor(1.0))


class Phases(Callback):
    """Keep what the device records between hooks."""

    def __init__(self, record: Any) -> None:
        self.record, self.found = record, []

    def _end(self, phase: str) -> None:
        self.found.append((phase, dict(self.record.waits), dict(self.record.mixed), dict(self.record.copies)))
        self.record.clear()

    def on_train_start(self, *_: object) -> None:
        self._end("start")

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        self._end("reports" if self.found[-1][0] == "k-means" else "batch")

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: object) -> None:
        clustered = bool(pl_module.cluster_reports)  # the callback that logs them comes later, and clears them
        last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        self._end("k-means" if clustered else "last step" if last else "step")

    def on_validation_end(self, *_: object) -> None:
        self._end("evaluation")


def fit(folder: str, simulated: bool, **options: Any) -> list[tuple]:
    """Train on the CPU or on the simulated device, and return what that recorded."""
    root, callbacks, how = Path(folder), [Progress(), FromTheHost()], dict[str, Any](accelerator="cpu")
    if simulated:
        from simulated import DEVICE, RECORD

        callbacks.append(phases := Phases(RECORD))
        how = {"strategy": SingleDeviceStrategy(DEVICE, accelerator=AnyDevice())}
    logger = CSVLogger(root, "simulated" if simulated else "cpu")
    seed_everything(0)
    trainer = Trainer(
        default_root_dir=root, logger=logger, max_epochs=1, log_every_n_steps=2, num_sanity_val_steps=0,
        enable_model_summary=False, callbacks=callbacks, **how, **options,
    )  # fmt: skip
    trainer.fit(make_module(), make_data(root / "data", batch_size=2))
    return phases.found if simulated else []


def rows(folder: Path) -> list[dict[str, float]]:
    """Return what was logged, without what a clock says."""
    with open(next(folder.rglob("metrics.csv"))) as file:
        lines = list(csv.DictReader(file))
    clocks = ("seconds", "second", "share")
    return [{key: float(x) for key, x in line.items() if x and not key.endswith(clocks)} for line in lines]


@pytest.mark.skipif(not NEEDED, reason="this torch lets no device be written in Python")
def test_a_step_never_waits_and_nothing_mixes_devices(tmp_path):
    write_synthetic(tmp_path / "data", SyntheticConfig(videos=10, held_out=3, widths=(8, 8), word_dim=8, seconds=40))
    (found,) = run(fit, str(tmp_path), True, world=1)
    fit(str(tmp_path), False)
    phases = {phase: [each for each in found if each[0] == phase] for phase in dict.fromkeys(each[0] for each in found)}
    assert {name: len(some) for name, some in phases.items() if name != "start"} == {
        "batch": 4, "k-means": 1, "reports": 1, "step": 3, "last step": 1, "evaluation": 1,
    }  # fmt: skip
    assert not [mixed for _, _, mixed, _ in found if mixed]
    assert not [waits for _, waits, _, _ in [*phases["step"], *phases["batch"]] if waits]
    for phase, files in ALLOWED.items():
        assert {wait.split(" at ")[1].split(":")[0] for _, waits, _, _ in phases[phase] for wait in waits} == files
    # the loss of a step is copied in the step, and read in the next one
    assert all("read at distributed/collectives.py:__init__" in copies for _, _, _, copies in phases["step"])
    assert rows(tmp_path / "simulated") == rows(tmp_path / "cpu")


def cluster(_: str) -> list[tuple[int, int, int, bool]]:
    """Run k-means on the device, with and without reseeding, and return its rounds and its waits."""
    from simulated import DEVICE, RECORD

    torch.manual_seed(0)
    rows = torch.randn(200, 8)
    init, found = torch.cat([rows[:5], -100 * rows[5:6].abs()]), []
    for metric, rounds in (("euclidean", 100), ("cosine", 9), ("cosine", 100)):
        kmeans = KMeans(6, rounds, metric=metric)
        here = kmeans.fit(rows, init)
        there, start = rows.to(DEVICE), init.to(DEVICE)
        RECORD.clear()
        centroids, labels, report = kmeans.fit(there, start)
        names = ("_fit", "_pass", "_final_pass", "_still", "_sizes", "_sums", "<lambda>")  # what runs in every round
        waits = sum(count for place, count in RECORD.waits.items() if place.endswith(names))
        same = torch.equal(centroids.cpu(), here[0]) and torch.equal(labels.cpu(), here[1])
        same = same and not RECORD.mixed and report.iterations == here[2].iterations
        found.append((report.iterations, report.reseeded, waits, same))
    return found


@pytest.mark.skipif(not NEEDED, reason="this torch lets no device be written in Python")
def test_k_means_asks_the_device_every_four_rounds():
    ((first, *others),) = run(cluster, "", world=1)
    assert first[1] > 0  # it has reseeded, for which it must know the empty clusters
    for iterations, reseeded, waits, same in (first, *others):
        assert same and iterations > 4
        # besides: the share that changed and the objective, and two where clusters were split
        assert (iterations + 3) // 4 <= waits <= (iterations + 3) // 4 + 2 * reseeded + 2, (iterations, reseeded, waits)


def mistakes(_: str) -> tuple[dict, dict]:
    """Do on the device what a GPU refuses or waits for."""
    from simulated import DEVICE, RECORD

    there = torch.ones(3, device=DEVICE)
    check_state(0, {"queue on the CPU": torch.ones(2), "weight": there})
    assert not RECORD.mixed
    RECORD.clear()
    there.sum().item()
    there[there > 0]
    there[torch.tensor([1])]
    torch.tensor(1.0, device=DEVICE)
    there.to("cpu", non_blocking=True)
    there + torch.tensor(1.0)
    torch.stack([there.sum(), torch.tensor(1.0)])
    assert torch.equal((there + torch.ones(3)).cpu(), torch.full((3,), 2.0))
    return dict(RECORD.waits), dict(RECORD.mixed)


@pytest.mark.skipif(not NEEDED, reason="this torch lets no device be written in Python")
def test_the_simulated_device_tells_what_waits_and_what_mixes():
    ((waits, mixed),) = run(mistakes, "", world=1)
    kinds = [wait.split(" at ")[0] for wait, count in waits.items() for _ in range(count)]
    assert sorted(kinds) == ["_local_scalar_dense", "copy", "index", "index", "read"]
    assert list(mixed.values()) == [1, 1] and [name.split(" at ")[0] for name in mixed] == ["stack", "add"]
