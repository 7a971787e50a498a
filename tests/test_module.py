"""What the module wires: schedule, configurations out of checkpoints, the moment of re-clustering, released weights."""

import csv
import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from modules import CLUSTERING, NETWORK, SIZES, embed, make_data, make_module, make_trainer, released_inputs
from processes import run as run_processes
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import CSVLogger
from references import model as reference

from mcn_lightning.batch import ClipBatch
from mcn_lightning.callbacks import CentroidUpdate
from mcn_lightning.clustering import ClusteringConfig
from mcn_lightning.distributed import rank
from mcn_lightning.errors import InputError
from mcn_lightning.losses import ContrastiveConfig, LossConfig
from mcn_lightning.models import NetworkConfig
from mcn_lightning.models.released import WeightsError
from mcn_lightning.module import MCNModule
from mcn_lightning.training.exchange import exchange
from mcn_lightning.training.optimizer import OptimizerConfig, learning_rate_factor


class LearningRates(Callback):
    """Notes the learning rate of every optimiser step."""

    def __init__(self):
        self.seen = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.seen.append(optimizer.param_groups[0]["lr"])


def test_warm_up_and_cosine():
    factors = [learning_rate_factor(step, 4, 12, "cosine") for step in range(13)]
    assert factors[:5] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert factors[8] == pytest.approx(0.5) and factors[12] == pytest.approx(0.0)
    assert learning_rate_factor(9, 4, 12, "constant") == 1.0
    assert learning_rate_factor(9, 4, math.inf, "cosine") == 1.0


def test_exponential_schedule_is_a_factor_after_each_epoch():
    factors = [learning_rate_factor(step, 0, math.inf, "exponential", 0.9, 3) for step in range(7)]
    assert factors == pytest.approx([1, 1, 1, 0.9, 0.9, 0.9, 0.81])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_exponential_schedule_in_training(accumulate, tiny, tmp_path):
    data = make_data(tiny, batch_size=1)  # six videos: six batches an epoch
    module = MCNModule(NETWORK, optimizer=OptimizerConfig(lr=1.0, warmup_steps=0, schedule="exponential", decay=0.5))
    rates = LearningRates()
    make_trainer(tmp_path, max_epochs=3, accumulate_grad_batches=accumulate, callbacks=[rates]).fit(module, data)
    steps = 6 // accumulate
    assert rates.seen == [0.5**epoch for epoch in range(3) for _ in range(steps)]


@pytest.mark.parametrize(
    ("restart", "accumulate", "expected"),
    [  # 5 batches an epoch; the released script runs k-means where (batch of the epoch) % 2 == 0
        (True, 1, [(0, 0), (0, 2), (0, 4), (1, 0), (1, 2), (1, 4)]),
        (False, 1, [(0, 0), (0, 2), (0, 4), (1, 1), (1, 3)]),
        (True, 2, [(0, 0), (0, 4), (1, 0), (1, 4)]),  # steps of batches 0-1, 2-3 and 4
        (False, 2, [(0, 0), (0, 4), (1, 2)]),
    ],
)
def test_steps_are_counted_in_the_epoch_where_each_epoch_begins_anew(restart, accumulate, expected):
    module = make_module()
    module.clustering.config = dataclasses.replace(CLUSTERING, restart_each_epoch=restart)
    for stop in (None, (0, 1), (0, 3), (1, 2), (1, 4)):  # in the middle of an epoch: another object goes on
        callback, seen, step = CentroidUpdate(every_n_steps=2), [], 0
        module.request_clustering = lambda fresh, seen=seen: seen.append((module.place, fresh))
        for epoch in range(2):
            for batch in range(5):
                module.place = (epoch, batch)
                callback = CentroidUpdate(every_n_steps=2) if module.place == stop else callback
                trainer = SimpleNamespace(
                    global_step=step, accumulate_grad_batches=accumulate, current_epoch=epoch, world_size=1
                )
                callback.on_train_batch_start(trainer, module, None, batch)
                step += (batch + 1) % accumulate == 0 or batch == 4
        assert [place for place, _ in seen] == expected, stop
        assert [place for place, fresh in seen if fresh] == ([(0, 0), (1, 0)] if restart else [])


