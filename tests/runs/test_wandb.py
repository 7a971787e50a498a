"""Runs that log to wandb, offline: what is logged, where the files lie, going on, and a key that is missing."""

import csv
import json
import os
import pty
import signal
import subprocess
import sys

import pytest
import torch
from launch import CONFIGS, environment, start, write_overlay
from processes import LIMIT, python, wait_for
from wandb_files import logged, summary
from wandb_server import KEY, WandbServer

LAYER = CONFIGS / "trainer" / "wandb.yaml"
RECORD = {
    "version", "commit", "changed", "command", "hardware", "processes", "started", "hours", "memory_gb", "finished",
    "versions", "starts",
}  # fmt: skip


@pytest.mark.slow
def test_a_run_that_is_stopped_goes_on_as_one_wandb_run_in_one_folder(tiny, tmp_path):
    env, runs = environment(tmp_path, WANDB_MODE="offline"), tmp_path / "runs"
    plain = "pytorch_lightning.loggers.CSVLogger"
    overlay = write_overlay(tmp_path / "tiny.yaml", tiny, runs, logger=plain, max_steps=100_000)
    folder = runs / "run" / "version_0"
    small = ("--config", overlay, "--data.batch_size", 2)
    first = start(*small, "--config", LAYER, "--resume.every_n_steps", 1, env=env, stderr=subprocess.PIPE)
    wait_for((folder / "checkpoints" / "newest.ckpt").exists, first)
    figures = folder / "metrics.csv"
    wait_for(lambda: figures.exists() and "val/nmi" in figures.read_text(), first)  # an epoch was evaluated
    first.send_signal(signal.SIGTERM)
    assert "stopped by SIGTERM" in first.communicate(timeout=LIMIT)[1]
    records = [json.loads((folder / "run.json").read_text())]
    steps = torch.load(folder / "checkpoints" / "newest.ckpt", weights_only=True)["global_step"]
    words = ("--trainer.logger", "WandbLogger", "--trainer.logger.init_args.project", "mcn")
    words += ("--ckpt_path", "last", "--trainer.max_steps", steps + 2)
    second = start(*small, *words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    said, told = second.communicate(timeout=LIMIT)
    assert second.returncode == 0, told
    assert f"step {steps}" in said and "no API key" not in told
    records.append(json.loads((folder / "run.json").read_text()))

    assert [path.name for path in folder.parent.iterdir()] == ["version_0"]
    assert {path.name for path in folder.iterdir()} >= {"config.yaml", "checkpoints", "run.json", "metrics.csv"}
    began, again = records[1]["starts"]
    assert [began] == records[0]["starts"] and began["command"] == records[0]["command"]
    assert again["command"] == records[1]["command"] and again["started"] > began["started"] == records[0]["started"]
    assert records[1]["hours"] > again["hours"] > 0 and set(began) == set(again) == RECORD - {"finished", "starts"}
    assert set(records[0]) == set(records[1]) == RECORD
    assert [record["finished"] for record in records] == [False, True]
    assert records[0]["started"] == records[1]["started"] and 0 < records[0]["hours"] < records[1]["hours"] < 1
    assert "--ckpt_path last" in records[1]["command"] and records[1]["processes"] == 1
    assert records[1]["hardware"].startswith("CPU, ") and 0.01 < records[1]["memory_gb"] < 64

    places = sorted((runs / "wandb").glob("offline-run-*"))
    (one, config, rows), (other, later, more) = (logged(path) for path in places)
    told = ("hardware", "processes", "started", "hours", "memory_gb")  # of the second start: those of both
    for path, record in zip(places, records, strict=True):
        found = {name: value for name, value in summary(path).items() if name.startswith("run.")}
        assert found == {f"run.{name}": record[name] for name in told}
    assert one == other == (folder / "wandb_id").read_text().strip()
    assert config["run.commit"] == records[0]["commit"] and config["run.command"] == records[0]["command"]
    assert config["model.network.embedding_dim"] == 16 and config["data.root"] == str(tiny)
    assert later["trainer.max_steps"] == steps + 2 and later["run.changed"] == records[1]["changed"]
    names = {"train/loss", "train/cluster", "val/t->va/R@10", "val/nmi", "clustering/objective"}
    names |= {"train/clips_per_second", "train/data_wait_share"}
    assert names <= {name for row in rows for name in row}
    assert [row["trainer/global_step"] >= steps for row in more if "train/loss" in row] == [True, True]
    with open(folder / "metrics.csv", newline="") as file:
        table = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert [int(row["step"]) for row in table] == list(range(steps + 2))
    assert all(
        float(row["train/clips_per_second"]) > 0 and 0 <= float(row["train/data_wait_share"]) <= 1 for row in table
    )

    with WandbServer() as server:
        env |= {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        command = [sys.executable, "-m", "wandb", "sync", *(str(path) for path in reversed(places))]
        done = python(*command[1:], env=env)
    assert done.returncode == 0 and done.stderr.count("Finished syncing") == 2, done.stderr
    sent = [server.history[one][line] for line in sorted(server.history[one])]
    assert [row["trainer/global_step"] for row in sent] == [row["trainer/global_step"] for row in rows + more]
    assert server.summary[one]["run.hours"] == records[1]["hours"]


@pytest.mark.slow
def test_without_a_key_the_run_trains_on_offline_and_says_so(tiny, tmp_path):
    overlay = write_overlay(tmp_path / "tiny.yaml", tiny, tmp_path / "runs")
    env = environment(tmp_path, WANDB_MODE="online", WANDB_BASE_URL="http://127.0.0.1:9")
    terminal, end = pty.openpty()  # in which wandb would ask for the key
    process = start("--config", overlay, "--config", LAYER, env=env, stdin=end, stdout=end, stderr=end)
    os.close(end)
    shown = b""
    try:
        while part := os.read(terminal, 4096):
            shown += part
    except OSError:  # the other end is closed
        pass
    assert process.wait(timeout=LIMIT) == 0
    told = [line for line in shown.decode().splitlines() if "no API key was found" in line]
    assert len(told) == 1 and "goes on offline" in told[0] and "wandb sync" in told[0]
    assert list((tmp_path / "runs" / "wandb").glob("offline-run-*"))
    assert json.loads((tmp_path / "runs" / "run" / "version_0" / "run.json").read_text())["finished"]
