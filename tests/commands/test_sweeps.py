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
from forked import Popen
from launch import EXPERIMENTS, environment, refusal
from processes import LIMIT, python, wait_for
from wandb_files import display_name, exit_status, logged
from wandb_server import KEY, WandbServer, values_of

from mcn_lightning.commands.ablate import Runner
from mcn_lightning.commands.fit import MCNCLI, fit_options, main
from mcn_lightning.commands.results.wandb_runs import OF_ABLATE

ROOT = EXPERIMENTS.parent
SWEEPS = sorted((EXPERIMENTS / "sweeps").glob("*.yaml"))
ABLATE = [
    "ablate",
    "--base",
    "configs/demo.yaml",
    "--folder",
    "experiments/ablations",
    "--seeds",
    "[0, 1, 2]",
    "--sweep",
]


def words_of(sweep: dict, options: dict) -> list[str]:
    """Return the words that an agent gives to the command."""
    words = sweep["command"]
    place = words.index("${args}")
    assert words[:4] == ["${env}", "${interpreter}", "-m", "mcn_lightning"]
    return [*words[4:place], *(f"--{name}={value}" for name, value in options.items()), *words[place + 1 :]]


@pytest.mark.parametrize("path", [*SWEEPS, None], ids=lambda path: path.stem if path else "ablations")
def test_the_command_takes_every_value_of_a_sweep(path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    if path is None:
        main(ABLATE)
    sweep = yaml.safe_load(path.read_text() if path else capsys.readouterr().out)
    assert sweep["metric"] == {"name": "val/t->va/R@10", "goal": "maximize"}
    choices = {name: values_of(parameter) for name, parameter in sweep["parameters"].items()}
    first = {name: values[0] for name, values in choices.items()}
    trials = [first | {name: value} for name, values in choices.items() for value in values]
    ends = [dict.fromkeys(choices) | dict(zip(choices, found, strict=True)) for found in itertools.product(
        *((values[0], values[-1]) for values in choices.values()))]  # fmt: skip
    every = [one for number, one in enumerate([*trials, *ends]) if one not in [*trials, *ends][:number]]
    found = []
    if sweep["command"][4] == "ablate":  # what runs it starts, and their options
        tasks = []
        with patch.object(Runner, "run", lambda runner, some: tasks.extend(some)):
            for options in every:
                main(words_of(sweep, options))
        assert [([task.file.stem], [task.seed]) for task in tasks] == [
            (yaml.safe_load(options["files"]), yaml.safe_load(options["seeds"])) for options in every
        ]
        found = [fit_options(task.args) for task in tasks]
        assert [one["trainer"]["logger"]["init_args"]["name"] for one in found] == [task.file.stem for task in tasks]
        assert [one["seed_everything"] for one in found] == [task.seed for task in tasks]
        assert all(one["trainer"]["logger"]["class_path"].endswith("WandbLogger") for one in found)
        return
    for options in every:
        # all parts are built, and check their options; no run begins
        with patch.object(MCNCLI, "_run_subcommand", lambda cli, command: found.append(cli.config[command])):
            main(words_of(sweep, options))
        for name, value in options.items():
            assert found[-1][name] == pytest.approx(value) if isinstance(value, float) else found[-1][name] == value
    assert all(config["trainer.logger.class_path"].endswith("WandbLogger") for config in found)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_sweep_key_that_does_not_exist_is_refused_in_one_line(path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep = yaml.safe_load(path.read_text())
    message = refusal(capsys, *words_of(sweep, {"model.loss.cluster_wieght": 0.5}))
    told = [line for line in message.splitlines() if line]
    assert len(told) == 1 and told[0].startswith("error: ") and "cluster_wieght" in told[0]


AGENT = """
import os
from pathlib import Path
from wandb import wandb_agent
from wandb.cli.cli import cli

class Process(wandb_agent.AgentProcess):
    def __init__(self, **given):
        super().__init__(**given)
        Path("part").write_text(str(self._popen.pid))
        os.replace("part", given["env"]["WANDB_RUN_ID"] + ".pid")

wandb_agent.AgentProcess = Process
wandb_agent.Agent.POLL_INTERVAL = 1
cli()
"""
"""The command of wandb. Its agents look every second how their run is, and say in a file which process it is."""


HELD = """
import os
import time
from pathlib import Path
from pytorch_lightning import Callback
from mcn_lightning.runs.resume import Resume

class Hold(Callback):
    def on_train_batch_start(self, trainer, *_):
        run = os.environ["WANDB_RUN_ID"]
        if trainer.global_step == 1 and run in ("killed22", "stopped3"):
            (resume,) = (each for each in trainer.callbacks if isinstance(each, Resume))
            Path(run + ".held").touch()
            while not resume._received:
                time.sleep(0.05)
"""
"""A callback that waits in the second step of a run to be stopped for a signal, and says with a file that it does."""


def wandb(*words: object, **options) -> Popen:
    """Start wandb's command."""
    command = [sys.executable, "-c", AGENT, *(str(word) for word in words)]
    return Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)


@pytest.fixture
def place(tmp_path) -> Path:
    """A folder as the top of a checkout, in which the demo is a tiny one."""
    demo = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())
    data, network = demo["data"], demo["model"]["network"]
    data |= {"streams": [stream | {"width": 8} for stream in data["streams"]], "eval_batch_size": 2, "num_workers": 0}
    data |= {"text": data["text"] | {"dim": 8}, "audio": {"num_frames": 96}, "clips": {"n_pair": 2}}
    data["synthetic"] = {"videos": 64, "held_out": 2, "topics": 3, "seconds": 12, "widths": [8, 8], "word_dim": 8}
    network |= {"embedding_dim": 16, "audio_widths": [4, 4, 4, 8]}
    demo["trainer"] |= {"max_epochs": 2, "check_val_every_n_epoch": 2, "enable_progress_bar": False}
    demo["trainer"]["callbacks"] = [{"class_path": "held.Hold"}]
    (tmp_path / "held.py").write_text(HELD)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.yaml").write_text(yaml.safe_dump(demo))
    (tmp_path / "configs" / "trainer").symlink_to(ROOT / "configs" / "trainer")
    (tmp_path / "experiments").symlink_to(EXPERIMENTS)
    return tmp_path


