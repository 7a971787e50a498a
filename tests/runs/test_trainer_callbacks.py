"""Each callback that Lightning ships does what reference/trainer_options.md says."""

from __future__ import annotations

import inspect
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from launch import folder_of, refusal, run
from pytorch_lightning import Callback, Trainer
from pytorch_lightning import callbacks as shipped
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from mcn_lightning.errors import InputError
from runs.trainer_runs import STEPS, check_same, demo, page_rows


def backbone_finetuning(go, plain, tmp_path):
    check_refused(go, shipped.BackboneFinetuning(), r"without BackboneFinetuning, found it: .* BaseFinetuning")


def check_refused(go, callback, line) -> None:
    with pytest.raises(InputError, match=r"--trainer\.callbacks: expected .*" + line) as caught:
        go(callback)
    assert "\n" not in str(caught.value)


def base_finetuning(go, plain, tmp_path):
    class Frozen(shipped.BaseFinetuning):
        def freeze_before_training(self, pl_module):
            self.freeze(pl_module.network.audio)
            self.before = [value.clone() for value in pl_module.network.audio.projection.parameters()]

        def finetune_function(self, pl_module, epoch, optimizer):
            pass

    frozen = Frozen()
    found = go(frozen)
    assert all(map(torch.equal, frozen.before, found.module.network.audio.projection.parameters()))
    assert found.losses[0] == plain.losses[0] and found.losses[-1] != plain.losses[-1]


def base_prediction_writer(go, plain, tmp_path):
    class Writer(shipped.BasePredictionWriter):
        ids = ()

        def write_on_batch_end(self, trainer, pl_module, prediction, *args):
            self.ids = (*self.ids, *prediction["ids"])

    writer = Writer("batch")
    found = go(writer, max_epochs=1)
    assert found.trainer.predict(found.module, found.data)
    assert len(set(writer.ids)) == len(writer.ids) > 4


def batch_size_finder(go, plain, tmp_path):
    check_refused(go, shipped.BatchSizeFinder(), r"without BatchSizeFinder, found it: .* set --data\.batch_size$")


def callback(go, plain, tmp_path):
    check_same(go(Callback()), plain)


def checkpoint(go, plain, tmp_path):
    class Mine(shipped.Checkpoint):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.save_checkpoint(tmp_path / "mine.ckpt")

    check_same(go(Mine(), enable_checkpointing=True), plain)
    assert torch.load(tmp_path / "mine.ckpt", weights_only=True)["global_step"] == 6


def device_stats_monitor(go, plain, tmp_path):
    quiet = shipped.DeviceStatsMonitor(cpu_stats=False)
    check_same(go(quiet, logger=CSVLogger(tmp_path, "a")), plain)
    with pytest.raises(MisconfigurationException, match="Cannot use `DeviceStatsMonitor` callback"):
        go(quiet)
    if find_spec("psutil") is None:
        check_refused(
            go, shipped.DeviceStatsMonitor(), "the package psutil for DeviceStatsMonitor, found none; pip install"
        )


def early_stopping(go, plain, tmp_path):
    found = go(EarlyStopping("val/t->va/R@10", mode="max", stopping_threshold=0.0), max_epochs=5)
    assert found.steps == STEPS and found.losses == plain.losses[:STEPS]


def averaging(make):
    """Return a check that training is the same, and the averaged weights are others; test_averaging.py has the rest."""

    def check(go, plain, tmp_path):
        found = go(make(), enable_checkpointing=True)
        check_same(found, plain)
        saved = torch.load(next(tmp_path.rglob("*.ckpt")), weights_only=True)
        one, other = (saved[name]["network.video.gate.weight"] for name in ("state_dict", "current_model_state"))
        assert not torch.equal(one, other)
        assert torch.equal(other, plain.module.network.video.gate.weight)

    return check


def gradient_accumulation_scheduler(go, plain, tmp_path):
    assert go(shipped.GradientAccumulationScheduler({0: 1, 1: 3})).steps == STEPS + 1


