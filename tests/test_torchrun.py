"""Processes that torchrun starts train as those that Lightning starts, and go on after SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from forked import Popen
from processes import LIMIT, python, until
from runs.resuming import assert_same_run, logged, losses, saved, words

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv_backend", "c10d",
            "--rdzv_endpoint", "localhost:0"]  # fmt: skip
HELD = """
import time
from mcn_lightning.commands.main import main
from mcn_lightning.runs.resume import Resume

def hold(self, trainer, pl_module, batch, batch_idx):
    while trainer.global_step == 4 and not self._received:
        time.sleep(0.05)

Resume.on_train_batch_start = hold
if __name__ == "__main__":
    main()
"""
"""The command, each process of which waits in its fifth step until it gets a signal."""
TWO = ("--trainer.devices", 2, "--data.batch_size", "null", "--data.global_batch_size", 2, "--data.num_workers", 1,
       "--trainer.limit_val_batches", 0, "--trainer.max_epochs", 4, "--resume.every_n_steps", 3)  # fmt: skip


@pytest.mark.slow
def test_torchrun_goes_on_and_equals_two_devices(tiny, tmp_path):
    done = python("-m", "mcn_lightning", *words(tmp_path, tiny, "whole", *TWO))
    assert done.returncode == 0, done.stderr[-3000:]

    (tmp_path / "held.py").write_text(HELD)
    arguments = words(tmp_path, tiny, "run", *TWO, "--ckpt_path", "last")
    command = [*TORCHRUN, tmp_path / "held.py", *arguments]
    first = Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    newest = tmp_path / "run" / "version_0" / "checkpoints" / "last.ckpt"
    try:
        until(lambda: newest.is_file() or first.poll() is not None, "the first epoch")
        os.kill(first.pid, signal.SIGTERM)
        told = first.communicate(timeout=LIMIT)[0]
    finally:
        first.kill()
    assert first.returncode != 0 and "stopped by SIGTERM after step" in told, told[-3000:]
    done = python(*TORCHRUN[1:], "-m", "mcn_lightning", *arguments)
    assert done.returncode == 0 and "--ckpt_path last: goes on from" in done.stdout, done.stderr[-3000:]

    assert_same_run(saved(tmp_path, "whole"), saved(tmp_path, "run"))
    assert logged(tmp_path, "run") == logged(tmp_path, "whole") and len(losses(tmp_path, "run")) == 12