def start_agent(place: Path, server: WandbServer, name: str, *words: object) -> Popen:
    """Register a sweep file as it is, and start an agent for it."""
    env = environment(place, WANDB_MODE="offline", WANDB_BASE_URL=server.url, WANDB_API_KEY=KEY)
    path = EXPERIMENTS / "sweeps" / f"{name}.yaml"
    if name == "ablations":
        path = place / "sweep.yaml"
        path.write_text(python("-m", "mcn_lightning", *ABLATE, cwd=place).stdout)
    made = wandb("sweep", "--project", "mcn", path, cwd=place, env=env)
    said, _ = made.communicate(timeout=LIMIT)
    assert made.returncode == 0 and "wandb agent someone/mcn/sweep1" in said
    assert yaml.safe_load(server.sweep).items() >= yaml.safe_load(path.read_text()).items()
    return wandb("agent", *words, "someone/mcn/sweep1", cwd=place, env=env)


def stop(place: Path, run: str, number: int, agent: Popen) -> None:
    """Send a signal, in its second step, to the process that an agent has started for a run."""
    wait_for((place / f"{run}.held").exists, agent)
    os.kill(int((place / f"{run}.pid").read_text()), number)


def wandb_folders(place: Path) -> dict[str, Path]:
    """Return wandb's folder of each run by its id."""
    return {path.name.rsplit("-", 1)[1]: path for path in (place / "runs" / "wandb").glob("offline-run-*")}


def finished(folder: Path) -> dict[str, bool]:
    """Return of the runs in a folder whether they went on to their end."""
    return {path.parent.name: json.loads(path.read_text())["finished"] for path in folder.glob("*/run.json")}


@pytest.mark.slow
def test_an_agent_runs_a_sweep_past_a_run_that_is_killed_and_one_that_is_refused(place):
    runs = place / "runs" / "demo"
    refused = {"model.loss.cluster_wieght": 0.5}
    with WandbServer({"first111": {}, "killed22": {}, "refused3": refused, "second44": {}}) as server:
        agent = start_agent(place, server, "learning_rate_and_batch")
        stop(place, "killed22", signal.SIGKILL, agent)
        said, _ = agent.communicate(timeout=LIMIT)
    assert agent.returncode == 0, said
    assert server.started == ["first111", "killed22", "refused3", "second44"] and not server.waiting
    assert all(f"Cleaning up finished run: {run}" in said for run in server.started)
    assert finished(runs) == {"version_first111": True, "version_killed22": False, "version_second44": True}
    statuses = {run: exit_status(path) for run, path in wandb_folders(place).items()}
    assert statuses == {"first111": 0, "killed22": None, "second44": 0}
    assert said.count("error: ") == 1 and "cluster_wieght" in said
    for run, rate, batch in (("first111", 1e-4, 8), ("second44", 1e-2, 64)):
        config = yaml.safe_load((runs / f"version_{run}" / "config.yaml").read_text())
        assert config["model"]["optimizer"]["lr"] == rate and config["data"]["batch_size"] == batch
        assert (runs / f"version_{run}" / "wandb_id").read_text().strip() == run


@pytest.mark.slow
def test_an_agent_runs_ablations_once_each_and_hands_a_signal_on_to_the_run(place):
    runs = place / "runs"
    first, other = ({"files": f"[{file}]", "seeds": f"[{seed}]"} for file, seed in (("mms", 1), ("text_video", 2)))
    with WandbServer({"first111": first, "again222": first, "stopped3": other}) as server:
        agent = start_agent(place, server, "ablations", "--max-consecutive-failed-runs", 1)
        stop(place, "stopped3", signal.SIGTERM, agent)
        said, _ = agent.communicate(timeout=LIMIT)
    assert agent.returncode == 0 and server.started == ["first111", "again222", "stopped3"] and not server.waiting
    assert "mms, seed 1: finished already in runs/mms/version_first111, left out\nnothing left to run\n" in said
    assert "stopped by SIGTERM in text_video, seed 2; the same command goes on from here" in said
    assert said.count("Cleaning up finished run") == 2  # ablate ends as the run did, and the agent was to stop then:
    assert "Detected 1 consecutive failed runs, shutting down." in said
    assert finished(runs / "mms") == {"version_first111": True}
    assert finished(runs / "text_video") == {"version_stopped3": False}
    assert (runs / "text_video" / "version_stopped3" / "checkpoints" / "newest.ckpt").is_file()
    folders = wandb_folders(place)
    assert {run: exit_status(path) for run, path in folders.items()} == {"first111": 0, "stopped3": 143}
    for run, file, seed in (("first111", "mms", 1), ("stopped3", "text_video", 2)):
        found, config, _ = logged(folders[run])
        assert found == run == (runs / file / f"version_{run}" / "wandb_id").read_text().strip()
        assert display_name(folders[run]) == config["trainer.logger.init_args.name"] == file
        assert config["seed_everything"] == seed
        assert {name: config[name] for name in OF_ABLATE} == {"files": f"[{file}]", "seeds": f"[{seed}]"}