@pytest.mark.parametrize(
    ("every", "runs"),
    [({"every_n_steps": 2}, [0, 2, 4]), ({"every_n_steps": 0, "every_n_epochs": 1}, [0, 3])],
)
def test_kmeans_runs_when_it_is_due(every, runs, tiny, tmp_path):
    module, seen = make_module(), []
    cluster = module.clustering.cluster

    def record(*arguments):
        seen.append((module.trainer.global_step, len(module.clustering.of["mean"].queue.contents())))
        return cluster(*arguments)

    module.clustering.cluster = record
    make_trainer(tmp_path, max_steps=6, callbacks=[CentroidUpdate(**every)], enable_checkpointing=False).fit(
        module, make_data(tiny)
    )
    assert [step for step, _ in seen] == runs
    assert [rows for _, rows in seen] == [min(8, 4 * step) for step in runs], "the current batch is pushed afterwards"


def test_a_checkpoint_rebuilds_the_module_without_its_options(tiny, tmp_path):
    loss = LossConfig(contrastive=ContrastiveConfig(kind="info_nce", temperature=0.2, learn_temperature=True))
    module = make_module(loss=loss)
    trainer = make_trainer(tmp_path, max_steps=3, callbacks=[CentroidUpdate(every_n_steps=2)])
    trainer.fit(module, make_data(tiny))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = MCNModule.load_from_checkpoint(tmp_path / "a.ckpt")
    assert (again.loss_config, again.network_config) == (module.loss_config, module.network_config)
    for name, value in module.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert again.clustering.has_centroids and again.clustering.of["mean"].queue.full


def test_the_total_is_the_weighted_sum_of_its_terms(tiny, tmp_path):
    module = make_module(loss=LossConfig(cluster_weight=0.5, reconstruction_weight=2.0))
    trainer = make_trainer(tmp_path, max_steps=2, callbacks=[CentroidUpdate(every_n_steps=1)],
                           enable_checkpointing=False)  # fmt: skip
    trainer.fit(module, make_data(tiny))
    logged = {name: float(value) for name, value in trainer.logged_metrics.items()}
    parts = sum(logged[f"train/{name}"] for name in ("contrastive", "cluster", "reconstruction"))
    assert logged["train/loss"] == pytest.approx(parts, rel=1e-5)
    pairs = sum(logged[f"train/{name}"] for name in ("text_video", "audio_text", "audio_video"))
    assert logged["train/contrastive"] == pytest.approx(pairs, rel=1e-5)


RELEASED = {"video_dim": 16, "text_dim": 8, "audio_widths": (4, 4, 4, 8), "recon_hidden": 8}
"""What the data and the defaults say; the weights have another width."""


def save_released(folder, **options) -> tuple[dict[str, torch.Tensor], str]:
    state = reference.random_released_state_dict(12, **RELEASED, **options)
    torch.save(state, folder / "e16.pth")
    return state, str(folder / "e16.pth")


@pytest.mark.parametrize(
    ("options", "kind", "names"),
    [
        ({}, "MCN with reconstruction", {"video", "audio", "text"}),
        ({"recon": False}, "MCN or AVLnet-Text-Tri", {"video", "audio", "text"}),
        ({"text": "none"}, "AVLnet", {"video", "audio"}),
        ({"text": "fused"}, "AVLnet-Text-Fused", {"video", "audio_text"}),
    ],
)
def test_released_weights_are_the_start_and_decide_the_shape(options, kind, names, tmp_path, capsys):
    state, path = save_released(tmp_path, **options)
    module = MCNModule(SIZES, clustering=CLUSTERING, weights=path)
    said = capsys.readouterr().out
    assert said.startswith(f"--model.weights {path}: {kind}, D = 12; model.network follows the weights")
    assert said.count("\n") == 1 and "without" not in said and "in training" not in said
    config = module.network_config
    assert (config.embedding_dim, tuple(config.audio_widths)) == (12, (4, 4, 4, 8))
    assert config.reconstruction == (kind == "MCN with reconstruction")
    assert module.hparams["network"]["embedding_dim"] == 12 and "weights" not in module.hparams
    inputs = released_inputs()
    expected, found = reference.embed(state, *inputs, False), embed(module, inputs)
    assert set(found) == names
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5)


