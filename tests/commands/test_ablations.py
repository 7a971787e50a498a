"""Ablation files over seeds: what is planned, left out, stopped and gone on with; the files for clusters and sweeps."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from forked import Popen
from processes import LIMIT, python, wait_for

from mcn_lightning.commands.ablate import PastRuns, Runner, plan
from mcn_lightning.commands.fit import fit_options, main
from mcn_lightning.errors import InputError
from mcn_lightning.signals import STOP_SIGNALS, survive_job_signals

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "ablations"
DEMO = ROOT / "configs" / "demo.yaml"


@pytest.fixture
def words(tmp_path, tiny) -> list[str]:
    """Words that make any run tiny, for after ``--``."""
    options = {
        "data": {
            "root": str(tiny),
            "streams": [{"suffix": "_2d", "rate": 1.0, "width": 8}, {"suffix": "_3d", "rate": 1.5, "width": 8}],
            "text": {"dim": 8}, "audio": {"num_frames": 96}, "clips": {"n_pair": 4},
            "synthetic": None, "batch_size": 4, "eval_batch_size": 2, "num_workers": 0,
        },
        "model": {"network": {"embedding_dim": 16, "audio_widths": [4, 4, 4, 8]},
                  "clustering": {"num_clusters": 4, "queue_rows": 16}},
        "trainer": {"max_epochs": 2, "limit_val_batches": 0, "enable_progress_bar": False,
                    "logger": {"init_args": {"save_dir": str(tmp_path / "runs")}}},
    }  # fmt: skip
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(options))
    return ["--config", str(tmp_path / "tiny.yaml")]


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "ablations").mkdir()
    for name, text in {
        "weight": "model: {loss: {cluster_weight: 0.5}}",
        "lr": "model: {optimizer: {lr: 0.001}}",
    }.items():
        (tmp_path / "ablations" / f"{name}.yaml").write_text(text)
    return tmp_path / "ablations"


def ablate(folder, *own, base=DEMO, more=()):
    main(["ablate", "--base", str(base), "--folder", str(folder), *map(str, own), "--", *map(str, more)])


def test_files_of_other_recipes_are_left_out(capsys):
    tasks = plan(DEMO, FOLDER, [0, 7], [], ["--trainer.max_epochs", "2"])
    names = {task.file.stem for task in tasks}
    assert len(tasks) == 2 * len(names) and {"mms", "clusters_64"} <= names
    assert not any(name.startswith(("grid_", "flickr_")) for name in names)
    grid = {task.file.stem for task in plan(ROOT / "configs" / "grid.yaml", FOLDER, [0], [], [])}
    assert grid == names | {"grid_released"}
    ablate(FOLDER, "--seeds", "[0, 7]", "--list", more=["--trainer.max_epochs", 2])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(tasks)
    assert lines[1] == (
        f"1: python -m mcn_lightning fit --config {DEMO} --config {FOLDER / 'clustering_joint.yaml'} "
        "--seed_everything 7 --trainer.max_epochs 2 --trainer.logger.init_args.name clustering_joint --ckpt_path last"
    )


def test_what_cannot_be_run_is_told_in_one_line(folder, tmp_path):
    for own, part in (
        (("--only", 2), "--only: expected a number from 0 to 1, found 2; see --list"),
        (("--files", "[other]"), "--files: expected some of lr, weight, found other"),
        (("--seeds", "[1, 1]"), "--seeds: expected different numbers, found [1, 1]"),
        (("--seeds", "x"), "--seeds: Expected a"),
        (("--folder", tmp_path), f"expected ablation files for {DEMO} in {tmp_path}, found none"),
        (("--base", "gone.yaml"), "--base gone.yaml: expected a file or a recipe, found neither"),
    ):
        with pytest.raises(SystemExit) as stop:
            ablate(folder, *own)
        text = str(stop.value.code)
        assert text.startswith("error: ") and part in text and "\n" not in text


@pytest.mark.slow
def test_runs_go_one_after_another_and_finished_ones_are_left_out(folder, tmp_path, words, capsys, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", Popen)
    (folder / "absent.yaml").write_text("data: {train_csv: absent.csv}")
    (folder / "misspelt.yaml").write_text("model: {optimiser: {lr: 1}}")
    with pytest.raises(SystemExit) as stop:
        ablate(folder, more=words)
    shown = capsys.readouterr()
    runs = tmp_path / "runs"
    assert stop.value.code == 1
    assert re.search(r"failed: misspelt, seed 0: .*misspelt.yaml: .*optimiser", shown.err)
    assert re.search(r"failed: absent, seed 0, exit status 1 \(error: --data.train_csv.*\); all of it in ", shown.err)
    assert shown.err.splitlines()[-1] == "failed: misspelt, seed 0; absent, seed 0"
    assert "[1/3] absent, seed 0\n[2/3] lr, seed 0; about " in shown.out and "2 of 3 runs done in " in shown.out
    assert "--seed_everything 0" in (runs / "lr" / "seed_0.log").read_text()
    saved = yaml.safe_load((runs / "lr" / "version_0" / "config.yaml").read_text())
    assert saved["model"]["optimizer"]["lr"] == 0.001 and saved["trainer"]["logger"]["init_args"]["name"] == "lr"
    for bad in ("absent", "misspelt"):
        (folder / f"{bad}.yaml").unlink()
    ablate(folder, more=[*words, "--data.num_workers", 1])
    assert capsys.readouterr().out.splitlines() == [
        f"lr, seed 0: finished already in {runs}/lr/version_0, left out",
        f"weight, seed 0: finished already in {runs}/weight/version_0, left out",
        "nothing left to run",
    ]
    (task,) = plan(DEMO, folder, [0], ["lr"], words)
    longer, other = (
        plan(DEMO, folder, seeds, ["lr"], [*words, *more])[0]
        for seeds, more in (([0], ["--trainer.max_epochs", "3"]), ([1], []))
    )
    (runs / "lr" / "broken").mkdir()
    (runs / "lr" / "broken" / "config.yaml").write_text("trainer: [")  # as a full disk leaves it
    past = PastRuns(fit_options)
    assert past.finished(task) and past.can_resume(task)
    assert capsys.readouterr().err.count("lr/broken/config.yaml: expected the options of a run") == 1
    assert not past.finished(longer) and not past.can_resume(longer)  # its schedule is another one from the first step
    assert not past.finished(other) and past.can_resume(other)
    (runs / "lr" / "version_0" / "run.json").write_text('{"finished": false}')
    assert not PastRuns(fit_options).finished(task)


HELD = """
import os
import time
from pathlib import Path
from pytorch_lightning import Callback

