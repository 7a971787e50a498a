"""Training on two processes and on one with the same clips a step."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
import yaml
from processes import python

RUN = {
    "data": {
        "modalities": ["video", "text"], "streams": [{"suffix": "_2d", "rate": 1.0, "width": 8}],
        "text": {"source": "word_vectors.txt", "dim": 8}, "clips": {"n_pair": 4, "min_time": 5.0},
        "val_csv": None, "num_workers": 0,
    },
    "model": {
        "network": {"embedding_dim": 16, "normalize": True, "reconstruction": True, "reconstruction_hidden": 8},
        "loss": {"contrastive": {"temperature": 0.1, "learn_temperature": True}, "cluster": {"temperature": 0.1}},
        "clustering": {"kind": "sinkhorn", "num_clusters": 4},
        "optimizer": {"lr": 0.01, "warmup_steps": 0},
    },
    "trainer": {"accelerator": "cpu", "max_epochs": 2, "log_every_n_steps": 1, "enable_progress_bar": False},
}  # fmt: skip


def fit(root: Path, folder: Path, *words: object) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Train, and return the losses of the steps and the weights at the end."""
    folder.mkdir()
    (folder / "run.yaml").write_text(yaml.safe_dump(RUN))
    logger = ["--trainer.logger.init_args.save_dir", str(folder), "--trainer.logger.init_args.name", "run"]
    given = ["--config", folder / "run.yaml", "--data.root", root]
    done = python("-m", "mcn_lightning", "fit", *given, *logger, *words)
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / "said").write_text(done.stdout)
    with open(folder / "run" / "version_0" / "metrics.csv", newline="") as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    saved = torch.load(folder / "run" / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)
    return losses, saved["state_dict"]


FRESH_KMEANS = (
    "--model.clustering.kind=kmeans", "--model.clustering.queue_rows=4", "--centroids.every_n_steps=1",
    "--centroids.start=fresh",
)  # fmt: skip


@pytest.mark.parametrize(
    ("words", "clips", "steps"),
    [
        ((), 2, 6),
        (("--trainer.accumulate_grad_batches=3",), 2, 2),
        # more than one video a process, and start rows drawn anew each time: the same rows only in the same order
        ((*FRESH_KMEANS, "--trainer.max_epochs=4"), 4, 4),
        (
            ("--model.clustering.kind=kmeans", "--model.clustering.queue_rows=0", "--centroids.every_n_steps=0",
             "--centroids.every_n_epochs=1", "--centroids.source=training_set", "--centroids.start=fresh"),
            4, 2,
        ),
    ],
)  # fmt: skip
def test_two_processes_train_as_one_with_their_clips(words, clips, steps, tiny, tmp_path):
    one, weights = fit(tiny, tmp_path / "one", "--data.batch_size", clips, "--trainer.devices", 1, *words)
    two, others = fit(tiny, tmp_path / "two", "--data.global_batch_size", clips, "--trainer.devices", 2, *words)
    assert len(one) == steps and two == pytest.approx(one, rel=1e-4)
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=1e-3, atol=1e-4)


def test_two_processes_cluster_a_pass_over_the_training_set(tiny, tmp_path):
    words = {
        "model.clustering.kind": "kmeans", "model.clustering.queue_rows": 0, "centroids.every_n_steps": 0,
        "centroids.every_n_epochs": 1, "centroids.source": "training_set", "data.batch_size": 1, "trainer.devices": 2,
        "data.val_csv": "val.csv", "centroids.share": 0.17,  # one video: the second process has none
    }  # fmt: skip
    losses, weights = fit(
        tiny, tmp_path / "run", *(word for name, value in words.items() for word in (f"--{name}", value))
    )
    assert len(losses) == 6 and weights["clustering.of.mean.runs"] == 2 and weights["clustering.of.mean.ready"]
    assert "held-out clips: 10, after epoch 2" in (tmp_path / "run" / "said").read_text()  # each once, of both
    config = tmp_path / "run" / "run" / "version_0" / "config.yaml"
    checkpoint = config.parent / "checkpoints" / "last.ckpt"
    done = python("-m", "mcn_lightning", "predict", "--config", config, "--ckpt_path", checkpoint)
    assert "10 clips: video, text, cluster" in done.stdout, done.stderr[-3000:]