def test_modalities_that_the_data_lack_are_left_out(tmp_path, capsys):
    state, path = save_released(tmp_path)
    module = MCNModule(dataclasses.replace(SIZES, modalities=("video", "text"), audio_bands=3), weights=path)
    assert "without those of audio, which data.modalities lacks" in capsys.readouterr().out
    assert set(module.network.reconstruction) == {"video", "text"} and module.network.audio is None
    inputs = released_inputs()
    expected = reference.embed(state, *inputs, False)
    for name, value in embed(module, inputs).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("released", "network", "found"),
    [
        ({}, {"video_dim": 15}, r"expected 16 values of the video feature, found 15 in the data; set --data\.streams"),
        ({}, {"text_dim": 7}, r"expected 8 values of a word vector, found 7 in the data; set --data\.text\.dim"),
        ({}, {"audio_bands": 64}, r"expected 40 mel bands, found 64 in the data; set --data\.audio\.bands"),
        (
            {"text": "none"},
            {"modalities": ("video", "text")},
            r"expected at least two of video, audio, found video, text",
        ),
        (
            {"text": "fused"},
            {"modalities": ("video", "text")},
            r"expected all of video, audio, text, found video, text",
        ),
    ],
)
def test_inputs_of_another_size_are_refused(released, network, found, tmp_path):
    _, path = save_released(tmp_path, **released)
    with pytest.raises(WeightsError, match=found) as caught:
        MCNModule(dataclasses.replace(SIZES, **network), weights=path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_a_checkpoint_of_this_project_is_a_start(tiny, tmp_path, capsys):
    loss = LossConfig(contrastive=ContrastiveConfig(kind="info_nce", temperature=0.2, learn_temperature=True))
    network = dataclasses.replace(NETWORK, normalize=True, reconstruction=False)
    module = MCNModule(network, loss, CLUSTERING, OptimizerConfig(warmup_steps=0))
    trainer = make_trainer(tmp_path, max_steps=2, callbacks=[CentroidUpdate(every_n_steps=2)])
    trainer.fit(module, make_data(tiny))
    path = tmp_path / "a.ckpt"
    trainer.save_checkpoint(path)
    capsys.readouterr()
    start = dataclasses.replace(loss.contrastive, temperature=0.5)
    again = MCNModule(SIZES, LossConfig(contrastive=start), ClusteringConfig("none"), weights=str(path))
    said = capsys.readouterr().out
    assert (
        f"{path}: checkpoint of this project, D = 16" in said
        and "; but model.network.normalize is False here and was True in training" in said
    )
    assert float(again.contrastive.temperature.detach()) == pytest.approx(0.5) and again.clustering is None
    assert not again.network_config.reconstruction
    for name, value in module.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value), name
    saved = torch.load(path, weights_only=True)
    del saved["state_dict"]["network.video.gate.bias"]
    torch.save(saved, path)
    with pytest.raises(WeightsError, match=r"no weights for GU_video\.cg\.fc\.bias \(video\.gate\.bias\)"):
        MCNModule(SIZES, weights=str(path))
    torch.save({**saved, "hyper_parameters": {}}, path)
    with pytest.raises(WeightsError, match="without the shape of its network"):
        MCNModule(SIZES, weights=str(path))


KINDS = ("kmeans", "kmeans_joint", "kmeans_per_modality", "sinkhorn", "sinkhorn_swapped_hard", "none")


