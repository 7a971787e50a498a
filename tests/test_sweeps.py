"""The sweep files: every value is one that the command takes, and real agents run them against a stand-in server."""

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml
from commands import environment, wait_for, write_overlay
from test_cli import EXPERIMENTS, refusal
from wandb_server import KEY, WandbServer

from mcn_lightning.cli import MCNCLI, main

ROOT = EXPERIMENTS.parent
SWEEPS = sorted((EXPERIMENTS / "sweeps").glob("*.yaml"))


def values_of(parameter: dict) -> list:
    """Return every value of a parameter of a sweep, of a range both ends."""
    if "values" in parameter:
        return parameter["values"]
    return [parameter["value"]] if "value" in parameter else [parameter["min"], parameter["max"]]


def words_of(sweep: dict, options: dict) -> list[str]:
    """Return the words that an agent gives to the command."""
    words = sweep["command"]
    assert words[:4] == ["${env}", "${interpreter}", "-m", "mcn_lightning"] and words[-1] == "${args}"
    return [*words[4:-1], *(f"--{name}={value}" for name, value in options.items())]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_the_command_takes_every_value_of_a_sweep(path, monkeypatch):
    sweep = yaml.safe_load(path.read_text())
    assert sweep["metric"] == {"name": "val/t->va/R@10", "goal": "maximize"}
    choices = {name: values_of(parameter) for name, parameter in sweep["parameters"].items()}
    first = {name: values[0] for name, values in choices.items()}
    trials = [first | {name: value} for name, values in choices.items() for value in values]
    ends = [dict.fromkeys(choices) | dict(zip(choices, found, strict=True)) for found in itertools.product(
        *((values[0], values[-1]) for values in choices.values()))]  # fmt: skip
    monkeypatch.chdir(ROOT)
    found = []
    for options in [*trials, *ends]:
        # all parts are built, and check their options; no run begins
        with patch.object(MCNCLI, "_run_subcommand", lambda cli, command: found.append(cli.config[command])):
            main(words_of(sweep, options))
        for name, value in options.items():
            if name == "config":  # one more file beside those of the command
                assert str(found[-1][name][-1]).endswith(value)
                continue
            assert found[-1][name] == pytest.approx(value) if isinstance(value, float) else found[-1][name] == value
    assert all(config["trainer.logger.class_path"].endswith("WandbLogger") for config in found)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_sweep_key_that_does_not_exist_is_refused_in_one_line(path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep = yaml.safe_load(path.read_text())
    message = refusal(capsys, *words_of(sweep, {"model.loss.cluster_wieght": 0.5}))
    told = [line for line in message.splitlines() if line]
    assert len(told) == 1 and told[0].startswith("error: ") and "cluster_wieght" in told[0]


def wandb(*words: object, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "wandb", *(str(word) for word in words)]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options
    )  # fmt: skip


def children(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return [int(number) for task in tasks for number in task.read_text().split()]


def run_process(agent: int) -> int:
    """Return the process of the run that an agent has started."""
    (found,) = [child for child in children(agent) if b"mcn_lightning" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return found


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs Linux's /proc to find the run's process")
def test_an_agent_runs_a_sweep_past_a_run_that_is_killed_and_one_that_is_refused(tiny, tmp_path):
    sweep = yaml.safe_load((EXPERIMENTS / "sweeps" / "learning_rate_and_batch.yaml").read_text())
    runs = tmp_path / "runs" / "run"
    overlay = write_overlay(tmp_path / "tiny.yaml", tiny, tmp_path / "runs")
    sweep["command"].insert(-1, f"--config={overlay}")
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    options = {"model.optimizer.lr": 0.001, "data.batch_size": 4}
    trials = {
        "first111": options,
        "killed22": options | {"trainer.max_steps": 1_000_000},
        "refused3": options | {"model.loss.cluster_wieght": 0.5},
        "second44": options | {"model.optimizer.lr": 0.01, "retrieval.calibrate": 0.0},
    }
    with WandbServer(trials) as server:
        places = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "WANDB_DIR": str(tmp_path / "agent")}
        env = environment(tmp_path, WANDB_MODE="offline", **places)
        (tmp_path / "agent").mkdir()
        made = wandb("sweep", "--project", "mcn", tmp_path / "sweep.yaml", env=env)
        said, _ = made.communicate(timeout=120)
        assert made.returncode == 0 and "wandb agent someone/mcn/sweep1" in said
        given = yaml.safe_load(server.sweep)
        assert given["parameters"].keys() == sweep["parameters"].keys() and given["command"] == sweep["command"]
        agent = wandb("agent", "someone/mcn/sweep1", env=env)
        wait_for((runs / "version_killed22" / "run.json").exists, agent)
        os.kill(run_process(agent.pid), signal.SIGKILL)
        said, _ = agent.communicate(timeout=240)
    assert agent.returncode == 0, said
    assert server.started == list(trials)
    assert all(f"Cleaning up finished run: {run}" in said for run in trials)
    finished = {path.parent.name: json.loads(path.read_text())["finished"] for path in runs.glob("*/run.json")}
    assert finished == {"version_first111": True, "version_killed22": False, "version_second44": True}
    assert said.count("error: ") == 1 and "cluster_wieght" in said
    config = yaml.safe_load((runs / "version_second44" / "config.yaml").read_text())
    assert config["model"]["optimizer"]["lr"] == 0.01 and config["data"]["batch_size"] == 4
    assert (runs / "version_second44" / "wandb_id").read_text().strip() == "second44"
    assert len(list((tmp_path / "runs" / "wandb").glob("offline-run-*"))) == 3
