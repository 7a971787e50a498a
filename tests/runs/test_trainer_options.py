"""Each option of Lightning's Trainer does what reference/trainer_options.md says."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from launch import folder_of, refusal, run
from pytorch_lightning import Callback, Trainer
from pytorch_lightning import callbacks as shipped
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from mcn_lightning.callbacks import RetrievalEvaluation, Throughput
from mcn_lightning.errors import InputError
from mcn_lightning.runs.checkpoints import AtomicCheckpointIO
from mcn_lightning.runs.trainer_options import check_trainer
from runs.trainer_runs import STEPS, Run, check_same, demo, page_rows


@pytest.fixture(scope="module")
def neutral(tiny, tmp_path_factory) -> Run:
    """A run with all options at values that change nothing on one CPU."""
    values = {
        "accelerator": "cpu", "strategy": "auto", "devices": "auto", "num_nodes": 1, "sync_batchnorm": True,
        "use_distributed_sampler": False, "reload_dataloaders_every_n_epochs": 1, "enable_autolog_hparams": False,
        "model_registry": "a/b",
    }  # fmt: skip
    return Run(tmp_path_factory.mktemp("neutral"), tiny, **values)


FILES = AtomicCheckpointIO()


@pytest.fixture(scope="module")
def switched(tiny, tmp_path_factory) -> Run:
    """A run with all switches on that leave the training as it is."""
    folder = tmp_path_factory.mktemp("switched")
    values = {
        "deterministic": True, "benchmark": True, "detect_anomaly": True, "inference_mode": False,
        "enable_progress_bar": True, "enable_checkpointing": True, "plugins": [FILES],
        "logger": CSVLogger(folder, "a"), "log_every_n_steps": 1,
    }  # fmt: skip
    try:
        return Run(folder, tiny, **values)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = False


class StopAtOnce(Callback):
    def on_train_batch_end(self, trainer, *args):
        trainer.should_stop = True


def accelerator(go, plain, neutral, tmp_path):
    check_same(neutral, plain)
    if not torch.cuda.is_available():
        with pytest.raises(MisconfigurationException, match="No supported gpu backend found"):
            go(accelerator="gpu")


def strategy(go, plain, neutral, tmp_path):
    check_same(neutral, plain)
    assert isinstance(Trainer(strategy="ddp", accelerator="cpu", devices=2, logger=False).strategy, DDPStrategy)
    trainer = Trainer(accelerator="cpu", logger=False)
    trainer._accelerator_connector.strategy = FSDPStrategy()
    with pytest.raises(InputError, match=r"--trainer\.strategy: expected auto, or one of ddp.* found FSDPStrategy"):
        check_trainer(trainer)


def devices(go, plain, neutral, tmp_path):  # several: test_two_processes.py
    check_same(neutral, plain)


def num_nodes(go, plain, neutral, tmp_path):  # several: tests/slurm
    check_same(neutral, plain)


def precision(go, plain, neutral, tmp_path):
    found = go(precision="bf16-mixed")
    assert found.losses != plain.losses and found.losses == pytest.approx(plain.losses, rel=0.1)
    assert found.module.clustering.of["mean"].centroids.dtype == torch.float32
    for wrong in ("bf16-true", "64"):
        with pytest.raises(InputError, match=r"--trainer\.precision: expected 32-true or bf16-mixed or 16-mixed"):
            go(precision=wrong)


def logger(go, plain, switched, tmp_path):
    check_same(switched, plain)
    assert switched.has(Throughput) and not plain.has(Throughput)
    assert "train/loss" in Path(switched.trainer.logger.log_dir, "metrics.csv").read_text()


def callbacks(go, plain, neutral, tmp_path):
    mine = RetrievalEvaluation(["t->v"])
    found = go(mine)
    assert [each for each in found.trainer.callbacks if isinstance(each, RetrievalEvaluation)] == [mine]
    assert found.losses == plain.losses


def fast_dev_run(go, plain, neutral, tmp_path):
    found = go(fast_dev_run=2)
    assert found.steps == 2 and found.losses == plain.losses[:2] and found.seen.val_batches == 2
    assert not list(tmp_path.iterdir())


def max_epochs(go, plain, neutral, tmp_path):
    assert go(max_epochs=1).steps == STEPS


def min_epochs(go, plain, neutral, tmp_path):
    assert go(StopAtOnce(), max_epochs=5).steps == 1
    assert go(StopAtOnce(), max_epochs=5, min_epochs=2).steps in (STEPS + 1, 2 * STEPS)


def max_steps(go, plain, neutral, tmp_path):
    found = go(max_steps=4)
    assert found.losses == plain.losses[:4]


def min_steps(go, plain, neutral, tmp_path):
    assert go(StopAtOnce(), max_epochs=5, min_steps=4).steps == 4


def max_time(go, plain, neutral, tmp_path):
    found = go(max_time={"seconds": 0}, max_epochs=100)
    assert found.steps <= 1


def limit_train_batches(go, plain, neutral, tmp_path):
    found = go(limit_train_batches=2)
    assert found.steps == 4 and found.losses[:2] == plain.losses[:2]
    assert go(limit_train_batches=0.5).steps == 2


def limit_val_batches(go, plain, neutral, tmp_path):
    assert plain.seen.val_batches == 4
    found = go(limit_val_batches=1)
    assert found.losses == plain.losses and found.seen.val_batches == 2
    none = go(limit_val_batches=0)
    assert none.losses == plain.losses and none.validations == []


def limit_test_batches(go, plain, neutral, tmp_path):
    found = go(limit_test_batches=1, max_epochs=1)
    found.trainer.test(found.module, found.data, verbose=False)
    assert found.trainer.num_test_batches == [1] and "test/t->v/R@1" in found.trainer.callback_metrics


def limit_predict_batches(go, plain, neutral, tmp_path):
    found = go(limit_predict_batches=1, max_epochs=1)
    assert len(found.trainer.predict(found.module, found.data)) == 1


def overfit_batches(go, plain, neutral, tmp_path):
    found = go(overfit_batches=1)
    first, second = found.seen.ids
    assert first == second and found.seen.val_batches == 2 and found.steps == 2
    assert go(overfit_batches=0.67).steps == 4
    with pytest.raises(InputError, match=r"--trainer\.overfit_batches: expected a share of the 2 validation .* 0\.34"):
        go(overfit_batches=0.34)
    with pytest.raises(
        InputError, match=rf"--trainer\.overfit_batches: .* the {STEPS} training batches .* found 0\.1;"
    ):
        go(overfit_batches=0.1)


def val_check_interval(go, plain, neutral, tmp_path):
    assert go(val_check_interval=2).validations == [2, 5]
    assert go(val_check_interval=1 / 3, max_epochs=1).validations == [1, 2, 3]
    assert go(val_check_interval=4, check_val_every_n_epoch=None).validations == [4]
    timed = go(val_check_interval="00:00:00:00", check_val_every_n_epoch=None, max_epochs=1)
    assert timed.losses == plain.losses[:STEPS] and len(timed.validations) >= 1


def check_val_every_n_epoch(go, plain, neutral, tmp_path):
    found = go(check_val_every_n_epoch=2)
    assert found.validations == [2 * STEPS] and found.losses == plain.losses


def num_sanity_val_steps(go, plain, neutral, tmp_path):
    found = go(num_sanity_val_steps=2)
    check_same(found, plain)
    assert found.seen.checked == 2 and go(num_sanity_val_steps=-1).seen.checked == 2


def log_every_n_steps(go, plain, neutral, tmp_path):
    found = go(logger=CSVLogger(tmp_path, "a"), log_every_n_steps=3)
    lines = Path(found.trainer.logger.log_dir, "metrics.csv").read_text().splitlines()
    column, clusters = lines[0].split(",").index("train/loss"), lines[0].split(",").index("clustering/objective")
    assert sum(bool(line.split(",")[column]) for line in lines[1:]) == 2
    assert sum(bool(line.split(",")[clusters]) for line in lines[1:]) == 3  # k-means at steps 0, 2 and 4


def enable_checkpointing(go, plain, switched, tmp_path):
    assert not plain.has(ModelCheckpoint) and not list(plain.folder.rglob("*.ckpt"))
    check_same(switched, plain)
    assert len(list(switched.folder.rglob("*.ckpt"))) == 1


def enable_progress_bar(go, plain, switched, tmp_path):
    assert plain.trainer.progress_bar_callback is None
    check_same(switched, plain)
    assert switched.trainer.progress_bar_callback is not None


def enable_model_summary(go, plain, neutral, tmp_path):
    assert not plain.has(shipped.ModelSummary)
    assert go(enable_model_summary=True, max_epochs=1).has(shipped.ModelSummary)


def accumulate_grad_batches(go, plain, neutral, tmp_path):
    found = go(accumulate_grad_batches=2)
    assert found.steps == 4 and len(found.losses) == 6 and 2 * found.losses[0] == pytest.approx(plain.losses[0])


def gradient_clip_val(go, plain, neutral, tmp_path):
    assert max(each[-1] for each in plain.seen.gradients) > 0.5
    assert max(each[-1] for each in go(gradient_clip_val=0.1).seen.gradients) == pytest.approx(0.1, rel=1e-3)


def gradient_clip_algorithm(go, plain, neutral, tmp_path):
    found = go(gradient_clip_val=0.01, gradient_clip_algorithm="value")
    assert max(max(each[:-1]) for each in found.seen.gradients) == pytest.approx(0.01)


def deterministic(go, plain, switched, tmp_path):
    check_same(switched, plain)
    assert switched.seen.flags["deterministic"] and not plain.seen.flags["deterministic"]


def benchmark(go, plain, switched, tmp_path):
    check_same(switched, plain)
    assert switched.seen.flags["benchmark"] and not plain.seen.flags["benchmark"]


def inference_mode(go, plain, switched, tmp_path):
    check_same(switched, plain)
    (metrics,) = switched.trainer.validate(switched.module, switched.data, verbose=False)
    assert not switched.seen.flags["inference"] and "val/t->va/R@1" in metrics
    plain.trainer.validate(plain.module, plain.data, verbose=False)
    assert plain.seen.flags["inference"]


def use_distributed_sampler(go, plain, neutral, tmp_path):
    check_same(neutral, plain)  # the first without, the second with it


def profiler(go, plain, neutral, tmp_path):
    for name in ("simple", "advanced"):
        found = go(profiler=name, max_epochs=1)
        assert found.losses == plain.losses[:STEPS]
        assert name in type(found.trainer.profiler).__name__.lower()
        assert name == "advanced" or "run_training_batch" in found.trainer.profiler.summary()
    short = go(profiler="pytorch", max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    assert short.losses == plain.losses[:1]


def detect_anomaly(go, plain, switched, tmp_path):
    check_same(switched, plain)
    assert switched.seen.flags["anomaly"] and not plain.seen.flags["anomaly"]


def barebones(go, plain, neutral, tmp_path):
    found = go(barebones=True)
    check_same(found, plain)
    assert found.module.clustering.has_centroids and not found.trainer.loggers and not found.has(ModelCheckpoint)


def plugins(go, plain, switched, tmp_path):
    check_same(switched, plain)
    assert switched.trainer.strategy.checkpoint_io is FILES and list(switched.folder.rglob("*.ckpt"))


def sync_batchnorm(go, plain, neutral, tmp_path):
    check_same(neutral, plain)
    two = Trainer(accelerator="cpu", devices=2, sync_batchnorm=True, logger=False)
    with pytest.raises(InputError, match=r"--trainer\.sync_batchnorm: expected GPUs, found CPUs"):
        check_trainer(two)


def reload_dataloaders_every_n_epochs(go, plain, neutral, tmp_path):
    check_same(neutral, plain)


def default_root_dir(go, plain, neutral, tmp_path):
    go(default_root_dir=tmp_path / "here", enable_checkpointing=True, max_epochs=1)
    assert len(list((tmp_path / "here" / "checkpoints").glob("*.ckpt"))) == 1


def enable_autolog_hparams(go, plain, neutral, tmp_path):
    check_same(neutral, plain)


def model_registry(go, plain, neutral, tmp_path):
    check_same(neutral, plain)


OPTIONS = {
    check.__name__: check
    for check in (
        accelerator, strategy, devices, num_nodes, precision, logger, callbacks, fast_dev_run, max_epochs, min_epochs,
        max_steps, min_steps, max_time, limit_train_batches, limit_val_batches, limit_test_batches,
        limit_predict_batches, overfit_batches, val_check_interval, check_val_every_n_epoch, num_sanity_val_steps,
        log_every_n_steps, enable_checkpointing, enable_progress_bar, enable_model_summary, accumulate_grad_batches,
        gradient_clip_val, gradient_clip_algorithm, deterministic, benchmark, inference_mode, use_distributed_sampler,
        profiler, detect_anomaly, barebones, plugins, sync_batchnorm, reload_dataloaders_every_n_epochs,
        default_root_dir, enable_autolog_hparams, model_registry,
    )
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_of_the_trainer(name, go, plain, neutral, switched, tmp_path):
    on = "switched" in inspect.signature(OPTIONS[name]).parameters
    OPTIONS[name](go, plain, switched if on else neutral, tmp_path)


def test_no_option_is_left_out():
    assert set(OPTIONS) == set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    assert [name for name, _ in page_rows()][: len(OPTIONS)] == [*OPTIONS]


# the command, whose own logger, checkpoints and callbacks stand in the way of some


def test_the_command_without_checkpoints(overlay, capsys):
    off = ("--trainer.enable_checkpointing", "false")
    run("fit", *demo(overlay), *off)
    assert (folder_of(overlay) / "metrics.csv").is_file() and not list(overlay.parent.rglob("*.ckpt"))
    message = refusal(capsys, "fit", *demo(overlay), *off, "--resume.every_n_steps", 2)
    assert "--trainer.enable_checkpointing: expected true with --resume.every_n_steps 2" in message


def test_the_command_in_barebones_mode(overlay, tmp_path, capsys, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run("fit", *demo(overlay), "--trainer.barebones", "true")
    assert "t->va" in capsys.readouterr().out
    assert not list((tmp_path / "here").iterdir()) and not (tmp_path / "runs").exists()


def test_best_is_the_best_of_the_newest_run(overlay, capsys):
    best, monitored = ("--ckpt_path", "best"), ("--checkpoint.monitor", "val/t->va/R@10", "--checkpoint.filename", "b")
    assert "--ckpt_path best: no checkpoint of a run" in refusal(capsys, "test", *demo(overlay), *best)
    run("fit", *demo(overlay), *monitored)
    for command in ("test", "validate", "predict"):
        run(command, *demo(overlay), *best)
        assert f"--ckpt_path best: {folder_of(overlay) / 'checkpoints' / 'b.ckpt'}" in capsys.readouterr().out
    message = refusal(capsys, "fit", *demo(overlay), *best)
    assert "--ckpt_path: expected last or a file, found best" in message
    (folder_of(overlay) / "checkpoints" / "b.ckpt").unlink()
    assert "found none; give --ckpt_path last or a file" in refusal(capsys, "test", *demo(overlay), *best)
    run("fit", *demo(overlay))
    assert "expected the best checkpoint by a metric (--checkpoint.monitor)" in refusal(
        capsys, "test", *demo(overlay), *best
    )
    assert "found hpc; give last" in refusal(capsys, "fit", *demo(overlay), "--ckpt_path", "hpc")
