"""What this project touches inside of Lightning is there, means what it is taken for, and is touched in one file."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import (
    Callback,
    DeviceStatsMonitor,
    EMAWeightAveraging,
    ModelCheckpoint,
    StochasticWeightAveraging,
    TQDMProgressBar,
)
from pytorch_lightning.loggers import CSVLogger, WandbLogger
from pytorch_lightning.strategies import DDPStrategy
from torch.utils.data import DataLoader, TensorDataset

from mcn_lightning.runs import lightning

SOURCE = Path(__file__).parents[2] / "src" / "mcn_lightning"
ROOMS = ("runs", "callbacks", "benchmarks", "commands")
OWN = {"lightning.py"}
OTHERS = {"parsers.py", "cli.py", "fit.py", "messages.py"}
"""These reach into argparse, LightningCLI (whose hooks begin with ``_``) and tqdm."""


class Tiny(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch, batch_idx):
        loss = self.weight * batch[0].mean()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val", batch[0].mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Watch(Callback):
    """Keep what Lightning's internals say in the hooks in which they are read."""

    def __init__(self) -> None:
        self.steps: list[tuple] = []
        self.evaluated: list[tuple] = []
        self.ended: list[int] = []
        self.checkpoints: list[dict] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        loop = trainer.fit_loop.epoch_loop
        self.steps.append(
            (batch_idx, lightning.accumulates_gradients(trainer), lightning.logs_this_step(trainer),
             loop._batches_that_stepped, loop.batch_progress.is_last_batch)
        )  # fmt: skip
        if batch_idx == 1 and trainer.current_epoch == 0:
            lightning.log_step_now(trainer)
        self.checkpoints.append(trainer._checkpoint_connector.dump_checkpoint())

    def on_validation_end(self, trainer, pl_module):
        self.evaluated.append((trainer.fit_loop.total_batch_idx, trainer.fit_loop.epoch_loop._batches_that_stepped))

    def on_train_epoch_end(self, trainer, pl_module):
        self.ended.append(trainer.fit_loop.epoch_loop._batches_that_stepped)
        lightning.clear_restart_flags(trainer)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Trainer, Watch, CSVLogger]:
    """Train two epochs of four batches, two a step."""
    watch, logger = Watch(), CSVLogger(tmp_path_factory.mktemp("runs"), name="run")
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, accumulate_grad_batches=2, log_every_n_steps=1, logger=logger,
        callbacks=[watch, ModelCheckpoint(save_last=True)], enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0,
    )  # fmt: skip
    loader = DataLoader(TensorDataset(torch.arange(8.0)), batch_size=2)
    trainer.fit(Tiny(), loader, loader)
    return trainer, watch, logger


def test_the_loops_count_as_going_on_takes_them_to(trained):
    trainer, watch, _ = trained
    assert [step[:2] for step in watch.steps[:4]] == [(0, True), (1, False), (2, True), (3, False)]
    assert all(step[2] for step in watch.steps)  # every step is logged
    # a step counts after its last hook, and after the evaluation that follows it; the end of the epoch counts it
    assert [step[3] for step in watch.steps] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [step[4] for step in watch.steps] == [False, False, False, True] * 2
    assert watch.evaluated == [(3, 1), (7, 3)] and watch.ended == [2, 4]
    loop = trainer.fit_loop.epoch_loop
    for each in (trainer.fit_loop, loop, loop.val_loop):
        assert each._restarting is False
    assert loop._is_training_done and loop.val_loop._has_run is True
    assert callable(loop._should_check_val_fx) and hasattr(trainer.fit_loop, "_data_fetcher")
    for each in (loop, loop.val_loop):
        assert each._loaded_from_state_dict is each._resuming_from_checkpoint is False


def test_a_checkpoint_has_the_counters_that_are_settled(trained):
    trainer, watch, _ = trained
    places = [
        lightning.normalize_counters(trainer, checkpoint, validated=False) for checkpoint in watch.checkpoints[1::2]
    ]
    assert [place.stepped for place in places] == [1, 2, 3, 4]  # steps done, each of two batches
    assert [place.over for place in places] == [False, True, False, True] and all(place.inside for place in places)
    progress = watch.checkpoints[1]["loops"]["fit_loop"]
    assert set(progress) >= {
        "epoch_progress", "epoch_loop.state_dict", "epoch_loop.batch_progress", "epoch_loop.val_loop.batch_progress",
    }  # fmt: skip


