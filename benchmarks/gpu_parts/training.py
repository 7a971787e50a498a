"""Shards that feed the device, and the demo trained, killed and continued."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from gpu_parts.making import make_module
from gpu_parts.run import Run
from gpu_parts.steps import one_step
from mcn_lightning.data.clips import ClipConfig
from mcn_lightning.data.datamodule import NarratedVideos
from mcn_lightning.data.files.pooling import VisualStream
from mcn_lightning.data.files.spectrograms import AudioConfig
from mcn_lightning.data.shards.job import PackConfig
from mcn_lightning.data.sources.synthetic import SyntheticConfig, write_synthetic
from mcn_lightning.data.text import TextConfig

DEMO = Path(__file__).parents[2] / "configs" / "demo.yaml"


def loader(run: Run, work: Path) -> None:
    """Measure how many videos come from shards to the device, and how long training waits for them."""
    width, batch = run.sizes.video // 2, 2 if run.tiny else 32
    videos, seconds = (8, 40.0) if run.tiny else (64, 300.0)
    layout = SyntheticConfig(
        videos=videos, held_out=1, seconds=seconds, caption_seconds=4.0, widths=(width, width), word_dim=300
    )
    write_synthetic(work / "layout", layout)

    def data(workers: int, packed: bool = True) -> NarratedVideos:
        made = NarratedVideos(
            str(work / "layout"),
            text=TextConfig(source="word_vectors.txt", max_words=20),
            audio=AudioConfig(num_frames=run.sizes.frames),
            streams=(VisualStream("_2d", 1.0, width), VisualStream("_3d", 1.5, width)),
            clips=ClipConfig(n_pair=run.sizes.clips_per_video, min_time=10.0),
            batch_size=batch,
            num_workers=workers,
            shards=str(work / "shards") if packed else None,
        )
        made.setup("fit")
        return made

    data(0, packed=False).pack(PackConfig(str(work / "shards")))
    cores = min(8, os.cpu_count() or 1)
    for workers in (0,) if run.tiny else (1, 2, 4, cores):
        if run.left() < 40:
            return run.add("loader", f"{workers} workers", "left out", "", "no time")
        took, seen, size = _read(run, data(workers), batch, epochs=2 if run.tiny else 6)
        run.add(
            "loader",
            f"shards to the device and cut, {workers} workers",
            seen / took,
            "videos/s",
            f"{size / took / 1e9:.2f} GB/s",
        )
    _feed(run, data(0 if run.tiny else cores), batch, epochs=2 if run.tiny else 5)


def _read(run: Run, data: NarratedVideos, batch: int, epochs: int) -> tuple[float, int, int]:
    """Return seconds, videos and bytes of the epochs after the first."""
    batches, seen, size, begun = data.train_dataloader(), 0, 0, 0.0
    for epoch in range(epochs):
        batches.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for item in batches:
            item.to(run.device, non_blocking=True).ready()
            if epoch:
                seen, size = seen + batch, size + sum(value.nbytes for value in item._tensors().values())
        if epoch == 0:
            run.wait()
            begun = time.perf_counter()
    run.wait()
    return time.perf_counter() - begun, seen, size


def _feed(run: Run, data: NarratedVideos, batch: int, epochs: int) -> None:
    """Add the share of time that training waits for data."""
    module = make_module(run)
    embedder = data.text_embedder()
    assert embedder is not None and module.network.text is not None
    module.network.text.set_embedder(embedder.to(run.device))
    optimizer, batches = module.configure_optimizers()["optimizer"], data.train_dataloader()
    waited, worked, clips = 0.0, 0.0, 0
    for epoch in range(epochs):
        batches.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        mark = time.perf_counter()
        for item in batches:
            got = time.perf_counter()
            one_step(run, module, item.to(run.device, non_blocking=True), optimizer)
            run.wait()
            done = time.perf_counter()
            if epoch:
                waited, worked, clips = waited + got - mark, worked + done - got, clips + len(item)
            mark = done
    share = 100 * waited / (waited + worked)
    run.add(
        "loader",
        f"training from shards, {batch} videos a batch",
        clips / (waited + worked),
        "clips/s",
        f"waits {share:.1f} %",
    )


def fit(run: Run, work: Path) -> None:
    """Train the demo by the command twice, and once killed and continued; compare weights bit for bit."""
    epochs, every = (2, 1) if run.tiny else (4, 3)
    sizes = {"synthetic.videos": 16 if run.tiny else 160, "synthetic.held_out": 2 if run.tiny else 20}
    if run.tiny:
        sizes |= {"batch_size": 4, "clips.n_pair": 4}

    def start(name: str, *more: str) -> subprocess.Popen[bytes]:
        options = {
            "trainer.accelerator": "gpu" if run.gpu else "cpu", "trainer.deterministic": "true",
            "trainer.max_epochs": epochs, "trainer.check_val_every_n_epoch": epochs,
            "trainer.enable_progress_bar": "false", "resume.every_n_steps": every, "run_folder": work / name,
            "data.root": work / "demo", "data.num_workers": 0,
        } | {f"data.{key}": value for key, value in sizes.items()}  # fmt: skip
        words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        command = [sys.executable, "-m", "mcn_lightning", "fit", "--config", str(DEMO), *words, *more]
        environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
        with open(work / f"{name}.log", "ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=work)

    def end(name: str, process: subprocess.Popen[bytes]) -> None:
        try:
            code: int | str = process.wait(600 if run.tiny else max(10.0, run.left()))
        except subprocess.TimeoutExpired:
            process.kill()
            code = "no time"
        if code:
            last = (work / f"{name}.log").read_text(errors="replace").splitlines()[-1:]
            run.add("fit", f"{name} ended with {code}", "BAD", "", " ".join(last)[:200])

    end("first", first := start("first"))
    if first.returncode:
        return
    killed, newest = start("killed"), _checkpoints(work / "killed") / "newest.ckpt"
    while killed.poll() is None and not newest.exists():
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    run.add("fit", "killed in the middle", "ok" if newest.exists() else "BAD", "", "a checkpoint was there")
    end("killed", start("killed", "--ckpt_path", "last"))
    end("second", start("second"))
    want = _weights(work / "first")
    for name, what in (("second", "run again"), ("killed", "killed and continued")):
        found = _weights(work / name)
        differ = [key for key, value in want.items() if key not in found or not torch.equal(value, found[key])]
        note = "BAD" if differ or not want else "ok, bit for bit"
        run.add("fit", f"demo {what}: tensors that differ", len(differ), f"of {len(want)}", note)
    for line in (work / "first.log").read_text(errors="replace").splitlines():
        if line.startswith(("t->va", "a->v", "nmi", "topics_nmi")):
            run.add("fit", "demo", " ".join(line.split()))


def _checkpoints(folder: Path) -> Path:
    return folder / "demo" / "version_0" / "checkpoints"


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    path = _checkpoints(folder) / "last.ckpt"
    return torch.load(path, map_location="cpu", weights_only=True)["state_dict"] if path.exists() else {}