@pytest.mark.parametrize("kind", KINDS)
def test_a_joint_embedding_of_audio_and_text_trains(kind, tiny, tmp_path):
    _, path = save_released(tmp_path, text="fused")
    clustering = ClusteringConfig(kind, num_clusters=3, queue_rows=8)
    module = MCNModule(SIZES, clustering=clustering, optimizer=OptimizerConfig(warmup_steps=0), weights=path)
    before = {name: value.clone() for name, value in module.network.named_parameters()}
    trainer = make_trainer(
        tmp_path, max_steps=3, callbacks=[CentroidUpdate(every_n_steps=1)], enable_checkpointing=False
    )
    trainer.fit(module, make_data(tiny))
    logged = {name: float(value) for name, value in trainer.logged_metrics.items()}
    assert math.isfinite(logged["train/loss"]) and logged["train/contrastive"] == logged["train/audio_text_video"]
    assert ("train/cluster" in logged) == (kind != "none")
    moved = {name for name, value in module.network.named_parameters() if not torch.equal(value, before[name])}
    assert moved == set(before)


def test_a_batch_without_a_readable_video_is_no_step():
    assert make_module().training_step(ClipBatch(ids=()), 0) is None


def test_a_batch_is_taken_as_it_comes_from_a_loader(tiny):
    data, module = make_data(tiny), make_module().eval()
    data.setup("fit")
    module.network.text.set_embedder(data.text_embedder())
    batch = next(iter(data.train_dataloader()))
    assert batch.audio is None
    with torch.no_grad():
        raw, ready = module(batch).embeddings(), module(batch.ready()).embeddings()
    assert set(raw) == {"video", "audio", "text"}
    assert all(torch.equal(raw[name], ready[name]) for name in raw)


def test_a_pass_over_the_training_set_is_clustered(tiny, tmp_path):
    module, seen = make_module(), []
    fit = module.clustering.fit

    def record(features, fresh):
        reports = fit(features, fresh)
        seen.append((module.trainer.current_epoch, sum(map(len, features["mean"])), fresh, reports["mean"]))
        return reports

    module.clustering.fit = record
    update = CentroidUpdate(every_n_steps=0, every_n_epochs=2, source="training_set", share=0.5, start="warm")
    trainer = make_trainer(tmp_path, max_epochs=3, callbacks=[update], enable_checkpointing=False)
    trainer.fit(module, make_data(tiny))
    assert [(epoch, rows, fresh) for epoch, rows, fresh, _ in seen] == [(0, 12, False), (2, 12, False)]
    assert seen[0][3].changed is None and 0 <= seen[1][3].changed <= 1  # the second starts from the first's centroids
    names = {"objective", "iterations", "changed", "size_entropy", "reseeded", "empty", "seconds", "pass_seconds"}
    assert {f"clustering/{name}" for name in names} <= set(trainer.callback_metrics)
    assert module.training and module.clustering.has_centroids


def test_when_to_cluster_is_checked():
    for options, found in (
        ({"every_n_steps": 0}, "every_n_steps and every_n_epochs"),
        ({"source": "training_set"}, r"--centroids\.source"),
        ({"share": 0.0}, r"--centroids\.share"),
    ):
        with pytest.raises(InputError, match=found):
            CentroidUpdate(**options)


def test_clips_of_a_cluster_are_left_out_once_there_are_clusters(tiny, tmp_path):
    def losses(exclude):
        torch.manual_seed(0)
        module, seen = make_module(loss=LossConfig(contrastive=ContrastiveConfig(exclude_same_cluster=exclude))), []
        module.on_train_batch_end = lambda *_: seen.append(float(module.trainer.callback_metrics["train/contrastive"]))
        make_trainer(
            tmp_path, max_steps=3, callbacks=[CentroidUpdate(every_n_steps=2)], enable_checkpointing=False
        ).fit(module, make_data(tiny))
        return seen

    everyone, others = losses(False), losses(True)
    assert len(everyone) == 3 and others[0] < everyone[0]  # fewer negatives
    with pytest.raises(InputError, match="exclude_same_cluster: expected clusters"):
        MCNModule(
            NETWORK, LossConfig(contrastive=ContrastiveConfig(exclude_same_cluster=True)), ClusteringConfig("none")
        )