def lambda_callback(go, plain, tmp_path):
    called = []
    check_same(go(shipped.LambdaCallback(on_train_end=lambda *_: called.append(1))), plain)
    assert called == [1]


def learning_rate_finder(go, plain, tmp_path):
    finder = shipped.LearningRateFinder(num_training_steps=5)
    check_refused(go, finder, r"without LearningRateFinder, found it: .* --model\.optimizer\.lr")


def learning_rate_monitor(go, plain, tmp_path):
    found = go(shipped.LearningRateMonitor("step"), logger=CSVLogger(tmp_path, "a"), log_every_n_steps=1)
    rates = [
        line for line in Path(found.trainer.logger.log_dir, "metrics.csv").read_text().splitlines() if "lr-" in line
    ]
    assert rates and found.losses == plain.losses
    with pytest.raises(MisconfigurationException, match="no logger"):
        go(shipped.LearningRateMonitor())


def model_checkpoint(go, plain, tmp_path):
    best = ModelCheckpoint(tmp_path, "best", monitor="val/t->va/R@10", mode="max")
    check_same(go(best, enable_checkpointing=True), plain)
    assert Path(best.best_model_path) == tmp_path / "best.ckpt" and 0 <= float(best.best_model_score) <= 100


def model_pruning(go, plain, tmp_path):
    found = go(shipped.ModelPruning("l1_unstructured", amount=0.5, use_lottery_ticket_hypothesis=False))
    weights = [value for name, value in found.module.network.named_parameters() if name.endswith("weight")]
    zeros = sum(int((value == 0).sum()) for value in weights) / sum(value.numel() for value in weights)
    assert 0.3 < zeros < 0.95 and found.module.network.text.embedder.table.count_nonzero() > 0


def summary(kind):
    def check(go, plain, tmp_path):
        mine = kind(max_depth=2)
        found = go(mine, enable_model_summary=True, max_epochs=1)
        assert [each for each in found.trainer.callbacks if isinstance(each, shipped.ModelSummary)] == [mine]

    return check


def on_exception_checkpoint(go, plain, tmp_path):
    class Broken(Callback):
        def on_train_batch_start(self, trainer, *args):
            if trainer.global_step == 4:
                raise KeyError("broken")

    with pytest.raises(KeyError):
        go(shipped.OnExceptionCheckpoint(tmp_path / "exc"), Broken(), enable_checkpointing=True)
    assert torch.load(tmp_path / "exc" / "on_exception.ckpt", weights_only=True)["global_step"] == 4
    rest = go(shipped.OnExceptionCheckpoint(tmp_path / "exc"), enable_checkpointing=True)
    assert rest.losses == plain.losses[4:]  # Lightning takes the file


def bar(kind):
    def check(go, plain, tmp_path):
        mine = kind()
        found = go(mine, enable_progress_bar=True)
        check_same(found, plain)
        assert found.trainer.progress_bar_callback is mine

    return check


def spike_detection(go, plain, tmp_path):
    spikes = shipped.SpikeDetection(warmup=2, exclude_batches_path=tmp_path)
    check_same(go(spikes), plain)


def stochastic_weight_averaging(go, plain, tmp_path):  # test_averaging.py has the rest
    found = go(shipped.StochasticWeightAveraging(1e-3, swa_epoch_start=2))
    assert found.trainer.current_epoch == 3 and found.losses[:STEPS] == plain.losses[:STEPS]
    with pytest.raises(InputError, match=r"expected a number for SWA, found -1"):
        go(shipped.StochasticWeightAveraging(1e-3, swa_epoch_start=1), max_epochs=-1, max_steps=6)


def throughput_monitor(go, plain, tmp_path):
    monitor = shipped.ThroughputMonitor(batch_size_fn=len, window_size=2)
    found = go(monitor, logger=CSVLogger(tmp_path, "a"), log_every_n_steps=1)
    check_same(found, plain)
    assert "train/device/samples_per_sec" in Path(found.trainer.logger.log_dir, "metrics.csv").read_text()