def test_a_step_that_is_logged_now_is_logged_once(trained):
    _, _, logger = trained
    lines = Path(logger.log_dir, "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("step")
    loss = lines[0].split(",").index("loss")
    assert [line.split(",")[column] for line in lines[1:] if line.split(",")[loss]] == ["0", "1", "2", "3"]


def test_metrics_that_callbacks_monitor_can_be_set(trained):
    trainer, _, _ = trained
    lightning.set_monitored_metrics(trainer, {"of_before": 0.5})
    assert lightning.monitored_metrics(trainer).keys() >= {"loss", "val"}
    assert trainer.callback_metrics["of_before"] == 0.5 and not lightning.requeues_itself(trainer)


def test_loggers_write_where_they_are_told_to(tmp_path):
    counts = CSVLogger(tmp_path, name="run")
    assert lightning.fixed_version(counts) is None and lightning.next_version(counts) == 0
    (tmp_path / "run" / "version_4").mkdir(parents=True)
    assert lightning.next_version(counts) == 5
    trainer = Trainer(accelerator="cpu", logger=counts)
    lightning.set_log_folder(trainer, tmp_path / "other" / "mine")
    assert counts.log_dir == str(tmp_path / "other" / "mine") and lightning.csv_logger(trainer) is counts
    lightning.set_writer(counts, writer := object())
    assert counts.experiment is writer


def test_a_logger_to_wandb_takes_name_mode_and_id_before_it_begins(tmp_path):
    for offline, mode in ((True, "offline"), (False, None)):
        logger = WandbLogger("mine", tmp_path, offline=offline, project="mcn")
        assert lightning.wandb_name(logger) == "mine" and lightning.wandb_mode(logger) == mode
    lightning.set_wandb_option(logger, "mode", "offline")
    lightning.set_wandb_option(logger, "id", "abc")
    assert lightning.wandb_mode(logger) == "offline" and logger.version == logger._wandb_init["id"] == "abc"


def test_what_callbacks_and_strategies_keep_to_themselves():
    assert lightning.reads_cpu(DeviceStatsMonitor()) and not lightning.reads_cpu(DeviceStatsMonitor(cpu_stats=False))
    averaging = StochasticWeightAveraging(swa_lrs=0.1)
    assert not lightning.has_pending_schedule(averaging)
    averaging.load_state_dict(
        {"n_averaged": 0, "latest_update_epoch": 0, "scheduler_state": {}, "average_model_state": {}}
    )
    assert lightning.has_pending_schedule(averaging)
    assert lightning.averaged_model(EMAWeightAveraging()) is None and lightning.open_bars(TQDMProgressBar()) == []
    for sync in (True, False):
        trainer = Trainer(accelerator="cpu", devices=2, sync_batchnorm=sync, logger=False)
        assert lightning.syncs_batchnorm(trainer) is sync


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"gradient_as_bucket_view": True}),
        (
            {"strategy": "ddp_find_unused_parameters_true"},
            {"gradient_as_bucket_view": True, "find_unused_parameters": True},
        ),
        ({"strategy": DDPStrategy(bucket_cap_mb=5)}, {"bucket_cap_mb": 5}),
        ({"devices": 1}, None),
    ],
)
def test_gradients_on_several_devices(options, expected):
    trainer = Trainer(**{"accelerator": "cpu", "devices": 2, "logger": False, **options})
    for _ in range(2):
        lightning.set_ddp_defaults(trainer)
    assert getattr(trainer.strategy, "_ddp_kwargs", None) == expected


def test_validations_are_due_by_batches_or_by_time(tmp_path):
    loader = DataLoader(TensorDataset(torch.arange(2.0)))
    for interval, by_time in ((1.0, False), ("00:01:00:00", True)):
        trainer = Trainer(
            accelerator="cpu", fast_dev_run=False, max_epochs=1, val_check_interval=interval, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(Tiny(), loader, loader)
        assert lightning.validates_by_time(trainer) is by_time


def private_parts(path: Path) -> list[str]:
    """Return where a file takes or sets what begins with ``_`` of anything but ``self`` and ``cls``."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    found = [
        node for node in nodes
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
        and not (isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"})
        and not (isinstance(node.value, ast.Call) and ast.unparse(node.value) == "super()")
    ]  # fmt: skip
    calls = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr"]
    by_name = [node for node in calls if ast.unparse(node.args[1]).lstrip("f").startswith("'_")]
    return [f"{path.relative_to(SOURCE)}:{node.lineno}: {ast.unparse(node)}" for node in [*found, *by_name]]


def test_only_one_file_reaches_into_lightning():
    files = [path for room in ROOMS for path in (SOURCE / room).rglob("*.py") if path.name not in OWN | OTHERS]
    assert [place for path in files for place in private_parts(path)] == []
    assert private_parts(SOURCE / "runs" / "lightning.py")