@pytest.mark.parametrize(("batches", "steps"), [(1, [0, 2, 4, 6, 8]), (3, [0, 2])])
def test_every_kmeans_is_logged_once_whatever_lightning_writes(batches, steps, tiny, tmp_path):
    logger = CSVLogger(tmp_path)
    trainer = Trainer(
        default_root_dir=tmp_path, max_epochs=3, callbacks=[CentroidUpdate(every_n_steps=2)], logger=logger,
        limit_val_batches=0, log_every_n_steps=5, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu", enable_checkpointing=False, accumulate_grad_batches=batches,
    )  # fmt: skip
    trainer.fit(make_module(), make_data(tiny))
    with open(Path(logger.log_dir) / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["clustering/objective"]]
    assert [int(row["step"]) for row in rows] == steps  # of three batches an epoch


def test_at_weight_0_clusters_are_found_and_draw_nothing(tiny, tmp_path):
    def train(kind):
        torch.manual_seed(0)
        module = MCNModule(
            NETWORK, LossConfig(cluster_weight=0.0), ClusteringConfig(kind, num_clusters=3, queue_rows=8),
            OptimizerConfig(warmup_steps=0),
        )  # fmt: skip
        trainer = make_trainer(
            tmp_path, max_steps=4, callbacks=[CentroidUpdate(every_n_steps=2)], enable_checkpointing=False
        )
        trainer.fit(module, make_data(tiny))
        return module, trainer.logged_metrics

    found, logged = train("kmeans_per_modality")
    plain, _ = train("none")
    assert found.clustering.has_centroids and "train/cluster" not in logged
    for name, weight in plain.network.state_dict().items():
        assert torch.equal(found.network.state_dict()[name], weight), name
    centroids, sizes = found.clusters_of(["text"])
    assert torch.equal(centroids, found.clustering.of["text"].centroids) and int(sizes.sum()) > 0
    assert found.clusters_of(["text", "video"]) is None


def test_a_queue_that_the_run_cannot_fill_is_said(tiny, tmp_path):
    clustering = ClusteringConfig(num_clusters=3, queue_rows=13)  # 3 steps of 2 videos of 2 clips push 12
    module = MCNModule(NETWORK, clustering=clustering, optimizer=OptimizerConfig(warmup_steps=0))
    trainer = make_trainer(tmp_path, max_epochs=1, callbacks=[CentroidUpdate()], enable_checkpointing=False)
    with pytest.warns(UserWarning, match=r"queue_rows: expected at most the 12 rows .* found 13"):
        trainer.fit(module, make_data(tiny))


def test_a_modality_without_centroids_waits_while_the_others_are_drawn():
    module = MCNModule(NETWORK, clustering=ClusteringConfig("kmeans_per_modality", num_clusters=3, queue_rows=8))
    rows = {name: torch.randn(12, 16) for name in ("video", "text", "mean")}
    module.clustering.cluster(rows)
    assert not module.clustering.has_centroids
    assert set(module.clustering.targets({**rows, "audio": torch.randn(12, 16)})) == {"video", "text"}


def counts_of_a_step(sizes, without):
    if sizes[rank()] == 0:
        batch = ClipBatch(ids=())
    else:
        words = None if rank() in without else torch.ones(1, 3)
        batch = ClipBatch(ids=tuple("abcdef"[: sizes[rank()]]), video=torch.ones(sizes[rank()], 16), words=words)
    network = NetworkConfig(embedding_dim=16, modalities=("video", "text"), video_dim=16, text_dim=8)
    try:
        return exchange(batch, network, "cpu")[0]
    except InputError as error:
        return str(error)


def test_a_modality_that_one_process_lacks_is_said_on_all():
    assert run_processes(counts_of_a_step, (2, 3), ()) == [[2, 3]] * 2
    assert run_processes(counts_of_a_step, (2, 0), ()) == [[2, 0]] * 2
    for sizes, without in (((2, 3), (1,)), ((2, 0), (0,))):  # a process without clips takes part with all
        for said in run_processes(counts_of_a_step, sizes, without):
            assert "same modalities on every process, found video / video, text" in said


def test_prototypes_need_a_weight():
    with pytest.raises(InputError, match=r"--model\.loss\.cluster_weight: expected more than 0 .* sinkhorn_hard"):
        MCNModule(NETWORK, LossConfig(cluster_weight=0.0), ClusteringConfig("sinkhorn_hard", num_clusters=3))