def timer(go, plain, tmp_path):
    assert go(shipped.Timer({"seconds": 0}), max_epochs=100).steps <= 1


CALLBACKS = {
    "BackboneFinetuning": backbone_finetuning,
    "BaseFinetuning": base_finetuning,
    "BasePredictionWriter": base_prediction_writer,
    "BatchSizeFinder": batch_size_finder,
    "Callback": callback,
    "Checkpoint": checkpoint,
    "DeviceStatsMonitor": device_stats_monitor,
    "EarlyStopping": early_stopping,
    "EMAWeightAveraging": averaging(lambda: shipped.EMAWeightAveraging(decay=0.8)),
    "GradientAccumulationScheduler": gradient_accumulation_scheduler,
    "LambdaCallback": lambda_callback,
    "LearningRateFinder": learning_rate_finder,
    "LearningRateMonitor": learning_rate_monitor,
    "ModelCheckpoint": model_checkpoint,
    "ModelPruning": model_pruning,
    "ModelSummary": summary(shipped.ModelSummary),
    "OnExceptionCheckpoint": on_exception_checkpoint,
    "ProgressBar": bar(shipped.ProgressBar),
    "RichModelSummary": summary(shipped.RichModelSummary),
    "RichProgressBar": bar(shipped.RichProgressBar),
    "SpikeDetection": spike_detection,
    "StochasticWeightAveraging": stochastic_weight_averaging,
    "ThroughputMonitor": throughput_monitor,
    "Timer": timer,
    "TQDMProgressBar": bar(shipped.TQDMProgressBar),
    "WeightAveraging": averaging(shipped.WeightAveraging),
}
REFUSED = {"BackboneFinetuning", "BatchSizeFinder", "LearningRateFinder"}


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_callback_of_lightning(name, go, plain, tmp_path):
    CALLBACKS[name](go, plain, tmp_path)


def test_no_callback_is_left_out():
    public = {name for name, each in vars(shipped).items() if inspect.isclass(each) and issubclass(each, Callback)}
    assert set(CALLBACKS) == public | set(shipped.__all__)
    options = len(inspect.signature(Trainer.__init__).parameters) - 1
    assert [name for name, _ in page_rows()][options:] == [*CALLBACKS]
    assert {name for name, kind in page_rows() if kind == "refused"} == REFUSED


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            ("StochasticWeightAveraging", "Timer"),
            ("--trainer.callbacks.swa_lrs", 0.001, "--trainer.max_steps", -1, "--trainer.callbacks+=Timer",
             "--trainer.callbacks.duration", "00:01:00:00"),
        ),
        (("EMAWeightAveraging",), ("--trainer.callbacks.decay", 0.9)),
        (("ModelPruning",), ("--trainer.callbacks.pruning_fn", "l1_unstructured")),
    ],
    ids=["of epochs, with a timer", "of steps", "pruned"],
)  # fmt: skip
def test_the_saved_config_of_a_run_with_callbacks_trains(names, words, overlay, capsys):
    run("fit", *demo(overlay), "--trainer.max_epochs", 2, f"--trainer.callbacks+={names[0]}", *words)
    saved = folder_of(overlay) / "config.yaml"
    written = yaml.safe_load(saved.read_text())["trainer"]["callbacks"]
    assert [each["class_path"].rpartition(".")[2] for each in written] == [*names] and "serialize" not in str(written)
    run("fit", "--config", saved)
    one, other = (
        torch.load(folder_of(overlay, number) / "checkpoints" / "last.ckpt", weights_only=True) for number in (0, 1)
    )
    assert all(torch.equal(value, other["state_dict"][key]) for key, value in one["state_dict"].items())


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_the_command_refuses_before_a_folder_is_made(name, overlay, capsys):
    message = refusal(capsys, "fit", *demo(overlay), f"--trainer.callbacks+={name}")
    told = [line for line in message.splitlines() if line.startswith("error: ")]
    assert len(told) == 1 and f"without {name}, found it" in told[0]
    assert not (overlay.parent / "runs").exists()
