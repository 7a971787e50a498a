"""Each option of Lightning's Trainer and each of its callbacks does what reference/trainer_options.md says."""

from __future__ import annotations

import inspect
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from launch import CONFIGS, folder_of, refusal, run
from modules import make_data
from pytorch_lightning import Callback, Trainer
from pytorch_lightning import callbacks as shipped
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from mcn_lightning import MCNModule
from mcn_lightning.callbacks import CentroidUpdate, RetrievalEvaluation, Throughput
from mcn_lightning.errors import InputError
from mcn_lightning.runs.checkpoints import AtomicCheckpointIO
from mcn_lightning.runs.trainer_options import check_trainer

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "trainer_options.md"
NETWORK = {"embedding_dim": 16, "audio_widths": [4, 4, 4, 8], "reconstruction_hidden": 8, "dropout": 0.2}
STEPS = 3  # of an epoch


class Seen(Callback):
    """What happened: the loss and the clips of every batch, gradients, validations, and what was on meanwhile."""

    def __init__(self) -> None:
        self.losses, self.ids, self.gradients = [], [], []
        self.validations, self.val_batches, self.checked, self.flags = [], 0, 0, {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))
        self.ids.append(batch.ids)
        grads = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
        if grads:
            self.gradients.append(
                [grad.abs().max() for grad in grads] + [torch.stack([g.norm() for g in grads]).norm()]
            )
        self.flags |= {
            "anomaly": torch.is_anomaly_enabled(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "benchmark": torch.backends.cudnn.benchmark,
        }

    def on_validation_batch_end(self, trainer, *args):
        self.flags["inference"] = torch.is_inference_mode_enabled()
        self.checked += trainer.sanity_checking
        self.val_batches += not trainer.sanity_checking

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.validations.append(trainer.global_step)


class Run:
    """A run of two epochs of three batches, with some options otherwise."""

    def __init__(self, folder, data_root, **options) -> None:
        torch.manual_seed(0)
        self.seen, self.folder = Seen(), folder
        given = options.pop("callbacks", [])
        quiet = {
            "max_epochs": 2, "accelerator": "cpu", "logger": False, "enable_checkpointing": False,
            "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0,
        }  # fmt: skip
        if options.get("barebones"):
            quiet = {"max_epochs": 2, "accelerator": "cpu"}
        self.module = MCNModule(
            NETWORK,
            clustering={"num_clusters": 3, "queue_rows": 8},
            optimizer={"lr": 3e-3, "warmup_steps": 1, "schedule": "constant"},
        )
        self.data = make_data(data_root)
        self.data.eval_batch_size = 1
        ours = [self.seen, CentroidUpdate(every_n_steps=2)]
        self.trainer = Trainer(callbacks=[*given, *ours], **{"default_root_dir": folder} | quiet | options)
        self.trainer.fit(self.module, self.data)
        self.validations = list(self.seen.validations)

    @property
    def losses(self) -> list[float]:
        return self.seen.losses

    @property
    def steps(self) -> int:
        return self.trainer.global_step

    def has(self, kind) -> bool:
        return any(isinstance(each, kind) for each in self.trainer.callbacks)


@pytest.fixture
def go(tiny, tmp_path):
    """A function that trains with some options of the trainer."""
    return lambda *callbacks, **options: Run(tmp_path, tiny, callbacks=list(callbacks), **options)


@pytest.fixture(scope="module")
def plain(tiny, tmp_path_factory) -> Run:
    """A run with none of the options."""
    return Run(tmp_path_factory.mktemp("plain"), tiny)


def same(run: Run, plain: Run) -> None:
    assert run.losses == plain.losses and run.steps == plain.steps == 2 * STEPS
    assert run.validations == plain.validations == [STEPS, 2 * STEPS]


class StopAtOnce(Callback):
    def on_train_batch_end(self, trainer, *args):
        trainer.should_stop = True


def accelerator(go, plain, tmp_path):
    same(go(accelerator="cpu"), plain)
    if not torch.cuda.is_available():
        with pytest.raises(MisconfigurationException, match="No supported gpu backend found"):
            go(accelerator="gpu")


def strategy(go, plain, tmp_path):
    same(go(strategy="auto"), plain)
    assert isinstance(Trainer(strategy="ddp", accelerator="cpu", devices=2, logger=False).strategy, DDPStrategy)
    trainer = Trainer(accelerator="cpu", logger=False)
    trainer._accelerator_connector.strategy = FSDPStrategy()
    with pytest.raises(InputError, match=r"--trainer\.strategy: expected auto, or one of ddp.* found FSDPStrategy"):
        check_trainer(trainer)


def devices(go, plain, tmp_path):  # several: test_two_processes.py
    same(go(devices="auto"), plain)


def num_nodes(go, plain, tmp_path):  # several: tests/slurm
    same(go(num_nodes=1), plain)


def precision(go, plain, tmp_path):
    found = go(precision="bf16-mixed")
    assert found.losses != plain.losses and found.losses == pytest.approx(plain.losses, rel=0.1)
    assert found.module.clustering.of["mean"].centroids.dtype == torch.float32
    for wrong in ("bf16-true", "64"):
        with pytest.raises(InputError, match=r"--trainer\.precision: expected 32-true or bf16-mixed or 16-mixed"):
            go(precision=wrong)


def logger(go, plain, tmp_path):
    assert not plain.has(Throughput)
    found = go(logger=CSVLogger(tmp_path, "a"), log_every_n_steps=1)
    same(found, plain)
    assert found.has(Throughput) and "train/loss" in Path(found.trainer.logger.log_dir, "metrics.csv").read_text()


def callbacks(go, plain, tmp_path):
    mine = RetrievalEvaluation(["t->v"])
    found = go(mine)
    assert [each for each in found.trainer.callbacks if isinstance(each, RetrievalEvaluation)] == [mine]
    assert found.losses == plain.losses


def fast_dev_run(go, plain, tmp_path):
    found = go(fast_dev_run=2)
    assert found.steps == 2 and found.losses == plain.losses[:2] and found.seen.val_batches == 2
    assert not list(tmp_path.iterdir())


def max_epochs(go, plain, tmp_path):
    assert go(max_epochs=1).steps == STEPS


def min_epochs(go, plain, tmp_path):
    assert go(StopAtOnce(), max_epochs=5).steps == 1
    assert go(StopAtOnce(), max_epochs=5, min_epochs=2).steps in (STEPS + 1, 2 * STEPS)


def max_steps(go, plain, tmp_path):
    found = go(max_steps=4)
    assert found.losses == plain.losses[:4]


def min_steps(go, plain, tmp_path):
    assert go(StopAtOnce(), max_epochs=5, min_steps=4).steps == 4


def max_time(go, plain, tmp_path):
    found = go(max_time={"seconds": 0}, max_epochs=100)
    assert found.steps <= 1


def limit_train_batches(go, plain, tmp_path):
    found = go(limit_train_batches=2)
    assert found.steps == 4 and found.losses[:2] == plain.losses[:2]
    assert go(limit_train_batches=0.5).steps == 2


def limit_val_batches(go, plain, tmp_path):
    assert plain.seen.val_batches == 4
    found = go(limit_val_batches=1)
    assert found.losses == plain.losses and found.seen.val_batches == 2
    none = go(limit_val_batches=0)
    assert none.losses == plain.losses and none.validations == []


def limit_test_batches(go, plain, tmp_path):
    found = go(limit_test_batches=1, max_epochs=1)
    found.trainer.test(found.module, found.data, verbose=False)
    assert found.trainer.num_test_batches == [1] and "test/t->v/R@1" in found.trainer.callback_metrics


def limit_predict_batches(go, plain, tmp_path):
    found = go(limit_predict_batches=1, max_epochs=1)
    assert len(found.trainer.predict(found.module, found.data)) == 1


def overfit_batches(go, plain, tmp_path):
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


def val_check_interval(go, plain, tmp_path):
    assert go(val_check_interval=2).validations == [2, 5]
    assert go(val_check_interval=1 / 3).validations == [1, 2, 3, 4, 5, 6]
    assert go(val_check_interval=4, check_val_every_n_epoch=None).validations == [4]
    timed = go(val_check_interval="00:00:00:00", check_val_every_n_epoch=None)
    assert timed.losses == plain.losses and len(timed.validations) >= 1


def check_val_every_n_epoch(go, plain, tmp_path):
    found = go(check_val_every_n_epoch=2)
    assert found.validations == [2 * STEPS] and found.losses == plain.losses


def num_sanity_val_steps(go, plain, tmp_path):
    found = go(num_sanity_val_steps=2)
    same(found, plain)
    assert found.seen.checked == 2 and go(num_sanity_val_steps=-1).seen.checked == 2


def log_every_n_steps(go, plain, tmp_path):
    found = go(logger=CSVLogger(tmp_path, "a"), log_every_n_steps=3)
    lines = Path(found.trainer.logger.log_dir, "metrics.csv").read_text().splitlines()
    column, clusters = lines[0].split(",").index("train/loss"), lines[0].split(",").index("clustering/objective")
    assert sum(bool(line.split(",")[column]) for line in lines[1:]) == 2
    assert sum(bool(line.split(",")[clusters]) for line in lines[1:]) == 3  # k-means at steps 0, 2 and 4


def enable_checkpointing(go, plain, tmp_path):
    assert not plain.has(ModelCheckpoint) and not list(tmp_path.rglob("*.ckpt"))
    found = go(enable_checkpointing=True)
    same(found, plain)
    assert len(list(tmp_path.rglob("*.ckpt"))) == 1


def enable_progress_bar(go, plain, tmp_path):
    assert plain.trainer.progress_bar_callback is None
    found = go(enable_progress_bar=True)
    same(found, plain)
    assert found.trainer.progress_bar_callback is not None


def enable_model_summary(go, plain, tmp_path):
    assert not plain.has(shipped.ModelSummary)
    assert go(enable_model_summary=True, max_epochs=1).has(shipped.ModelSummary)


def accumulate_grad_batches(go, plain, tmp_path):
    found = go(accumulate_grad_batches=2)
    assert found.steps == 4 and len(found.losses) == 6 and 2 * found.losses[0] == pytest.approx(plain.losses[0])


def gradient_clip_val(go, plain, tmp_path):
    assert max(each[-1] for each in plain.seen.gradients) > 0.5
    assert max(each[-1] for each in go(gradient_clip_val=0.1).seen.gradients) == pytest.approx(0.1, rel=1e-3)


def gradient_clip_algorithm(go, plain, tmp_path):
    found = go(gradient_clip_val=0.01, gradient_clip_algorithm="value")
    assert max(max(each[:-1]) for each in found.seen.gradients) == pytest.approx(0.01)


def deterministic(go, plain, tmp_path):
    try:
        found = go(deterministic=True)
    finally:
        torch.use_deterministic_algorithms(False)
    same(found, plain)
    assert found.seen.flags["deterministic"] and not plain.seen.flags["deterministic"]


def benchmark(go, plain, tmp_path):
    try:
        found = go(benchmark=True)
    finally:
        torch.backends.cudnn.benchmark = False
    same(found, plain)
    assert found.seen.flags["benchmark"] and not plain.seen.flags["benchmark"]


def inference_mode(go, plain, tmp_path):
    found = go(inference_mode=False)
    same(found, plain)
    (metrics,) = found.trainer.validate(found.module, found.data, verbose=False)
    assert not found.seen.flags["inference"] and "val/t->va/R@1" in metrics
    plain.trainer.validate(plain.module, plain.data, verbose=False)
    assert plain.seen.flags["inference"]


def use_distributed_sampler(go, plain, tmp_path):
    for value in (True, False):
        assert go(use_distributed_sampler=value).losses == plain.losses


def profiler(go, plain, tmp_path):
    for name in ("simple", "advanced"):
        found = go(profiler=name)
        assert found.losses == plain.losses
        assert name in type(found.trainer.profiler).__name__.lower()
        assert name == "advanced" or "run_training_batch" in found.trainer.profiler.summary()
    short = go(profiler="pytorch", max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    assert short.losses == plain.losses[:1]


def detect_anomaly(go, plain, tmp_path):
    found = go(detect_anomaly=True)
    same(found, plain)
    assert found.seen.flags["anomaly"] and not plain.seen.flags["anomaly"]


def barebones(go, plain, tmp_path):
    found = go(barebones=True)
    same(found, plain)
    assert found.module.clustering.has_centroids and not found.trainer.loggers and not found.has(ModelCheckpoint)


def plugins(go, plain, tmp_path):
    files = AtomicCheckpointIO()
    found = go(plugins=[files], enable_checkpointing=True)
    same(found, plain)
    assert found.trainer.strategy.checkpoint_io is files and len(list(tmp_path.rglob("*.ckpt"))) == 1


def sync_batchnorm(go, plain, tmp_path):
    same(go(sync_batchnorm=True), plain)
    two = Trainer(accelerator="cpu", devices=2, sync_batchnorm=True, logger=False)
    with pytest.raises(InputError, match=r"--trainer\.sync_batchnorm: expected GPUs, found CPUs"):
        check_trainer(two)


def reload_dataloaders_every_n_epochs(go, plain, tmp_path):
    same(go(reload_dataloaders_every_n_epochs=1), plain)


def default_root_dir(go, plain, tmp_path):
    go(default_root_dir=tmp_path / "here", enable_checkpointing=True, max_epochs=1)
    assert len(list((tmp_path / "here" / "checkpoints").glob("*.ckpt"))) == 1


def enable_autolog_hparams(go, plain, tmp_path):
    same(go(enable_autolog_hparams=False), plain)


def model_registry(go, plain, tmp_path):
    same(go(model_registry="a/b"), plain)


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


def backbone_finetuning(go, plain, tmp_path):
    refused(go, shipped.BackboneFinetuning(), r"without BackboneFinetuning, found it: .* BaseFinetuning")


def refused(go, callback, line) -> None:
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
    refused(go, shipped.BatchSizeFinder(), r"without BatchSizeFinder, found it: .* set --data\.batch_size$")


def callback(go, plain, tmp_path):
    same(go(Callback()), plain)


def checkpoint(go, plain, tmp_path):
    class Mine(shipped.Checkpoint):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.save_checkpoint(tmp_path / "mine.ckpt")

    same(go(Mine(), enable_checkpointing=True), plain)
    assert torch.load(tmp_path / "mine.ckpt", weights_only=True)["global_step"] == 6


def device_stats_monitor(go, plain, tmp_path):
    quiet = shipped.DeviceStatsMonitor(cpu_stats=False)
    same(go(quiet, logger=CSVLogger(tmp_path, "a")), plain)
    with pytest.raises(MisconfigurationException, match="Cannot use `DeviceStatsMonitor` callback"):
        go(quiet)
    if find_spec("psutil") is None:
        refused(go, shipped.DeviceStatsMonitor(), "the package psutil for DeviceStatsMonitor, found none; pip install")


def early_stopping(go, plain, tmp_path):
    found = go(EarlyStopping("val/t->va/R@10", mode="max", stopping_threshold=0.0), max_epochs=5)
    assert found.steps == STEPS and found.losses == plain.losses[:STEPS]


def averaging(make):
    """Return a check that training is the same, and the averaged weights are others; test_averaging.py has the rest."""

    def check(go, plain, tmp_path):
        found = go(make(), enable_checkpointing=True)
        same(found, plain)
        saved = torch.load(next(tmp_path.rglob("*.ckpt")), weights_only=True)
        one, other = (saved[name]["network.video.gate.weight"] for name in ("state_dict", "current_model_state"))
        assert not torch.equal(one, other)
        assert torch.equal(other, plain.module.network.video.gate.weight)

    return check


def gradient_accumulation_scheduler(go, plain, tmp_path):
    assert go(shipped.GradientAccumulationScheduler({0: 1, 1: 3})).steps == STEPS + 1


def lambda_callback(go, plain, tmp_path):
    called = []
    same(go(shipped.LambdaCallback(on_train_end=lambda *_: called.append(1))), plain)
    assert called == [1]


def learning_rate_finder(go, plain, tmp_path):
    finder = shipped.LearningRateFinder(num_training_steps=5)
    refused(go, finder, r"without LearningRateFinder, found it: .* --model\.optimizer\.lr")


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
    same(go(best, enable_checkpointing=True), plain)
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
        same(found, plain)
        assert found.trainer.progress_bar_callback is mine

    return check


def spike_detection(go, plain, tmp_path):
    spikes = shipped.SpikeDetection(warmup=2, exclude_batches_path=tmp_path)
    same(go(spikes), plain)


def stochastic_weight_averaging(go, plain, tmp_path):  # test_averaging.py has the rest
    found = go(shipped.StochasticWeightAveraging(1e-3, swa_epoch_start=2))
    assert found.trainer.current_epoch == 3 and found.losses[:STEPS] == plain.losses[:STEPS]
    with pytest.raises(InputError, match=r"expected a number for SWA, found -1"):
        go(shipped.StochasticWeightAveraging(1e-3, swa_epoch_start=1), max_epochs=-1, max_steps=6)


def throughput_monitor(go, plain, tmp_path):
    monitor = shipped.ThroughputMonitor(batch_size_fn=len, window_size=2)
    found = go(monitor, logger=CSVLogger(tmp_path, "a"), log_every_n_steps=1)
    same(found, plain)
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


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_of_the_trainer(name, go, plain, tmp_path):
    OPTIONS[name](go, plain, tmp_path)


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_callback_of_lightning(name, go, plain, tmp_path):
    CALLBACKS[name](go, plain, tmp_path)


def test_no_option_and_no_callback_is_left_out():
    assert set(OPTIONS) == set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    public = {name for name, each in vars(shipped).items() if inspect.isclass(each) and issubclass(each, Callback)}
    assert set(CALLBACKS) == public | set(shipped.__all__)


def test_the_page_has_a_row_for_each():
    rows = re.findall(r"^\| `(\w+)` \| (works|refused) \| .*\|$", PAGE.read_text(), re.M)
    assert [name for name, _ in rows] == [*OPTIONS, *CALLBACKS]
    assert {name for name, kind in rows if kind == "refused"} == REFUSED


# the command, whose own logger, checkpoints and callbacks stand in the way of some


def demo(overlay) -> tuple:
    return ("--config", CONFIGS / "demo.yaml", "--config", overlay)


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
    assert "--ckpt_path: expected last or a file for fit, found best" in message
    (folder_of(overlay) / "checkpoints" / "b.ckpt").unlink()
    assert "found none; give --ckpt_path last or a file" in refusal(capsys, "test", *demo(overlay), *best)
    run("fit", *demo(overlay))
    assert "expected a run that monitored a metric (--checkpoint.monitor)" in refusal(
        capsys, "test", *demo(overlay), *best
    )
    assert "found hpc; last is what" in refusal(capsys, "fit", *demo(overlay), "--ckpt_path", "hpc")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("StochasticWeightAveraging", ("--trainer.callbacks.swa_lrs", 0.001, "--trainer.max_steps", -1)),
        ("EMAWeightAveraging", ("--trainer.callbacks.decay", 0.9)),
        ("Timer", ("--trainer.callbacks.duration", "00:01:00:00")),
        ("ModelPruning", ("--trainer.callbacks.pruning_fn", "l1_unstructured")),
    ],
)
def test_the_saved_config_of_a_run_with_a_callback_trains(name, words, overlay, capsys):
    run("fit", *demo(overlay), "--trainer.max_epochs", 2, f"--trainer.callbacks+={name}", *words)
    saved = folder_of(overlay) / "config.yaml"
    (written,) = yaml.safe_load(saved.read_text())["trainer"]["callbacks"]
    assert written["class_path"].endswith(name) and "serialize" not in str(written)
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
