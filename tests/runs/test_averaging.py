"""Averaged weights: what is averaged, evaluated, saved and continued is right beside queue, centroids and counters."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from modules import make_data
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import (
    EMAWeightAveraging,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mcn_lightning import MCNModule
from mcn_lightning.benchmarks import Benchmark
from mcn_lightning.callbacks import CentroidUpdate
from mcn_lightning.errors import InputError
from mcn_lightning.runs.resume import Resume

DECAY = 0.8
NETWORK = {
    "embedding_dim": 16, "video_dim": 16, "text_dim": 8, "audio_widths": [4, 4, 4, 8], "reconstruction_hidden": 8,
    "dropout": 0.3,
}  # fmt: skip
EMA = partial(EMAWeightAveraging, decay=DECAY)
AVERAGES = {
    "ema": EMA,
    "ema without buffers": partial(EMAWeightAveraging, decay=DECAY, use_buffers=False),
    "every second step": partial(EMAWeightAveraging, decay=DECAY, update_every_n_steps=2),
    "from step 3": partial(EMAWeightAveraging, decay=DECAY, update_starting_at_step=3),
    "mean": WeightAveraging,
    "several at once": lambda: WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(DECAY)),
}
EVALUATED = ("ema", "ema without buffers", "from step 3")
"""Those that swap other values for an evaluation, or none at first."""


class Watch(Callback):
    """Keep the weights after every step."""

    def __init__(self) -> None:
        self.weights = []

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.weights.append({name: value.detach().clone() for name, value in pl_module.network.named_parameters()})


class SaveAt(ModelCheckpoint):
    """Save a checkpoint after some steps; the last of all callbacks, as those are that save."""

    def __init__(self, folder, *steps: int) -> None:
        super().__init__(save_top_k=0)
        self.folder, self.steps = folder, steps

    def on_train_batch_end(self, trainer, pl_module, *args):
        if trainer.global_step in self.steps:
            trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


class Probe(Benchmark):
    """A benchmark that keeps the weights with which it is evaluated."""

    def open(self, data, module):
        self.seen = []

    def evaluate(self, trainer, module):
        self.seen.append(module.network.video.state_dict() | {})
        self.seen[-1] = {name: value.clone() for name, value in self.seen[-1].items()}
        yield self.result("", "count", 1)


def make_module(kind="kmeans") -> MCNModule:
    torch.manual_seed(0)
    clustering = {"kind": kind, "num_clusters": 3, "queue_rows": 8}
    return MCNModule(NETWORK, clustering=clustering, optimizer={"lr": 3e-3, "warmup_steps": 2})


def fit(root, tiny, *callbacks, kind="kmeans", ckpt_path=None, epochs=3, **options) -> tuple[Trainer, MCNModule]:
    module = make_module(kind)
    trainer = Trainer(
        default_root_dir=root, accelerator="cpu", logger=False, enable_progress_bar=False, max_epochs=epochs,
        enable_model_summary=False, callbacks=[*callbacks, CentroidUpdate(every_n_steps=2)], **options,
    )  # fmt: skip
    trainer.fit(module, make_data(tiny), ckpt_path=ckpt_path)
    return trainer, module


def assert_equal(one, other, what="") -> None:
    first, second = torch.utils._pytree.tree_flatten(one), torch.utils._pytree.tree_flatten(other)
    assert first[1] == second[1], what
    for a, b in zip(first[0], second[0], strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, what


def ema(weights: list[dict]) -> dict[str, torch.Tensor]:
    """Return the exponential average by its formula, in double precision; the first step is where it begins."""
    mean = {name: value.double() for name, value in weights[0].items()}
    for step in weights[1:]:
        mean = {name: DECAY * mean[name] + (1 - DECAY) * value for name, value in step.items()}
    return mean


@pytest.mark.parametrize("kind", ["kmeans", "kmeans_per_modality", "sinkhorn"])
def test_the_weights_are_averaged_and_clusters_and_counters_are_not(kind, tiny, tmp_path):
    watch = Watch()
    trainer, module = fit(tmp_path, tiny, watch, EMA(), kind=kind, epochs=2, limit_val_batches=0)
    saved = torch.load(trainer.checkpoint_callback.best_model_path, weights_only=True)
    expected = ema(watch.weights)
    for name, value in expected.items():
        torch.testing.assert_close(saved["state_dict"][f"network.{name}"].double(), value, rtol=1e-5, atol=1e-7)
        assert torch.equal(module.network.get_parameter(name), saved["state_dict"][f"network.{name}"])  # of the end
        assert torch.equal(saved["current_model_state"][f"network.{name}"], watch.weights[-1][name])
    averaged, current = saved["state_dict"], saved["current_model_state"]
    clusters = [name for name in current if name.startswith("clustering.") and "prototypes" not in name]
    counters = [name for name, value in current.items() if not value.is_floating_point()]
    assert len(counters) >= 9 and (kind == "sinkhorn" or len(clusters) >= 8)
    for name in {*clusters, *counters}:
        assert torch.equal(averaged[name], current[name]), name
    if kind == "sinkhorn":
        assert not torch.equal(averaged["clustering.prototypes"], current["clustering.prototypes"])
    else:
        name = next(name for name in clusters if name.endswith("queue.filled"))
        assert int(averaged[name]) == 8 and module.clustering.has_centroids


def test_batch_norm_statistics_are_averaged_or_those_of_training(tiny, tmp_path):
    for use_buffers in (True, False):
        average = EMAWeightAveraging(decay=DECAY, use_buffers=use_buffers)
        trainer, _ = fit(tmp_path, tiny, average, epochs=1, limit_val_batches=0)
        saved = torch.load(trainer.checkpoint_callback.best_model_path, weights_only=True)
        names = [name for name in saved["state_dict"] if name.endswith("running_mean")]
        same = [torch.equal(saved["state_dict"][name], saved["current_model_state"][name]) for name in names]
        assert len(same) >= 9 and (not any(same) if use_buffers else all(same))


def test_all_that_evaluates_sees_the_averaged_weights_and_training_does_not(tiny, tmp_path):
    probe, watch = Probe("probe"), Watch()
    trainer, _ = fit(tmp_path, tiny, EMA(), probe, watch, num_sanity_val_steps=0)
    assert len(probe.seen) == 3  # after every epoch of three steps
    for epoch, seen in enumerate(probe.seen):
        expected = ema(watch.weights[: 3 * epoch + 3])
        for name, value in seen.items():
            torch.testing.assert_close(value.double(), expected[f"video.{name}"], rtol=1e-5, atol=1e-7)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items() if "R@" in name}
    path = trainer.checkpoint_callback.best_model_path
    again = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    (metrics,) = again.validate(make_module(), make_data(tiny), ckpt_path=path, verbose=False)
    assert {name: metrics[name] for name in logged} == pytest.approx(logged)

    plain = Watch()
    fit(tmp_path, tiny, plain)
    for one, two in zip(plain.weights, watch.weights, strict=True):
        assert_equal(one, two)


@pytest.mark.parametrize("name", AVERAGES)
def test_a_run_with_averaged_weights_goes_on_bit_for_bit(name, tiny, tmp_path):
    def end_of(trainer) -> dict:
        trainer.save_checkpoint(path := tmp_path / "end.ckpt")
        return torch.load(path, weights_only=True)

    few = {"max_steps": 8} | ({} if name in EVALUATED else {"limit_val_batches": 0})
    one = end_of(fit(tmp_path / "whole", tiny, AVERAGES[name](), SaveAt(tmp_path, 4, 6), **few)[0])
    for step in (4, 6):  # within the second epoch, and at its end
        cut = tmp_path / f"{step}.ckpt"
        other = end_of(fit(tmp_path / str(step), tiny, AVERAGES[name](), SaveAt(tmp_path), ckpt_path=cut, **few)[0])
        for key in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
            assert_equal(one[key], other[key], f"{key} from step {step}")


def test_resume_saves_the_average_of_the_same_step(tiny, tmp_path):
    watch = Watch()
    fit(tmp_path, tiny, Resume(every_n_steps=1), EMA(), watch, max_steps=5, limit_val_batches=0)
    saved = torch.load(tmp_path / "checkpoints" / "newest.ckpt", weights_only=True)
    assert saved["global_step"] == 5
    for name, value in ema(watch.weights).items():
        torch.testing.assert_close(saved["state_dict"][f"network.{name}"].double(), value, rtol=1e-5, atol=1e-7)


def test_going_on_without_the_average_is_refused(tiny, tmp_path):
    path = tmp_path / "4.ckpt"
    fit(tmp_path, tiny, EMA(), SaveAt(tmp_path, 4), limit_val_batches=0)
    with pytest.raises(InputError, match=r"--ckpt_path: expected --trainer\.callbacks with the callback that averaged"):
        fit(tmp_path, tiny, ckpt_path=path)
    MCNModule(NETWORK, weights=str(path))  # but they are a start


def test_stochastic_weight_averaging_goes_on_bit_for_bit(tiny, tmp_path):
    def swa():
        return StochasticWeightAveraging(1e-3, swa_epoch_start=2, annealing_epochs=2)

    few = {"epochs": 4, "limit_val_batches": 0}
    whole, module = fit(tmp_path / "whole", tiny, swa(), SaveAt(tmp_path, 6, 8, 9), **few)
    for step in (6, 8, 9):
        cut = tmp_path / f"{step}.ckpt"
        rest, again = fit(tmp_path / str(step), tiny, swa(), SaveAt(tmp_path), ckpt_path=cut, **few)
        assert whole.global_step == rest.global_step
        assert_equal(dict(module.state_dict()), dict(again.state_dict()), f"from step {step}")


def test_stochastic_weight_averaging_ends_with_the_mean_of_the_epochs(tiny, tmp_path):
    watch = Watch()
    trainer, module = fit(
        tmp_path, tiny, StochasticWeightAveraging(1e-3, swa_epoch_start=2), watch, epochs=4, num_sanity_val_steps=0
    )
    starts = [watch.weights[step] for step in (2, 5, 8)]  # as they are when epochs 1, 2 and 3 begin
    saved = torch.load(trainer.checkpoint_callback.best_model_path, weights_only=True)
    for name in watch.weights[0]:
        mean = torch.stack([step[name].double() for step in starts]).mean(dim=0)
        torch.testing.assert_close(module.network.get_parameter(name).double(), mean, rtol=1e-5, atol=1e-7)
        assert torch.equal(saved["state_dict"][f"network.{name}"], module.network.get_parameter(name))
    assert int(module.clustering.of["mean"].queue.filled) == 8 and module.clustering.has_centroids


def test_stochastic_weight_averaging_without_batch_norm_is_refused(tiny, tmp_path):
    module = MCNModule(NETWORK, clustering={"kind": "none"})
    trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", max_epochs=2, logger=False,
                      callbacks=[StochasticWeightAveraging(1e-3)])  # fmt: skip
    with pytest.raises(InputError, match=r"expected a network with batch norm .* found none; take EMAWeight"):
        trainer.fit(module, make_data(tiny, modalities=["video", "text"]))