class Hold(Callback):
    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 2:
            held = Path(__file__).with_name("held")
            held.with_suffix(".part").write_text(str(os.getpid()))
            held.with_suffix(".part").replace(held)
        while trainer.global_step == 2 and not Path(__file__).with_name("go").exists():
            time.sleep(0.05)
"""
"""A callback that waits in the third step until a file is there, and says with another who it is."""


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_the_same_command(folder, tmp_path, words):
    command = [sys.executable, "-m", "mcn_lightning", "ablate", "--base", str(DEMO), "--folder", str(folder), "--"]
    command += [*words, "--trainer.max_epochs", "5", "--trainer.callbacks", "held.Hold"]
    (tmp_path / "held.py").write_text(HELD)
    options = {"env": os.environ | {"PYTHONPATH": str(tmp_path)}, "text": True}
    process = Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    first = tmp_path / "runs" / "lr" / "version_0" / "checkpoints" / "last.ckpt"
    held = tmp_path / "held"
    wait_for(held.exists, process)
    for number in (process.pid, int(held.read_text())):  # all processes of the terminal, as Ctrl-C does
        os.kill(number, signal.SIGINT)
    (tmp_path / "go").touch()
    _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert said.strip() == "stopped by SIGINT in lr, seed 0; the same command goes on from here"
    assert not (tmp_path / "runs" / "weight").exists()
    newest = torch.load(first.with_name("newest.ckpt"), weights_only=True)["global_step"]
    assert 0 < newest <= 3
    done = python(*command[1:], env=options["env"])
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"step {newest}" in (tmp_path / "runs" / "lr" / "seed_0.log").read_text()
    for name in ("lr", "weight"):
        (saved,) = (tmp_path / "runs" / name).glob("version_*/checkpoints/last.ckpt")
        assert torch.load(saved, weights_only=True)["global_step"] == 5


class Nothing(PastRuns):
    """Nothing was run yet."""

    def finished(self, task):
        return None

    def can_resume(self, task):
        return True

    def place(self, task):
        return task.file.parent


def test_sigterm_is_handed_on(folder, monkeypatch):
    wait = [sys.executable, "-c", f"import os, signal; os.kill({os.getpid()}, signal.SIGTERM); signal.pause()"]
    tasks = plan(DEMO, folder, [0], [], [])
    monkeypatch.setattr(type(tasks[0]), "command", lambda task, last: wait)
    former = signal.getsignal(signal.SIGTERM)
    assert Runner(Nothing(fit_options)).run(tasks) == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is former


def test_no_run_begins_after_a_signal_that_came_before(folder, tmp_path, monkeypatch, capsys):
    class Signalled(Nothing):
        def finished(self, task):
            os.kill(os.getpid(), signal.SIGUSR1)

    tasks = plan(DEMO, folder, [0], [], [])
    monkeypatch.setattr(type(tasks[0]), "command", lambda task, last: ["touch", str(tmp_path / "begun")])
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    former = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        with survive_job_signals():
            assert Runner(Signalled(fit_options)).run(tasks) == 128 + signal.SIGUSR1
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    assert capsys.readouterr().err == "stopped by SIGUSR1 before lr, seed 0; the same command goes on from here\n"
    assert not (tmp_path / "begun").exists()


@pytest.mark.parametrize(
    ("status", "known", "reason"),
    [
        (138, "JobState=COMPLETING PreemptTime=None", "SIGUSR1"),
        (143, "JobState=RUNNING PreemptEligibleTime=2026 PreemptTime=2026-11-24T20:29:07", "preemption"),
        (143, "JobState=RUNNING PreemptEligibleTime=2026 PreemptTime=None", None),
        (143, "JobState=COMPLETING PreemptEligibleTime=2026 PreemptTime=2026-11-24T20:29:07", None),
        (1, "JobState=RUNNING PreemptEligibleTime=2026 PreemptTime=2026-11-24T20:29:07", None),
    ],
)
def test_the_job_array_has_a_task_for_each_file_and_seed(status, known, reason, tmp_path):
    script = ROOT / "experiments" / "slurm" / "ablations.sbatch"
    control = f'case "$*" in *show*) echo "JobId=12 {known} Power=" ;; *) echo "$@" > requeued; exit 1 ;; esac'
    for name, text in {"srun": f'printf "%s\\n" "$@"; exit {status}', "scontrol": control}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {
        "SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_JOB_ID": "12", "SLURM_JOB_NODELIST": "n1",
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }  # fmt: skip
    done = subprocess.run(
        ["bash", str(script), "--data.root", "a b"],
        env=os.environ | slurm,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (status, "")
    first, _, *shown = done.stdout.splitlines()
    assert first == "job 12_5, start 1 on n1"
    said = [line for line in shown if line.startswith("job ")]
    if reason is None:
        assert not (tmp_path / "requeued").exists() and said == []
    else:
        assert (tmp_path / "requeued").read_text() == "requeue 12_5\n"
        assert said == [
            f"job 12_5: stopped by {reason}, goes back into the queue",
            "job 12_5: cannot be requeued; the same sbatch goes on from here",
        ]
    shown = shown[: len(shown) - len(said)]
    assert shown[:3] == ["-m", "mcn_lightning", "ablate"] and shown[-3:] == ["--", "--data.root", "a b"]
    assert shown[shown.index("--only") + 1] == "5" and shown[shown.index("--seeds") + 1] == "[0, 1, 2]"


def test_the_batch_script_submits_a_task_for_each_file_and_seed(tmp_path):
    (tmp_path / "sbatch").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/given\n')
    (tmp_path / "sbatch").chmod(0o755)
    script = ROOT / "experiments" / "slurm" / "ablations.sbatch"
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": sys.executable, "SBATCH_OPTIONS": "--mem=1G --wait"}
    env = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")} | path
    done = subprocess.run(["bash", script, "--data.root", "a b"], env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count = len(plan(DEMO, FOLDER, [0, 1, 2], [], []))
    given = (tmp_path / "given").read_text().splitlines()
    assert given == ["--mem=1G", "--wait", f"--array=0-{count - 1}%8", str(script), "--data.root", "a b"]
    done = subprocess.run(["bash", script], env=env | {"SLURM_JOB_ID": "1"}, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: sbatch: expected --array, found none; bash ")
    done = subprocess.run(["bash", script], env=env | {"BASE": "gone"}, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "error: --base gone: expected a file or a recipe" in done.stderr


def test_the_sweep_has_the_files_of_its_base(capsys):
    ablate(FOLDER, "--seeds", "[0, 1, 2]", "--sweep", more=["--data.root", "DATA"])
    sweep = yaml.safe_load(capsys.readouterr().out)
    files = list(dict.fromkeys(task.file.stem for task in plan(DEMO, FOLDER, [0], [], [])))
    assert sweep["parameters"]["files"]["values"] == [f"[{name}]" for name in files]
    assert sweep["parameters"]["seeds"]["values"] == [f"[{seed}]" for seed in (0, 1, 2)]
    assert f"--base={DEMO}" in sweep["command"] and sweep["command"][-2:] == ["--data.root", "DATA"]


def test_options_are_refused_with_the_name_of_the_file(folder):
    (folder / "misspelt.yaml").write_text("model: {optimiser: {lr: 1}}")
    (task,) = plan(DEMO, folder, [0], ["misspelt"], [])
    with pytest.raises(InputError, match=r"misspelt.yaml: .*optimiser"):
        PastRuns(fit_options).finished(task)
