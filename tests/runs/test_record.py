import os
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest

from mcn_lightning.callbacks import Throughput, throughput
from mcn_lightning.runs.record import RunRecord, command_line, git_state


def git(folder, *words):
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(["git", "-C", str(folder), *who, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_commit_is_that_of_the_checkout_and_changes_are_seen(tmp_path):
    package = tmp_path / "src" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    assert git_state(package) == ("unknown", None)
    git(tmp_path, "init", "-q")
    assert git_state(package) == ("unknown", None)  # an environment that lies in the checkout of something else
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "a")
    commit = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "metrics.csv").write_text("")
    assert git_state(package) == (commit, False)
    (package / "__init__.py").write_text("a = 1\n")
    assert git_state(package) == (commit, True)


def test_without_git_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path) == ("unknown", None)


def test_the_command_can_be_typed_again(monkeypatch):
    words = ["fit", "--retrieval.directions", "[t->v, v->t]"]
    monkeypatch.setattr(sys, "argv", [os.path.join("src", "mcn_lightning", "__main__.py"), *words])
    assert command_line() == "python -m mcn_lightning fit --retrieval.directions '[t->v, v->t]'"
    monkeypatch.setattr(sys, "argv", [os.path.join("bin", "lightning"), *words])
    assert shlex.split(command_line()) == ["lightning", *words]


def test_throughput_is_clips_over_time_and_validation_does_not_count(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(throughput, "embedding_module", lambda module: module)  # this one embeds no clips
    found = []
    module = SimpleNamespace(step_clips=32, log_dict=lambda values, batch_size: found.append(values), device="cpu")
    connector = SimpleNamespace(should_update_logs=False)
    trainer, callback = SimpleNamespace(_logger_connector=connector), Throughput()

    def step(wait, work):
        now[0] += wait
        callback.on_train_batch_start(trainer, module, None, 0)
        now[0] += work
        callback.on_train_batch_end(trainer, module, None, None, 0)

    callback.on_train_start(trainer, module)
    now[0] = 100.0
    callback.on_train_epoch_start(trainer, module)
    step(2.0, 1.0)
    connector.should_update_logs = True
    step(0.0, 1.0)
    callback.on_validation_start(trainer, module)
    now[0] += 1000.0
    step(0.5, 2.0)
    callback.on_save_checkpoint(trainer, module, {})
    step(9.0, 1.0)
    step(1.0, 1.0)
    assert [values["train/clips_per_second"] for values in found] == pytest.approx([16.0, 16.0, 32.0, 16.0])
    assert [values["train/data_wait_share"] for values in found] == pytest.approx([0.5, 0.0, 0.0, 0.5])


def test_a_checkpoint_has_the_memory_of_all_parts_up_to_now():
    record = RunRecord()
    assert 0.01 < record.state_dict()["memory_gb"] < 64
    record.load_state_dict({"memory_gb": 99.0, "hours": 1.0, "started": "then"})
    assert record.state_dict() == {"memory_gb": 99.0, "hours": 1.0, "started": "then"}
