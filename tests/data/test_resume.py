"""Stopping in the middle of an epoch and going on, on one and on two processes, with as many or with others."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from forked import Popen
from processes import python, running, until

from mcn_lightning.data.sources.synthetic import SyntheticConfig, write_synthetic

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from mcn_lightning.data.clips import ClipConfig
from mcn_lightning.data.datamodule import NarratedVideos
from mcn_lightning.data.files.pooling import VisualStream

root, folder, world, workers, steps, resume, batch, total = json.loads(sys.argv[1])
folder = Path(folder)

class Recorder(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, index):
        with open(folder / f"seen-{self.global_rank}.jsonl", "a") as file:
            file.write(json.dumps([self.trainer.current_epoch, list(batch.ids)]) + "\\n")
        return self.weight * 1.0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

data = NarratedVideos(
    root, streams=[VisualStream("_2d", 1.0, 8), VisualStream("_3d", 1.5, 8)], modalities=("video", "audio"),
    clips=ClipConfig(n_pair=2), batch_size=batch, global_batch_size=total, num_workers=workers, val_csv=None,
)
keep = ModelCheckpoint(folder, "at", every_n_train_steps=steps, save_top_k=1) if steps else None
trainer = Trainer(
    accelerator="cpu", devices=world, strategy="ddp_fork" if world > 1 else "auto", max_epochs=2,
    max_steps=steps or -1, logger=False, callbacks=[keep] if keep else [], enable_checkpointing=bool(keep),
    enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
)
trainer.fit(Recorder(), datamodule=data, ckpt_path=resume)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("resume") / "data"
    write_synthetic(folder, SyntheticConfig(videos=13, held_out=1, seconds=20.0, widths=(8, 8), word_dim=8))
    return folder


def train(root, folder, world, workers=0, steps=None, resume=None, batch=2, total=None) -> list[list[list]]:
    """Train, and return for each process its epochs and batches."""
    folder.mkdir()
    start = None if resume is None else str(resume)
    words = json.dumps([str(root), str(folder), world, workers, steps, start, batch, total])
    done = python("-c", SCRIPT, words)
    assert done.returncode == 0, done.stderr[-3000:]
    files = [folder / f"seen-{rank}.jsonl" for rank in range(world)]
    return [[json.loads(line) for line in file.read_text().splitlines()] for file in files]


@pytest.mark.parametrize(("world", "workers", "steps"), [(1, 2, 4), (2, 0, 2), (2, 0, 4), (2, 2, 4)])
def test_the_next_batch_is_the_one_that_would_have_come(root, tmp_path, world, workers, steps):
    whole = train(root, tmp_path / "whole", world)
    first = train(root, tmp_path / "first", world, workers, steps)
    rest = train(root, tmp_path / "rest", world, workers, resume=tmp_path / "first" / "at.ckpt")
    for rank in range(world):
        assert len(first[rank]) == steps
        assert first[rank] + rest[rank] == whole[rank]


@pytest.mark.parametrize(("before", "after", "batch", "total"), [(2, 1, None, 4), (1, 2, 2, None), (1, 1, 3, None)])
def test_with_other_processes_every_video_of_the_epoch_comes_once(root, tmp_path, before, after, batch, total):
    first = train(root, tmp_path / "first", before, steps=2, batch=None if total else 2, total=total)
    rest = train(root, tmp_path / "rest", after, resume=tmp_path / "first" / "at.ckpt", batch=batch, total=total)
    for epoch in (0, 1):
        seen = Counter(
            name.split(":")[0]
            for run in (first, rest)
            for rank in run
            for at, names in rank
            if at == epoch
            for name in names
        )
        assert set(seen.values()) == {2}  # two clips of each video, and no video a second time
        step = total or after * batch
        began = 2 * (total or 2 * before) if epoch == 0 else 0
        assert len(seen) == began + (13 - began) // step * step


KILLED = """
import sys, time
from mcn_lightning.data.loading import ClipLoader, serve_parent

if __name__ == "__main__":
    options = {"multiprocessing_context": sys.argv[1], "worker_init_fn": serve_parent}
    loader = ClipLoader(list(range(64)), num_workers=2, **options)
    batches = iter(loader)
    next(batches)
    workers = batches.gi_frame.f_locals["batches"]._workers
    print(*(worker.pid for worker in workers), flush=True)
    time.sleep(1200)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize("start", ["fork", "forkserver"])
def test_workers_end_with_a_process_that_is_killed(start, tmp_path):
    (tmp_path / "killed.py").write_text(KILLED)
    with Popen([sys.executable, tmp_path / "killed.py", start], stdout=subprocess.PIPE, text=True) as main:
        workers = [int(word) for word in main.stdout.readline().split()]
        assert len(workers) == 2 and all(map(running, workers))
        main.kill()
    until(lambda: not any(map(running, workers)), "the end of the workers")
