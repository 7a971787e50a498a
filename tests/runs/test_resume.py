"""Nothing lost: kills, signals, random states, which checkpoint is taken, numbers that are not finite."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from processes import python
from processes import run as run_processes

from mcn_lightning.batch import ClipBatch
from mcn_lightning.data.datamodule import NarratedVideos
from mcn_lightning.distributed import rank
from mcn_lightning.errors import InputError
from mcn_lightning.losses import FiniteWatch, NotFiniteError, check_state
from mcn_lightning.module import MCNModule
from mcn_lightning.runs.checkpoints import AtomicCheckpointIO
from mcn_lightning.runs.resume import Resume, random_states, set_random_states
from mcn_lightning.training.checks import check_sizes
from runs.resuming import assert_same_run, fit, logged, losses, saved, words

KILL = """
import os

def stop(source, target):
    if str(target).endswith(".ckpt"):
        saves.append(target)
        if len(saves) == at:
            os.kill(os.getpid(), number)
    replace(source, target)

if __name__ == "__main__":  # every worker imports this file again
    at, number, replace, saves = int(os.environ["KILL_AT"]), int(os.environ["KILL_BY"]), os.replace, []
    os.replace = stop
    from mcn_lightning.commands.fit import main
    main()
"""


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory) -> Path:
    """Where a run that nobody stopped is."""
    folder = tmp_path_factory.mktemp("whole")
    fit(folder, tiny, "whole")
    return folder


def killed(folder: Path, root: Path, name: str, save: int, number: int, *more: object) -> subprocess.CompletedProcess:
    """Run the command and send a signal to its first process just before a checkpoint takes its name."""
    script = folder / "kill.py"
    script.write_text(KILL)
    wish = os.environ | {"KILL_AT": str(save), "KILL_BY": str(int(number))}
    return python(script, *words(folder, root, name, *more), env=wish)


def test_a_run_killed_while_it_writes_goes_on_bit_for_bit(whole, tiny, tmp_path, capsys):
    assert killed(tmp_path, tiny, "run", 3, signal.SIGKILL).returncode == -signal.SIGKILL  # in step 4 of 9: epoch 2
    folder = tmp_path / "run" / "version_0" / "checkpoints"
    assert {path.name for path in folder.iterdir()} >= {"newest.ckpt"} and list(folder.glob("*.partial"))
    fit(tmp_path, tiny, "run", "--ckpt_path", "last")
    assert f"goes on from {folder}" in capsys.readouterr().out
    assert_same_run(saved(whole, "whole"), saved(tmp_path, "run"))
    assert logged(tmp_path, "run") == logged(whole, "whole") and len(losses(tmp_path, "run")) == 9
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["version_0"]


def sends(number: int, at: int):
    """Return a hook that sends this process a signal at the beginning of a step."""

    def hook(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == at:
            os.kill(os.getpid(), number)

    return hook


def test_a_signal_in_the_last_step_lets_the_run_end(whole, tiny, tmp_path, capsys):
    with patch.object(Resume, "on_train_batch_start", sends(signal.SIGTERM, 8)):
        fit(tmp_path, tiny, "run", "--resume.every_n_steps", 0)
    expected, found = saved(whole, "whole"), saved(tmp_path, "run")
    expected["loops"] = found["loops"]  # where in the last epoch each was written last is all that differs
    assert_same_run(expected, found)
    assert json.loads((tmp_path / "run" / "version_0" / "run.json").read_text())["finished"] is True
    assert losses(tmp_path, "run") == losses(whole, "whole")


@pytest.mark.parametrize(("number", "at"), [(signal.SIGTERM, 4), (signal.SIGUSR1, 2), (signal.SIGINT, 7)])
def test_a_signal_saves_and_ends_the_run(number, at, whole, tiny, tmp_path, capsys):
    before, quiet = signal.getsignal(number), ("--resume.every_n_steps", 0)

    with patch.object(Resume, "on_train_batch_start", sends(number, at)), pytest.raises(SystemExit) as stop:
        fit(tmp_path, tiny, "run", *quiet)
    assert stop.value.code == 128 + number and signal.getsignal(number) == before
    assert f"stopped by {number.name} after step {at + 1}" in capsys.readouterr().err
    assert saved(tmp_path, "run", file="newest")["global_step"] == at + 1
    fit(tmp_path, tiny, "run", *quiet, "--ckpt_path", "last")
    assert_same_run(saved(whole, "whole"), saved(tmp_path, "run"))
    assert logged(tmp_path, "run") == logged(whole, "whole")  # the step before the end was logged too


@pytest.mark.parametrize("hook", ["_save", "on_validation_start", "on_train_epoch_end"])
def test_saved_after_the_last_step_of_an_epoch(hook, whole, tiny, tmp_path):
    """What SIGTERM leaves when the evaluation that follows takes too long; at the latest it is logged already."""
    quiet, before = ("--resume.every_n_steps", 0, "--data.num_workers", 0), getattr(Resume, hook)

    def die(self, trainer, *given):
        if hook == "_save" or not self._received:
            before(self, trainer, *given)
        if self._received:
            raise KeyError("killed")

    with (
        patch.object(Resume, "on_train_batch_start", sends(signal.SIGTERM, 2)),
        patch.object(Resume, hook, die),
        pytest.raises(KeyError),
    ):
        fit(tmp_path, tiny, "run", *quiet)
    assert saved(tmp_path, "run", file="newest")["loops"]["fit_loop"]["epoch_progress"]["total"]["processed"] == 0
    fit(tmp_path, tiny, "run", *quiet, "--ckpt_path", "last")
    assert_same_run(saved(whole, "whole"), saved(tmp_path, "run"))
    assert logged(tmp_path, "run") == logged(whole, "whole")


def test_last_is_the_checkpoint_with_most_steps_of_a_run_with_these_options(tiny, tmp_path, capsys):
    quick = ("--data.num_workers", 0, "--trainer.limit_val_batches", 0, "--ckpt_path", "last")
    fit(tmp_path, tiny, "run", *quick, "--trainer.max_steps", 2)
    assert "the run starts from the beginning" in capsys.readouterr().out
    fit(tmp_path, tiny, "run", *quick, "--trainer.max_steps", 1, "--seed_everything", 1)
    told = capsys.readouterr().out
    assert (
        "version_0 was run with other ones: seed_everything: 0 there, 1 here" in told and "from the beginning" in told
    )
    fit(tmp_path, tiny, "run", *quick, "--trainer.max_steps", 3)
    told = capsys.readouterr().out
    assert "version_0" in told and "step 2" in told and saved(tmp_path, "run")["global_step"] == 3
    folder = tmp_path / "run" / "version_0" / "checkpoints"
    (folder / "newer.ckpt").write_bytes((folder / "last.ckpt").read_bytes()[:500])
    fit(tmp_path, tiny, "run", *quick, "--trainer.max_steps", 4)
    told = capsys.readouterr()
    assert "newer.ckpt is no whole checkpoint" in told.err and "version_0" in told.out and "step 3" in told.out


def test_a_failed_write_leaves_the_former_checkpoint(tmp_path):
    files, path = AtomicCheckpointIO(), tmp_path / "a.ckpt"
    files.save_checkpoint({"step": 1}, path)
    with pytest.raises(AttributeError):
        files.save_checkpoint({"step": lambda: 2}, path)  # cannot be written
    assert torch.load(path) == {"step": 1} and list(tmp_path.iterdir()) == [path]
    (tmp_path / "b.ckpt.partial").write_bytes(b"what a kill left")
    files.save_checkpoint({"step": 3}, path)
    assert torch.load(path) == {"step": 3} and list(tmp_path.iterdir()) == [path]


def test_random_states_are_plain_and_whole(tmp_path):
    import random

    import numpy as np

    def draw() -> list[float]:
        return [torch.rand(()).item(), np.random.normal(), random.gauss(0, 1)]

    draw()  # the second half of a pair of normal numbers is state too
    torch.save(random_states(), tmp_path / "states")
    first = draw()
    set_random_states(torch.load(tmp_path / "states", weights_only=True))
    assert draw() == first


def test_another_number_of_processes_is_said(tiny, tmp_path, caplog):
    quick = ("--data.num_workers", 0, "--trainer.limit_val_batches", 0)
    fit(tmp_path, tiny, "run", *quick, "--trainer.max_steps", 2)
    path = tmp_path / "run" / "version_0" / "checkpoints" / "newest.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    torch.save(checkpoint | {"random_states": checkpoint["random_states"] * 2}, path)
    with caplog.at_level("INFO"):
        fit(tmp_path, tiny, "run", *quick, "--trainer.max_steps", 3, "--ckpt_path", path)
    assert sum("random states of 2 process(es)" in text for text in caplog.messages) == 1


def test_a_loss_that_is_not_finite_ends_the_run(tiny, tmp_path):
    terms = MCNModule._loss_terms

    def spoil(self, *given):
        found = terms(self, *given)
        return found | {"cluster": found["contrastive"] * float("inf")} if self.trainer.global_step == 4 else found

    with patch.object(MCNModule, "_loss_terms", spoil), pytest.raises(SystemExit) as stop:
        fit(tmp_path, tiny, "run", "--data.num_workers", 0)
    message = str(stop.value.code)
    assert "step 4: cluster is inf" in message and "\n" not in message
    assert "videos of the batch: synthetic_0000" in message and "more" not in message.split(";")[1]
    folder = tmp_path / "run" / "version_0" / "checkpoints"
    for path in folder.glob("*.ckpt"):
        check_state(0, torch.load(path, weights_only=True)["state_dict"])
    assert saved(tmp_path, "run", file="newest")["global_step"] == 4


def test_features_that_are_not_finite_are_not_clustered(tiny, tmp_path):
    after = NarratedVideos.on_after_batch_transfer

    def spoil(self, batch, index):
        ready = after(self, batch, index)
        if self.trainer.training and self.trainer.global_step == 2:
            ready.video[0, 0] = float("nan")
        return ready

    with patch.object(NarratedVideos, "on_after_batch_transfer", spoil), pytest.raises(SystemExit) as stop:
        fit(tmp_path, tiny, "run", "--data.num_workers", 0)
    assert "step 2: clustered features is nan" in str(stop.value.code)


def test_the_watch_names_few_videos_and_looks_before_weights_are_kept():
    watch, bad = FiniteWatch(), torch.tensor(float("nan"))
    watch.watch(3, {"a": torch.ones(()), "b": bad}, [f"v{i}:{j}" for i in range(5) for j in range(2)])
    with pytest.raises(NotFiniteError, match=r"step 3: b is nan, .*: v0, v1, v2 and 2 more;"):
        watch.watch(4, {"a": torch.ones(())}, ["v0:0"])
    watch.check()  # told once
    with pytest.raises(NotFiniteError, match=r"after step 7: w and 1 more"):
        check_state(7, {"n": torch.zeros(2, dtype=torch.int64), "w": bad[None], "q": -bad, "good": torch.ones(3)})


def test_a_weight_of_another_shape_is_said_with_both():
    scalar, row = {"bias": torch.tensor(1.0)}, {"bias": torch.ones(3)}
    cases = (({}, scalar, "no such weight", "a scalar"), (row, scalar, r"\(3,\)", "a scalar"))
    for own, there, expected, found in (*cases, (row, {}, r"\(3,\)", "no such weight")):
        with pytest.raises(InputError, match=rf"^--ckpt_path: bias: expected {expected}, found {found} in the check"):
            check_sizes(own, there)
    check_sizes(scalar, {"bias": torch.tensor(2.0)})


TWO = ("--trainer.devices", 2, "--data.batch_size", 1)
"""Two processes, with two workers each."""


def in_two_processes(folder: Path, root: Path) -> dict[str, str]:
    """Train on two processes in several ways, and return what was said."""
    os.environ["LOCAL_RANK"] = str(rank())
    said = {}
    fit(folder, root, "whole", *TWO)

    # text has a loss only where there are centroids, which never come: no gradient reaches it
    unused = [f"--model.loss.contrastive.{pair}_weight=0" for pair in ("text_video", "audio_text")]
    quick = ("--trainer.max_steps", 3, "--data.num_workers", 0, "--trainer.limit_val_batches", 0)
    fit(folder, root, "unused", *TWO, *quick, *unused, "--model.network.reconstruction", "false")

    after = NarratedVideos.on_after_batch_transfer

    def lose(self, batch, index):
        step = self.trainer.global_step  # in the second step one process has no clips, in the third neither has
        gone = step == 2 or (step == 1 and rank() == 1)
        return ClipBatch(ids=()) if gone else after(self, batch, index)

    with patch.object(NarratedVideos, "on_after_batch_transfer", lose):
        fit(folder, root, "empty", *TWO, *quick)

    watch = FiniteWatch()
    watch.watch(5, {"loss": torch.tensor(float("inf") if rank() else 1.0)}, [f"video{rank()}:0"])
    try:
        watch.check()
    except NotFiniteError as error:
        said["watch"] = str(error)
    return said


@pytest.fixture(scope="module")
def two(tiny, tmp_path_factory) -> tuple[Path, list[dict[str, str]]]:
    folder = tmp_path_factory.mktemp("two")
    return folder, run_processes(in_two_processes, folder, tiny)


def test_two_processes_of_which_one_is_killed_go_on_bit_for_bit(two, tiny, tmp_path):
    folder, _ = two
    assert killed(tmp_path, tiny, "run", 3, signal.SIGKILL, *TWO).returncode == -signal.SIGKILL
    done = python("-m", "mcn_lightning", *words(tmp_path, tiny, "run", *TWO), "--ckpt_path", "last")
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"goes on from {tmp_path / 'run' / 'version_0' / 'checkpoints'}" in done.stdout
    one = saved(folder, "whole")
    assert_same_run(one, saved(tmp_path, "run"))
    states = [state["torch"] for state in one["random_states"]]
    assert len(states) == 2 and not torch.equal(*states)  # other units are dropped in each process
    assert logged(tmp_path, "run") == logged(folder, "whole") and len(losses(tmp_path, "run")) == 9


def test_weights_without_gradient_and_empty_batches_stop_no_process(two):
    folder, _ = two
    for name in ("unused", "empty"):
        assert [path.name for path in (folder / name).iterdir()] == ["version_0"]
        assert saved(folder, name)["global_step"] == 3
    moments = saved(folder, "empty")["optimizer_states"][0]["state"].values()
    assert {int(each["step"]) for each in moments} == {2}  # the step without any clips was none


def test_all_processes_tell_of_the_loss_that_one_found(two):
    _, said = two
    assert said[0]["watch"] == said[1]["watch"]
    assert "step 5: loss is inf" in said[0]["watch"] and "videos of the batch: video1;" in said[0]["watch"]


def test_the_command_on_two_processes_ends_with_its_status_and_one_message(tiny, tmp_path):
    few = ("--trainer.devices", 2, "--data.batch_size", 1, "--data.num_workers", 0, "--trainer.limit_val_batches", 0)
    done = killed(tmp_path, tiny, "run", 1, signal.SIGTERM, *few)
    assert done.returncode == 143, done.stderr[-2000:]
    told = [line for line in done.stderr.splitlines() if line.startswith("stopped by SIGTERM")]
    assert len(told) == 1
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["version_0"]
    assert saved(tmp_path, "run", file="newest")["global_step"] in (2, 3, 4)  # agreed one step later
