"""Processes that torchrun starts train as those that Lightning starts, and go on after SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from processes import LIMIT, until
from runs.test_resume import assert_same_run, losses, saved, words

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv_backend", "c10d",
            "--rdzv_endpoint", "localhost:0", "-m", "mcn_lightning"]  # fmt: skip
TWO = ("--trainer.devices", 2, "--data.batch_size", 1, "--data.num_workers", 1, "--trainer.limit_val_batches", 0,
       "--trainer.max_epochs", 12, "--resume.every_n_steps", 3)  # fmt: skip


@pytest.mark.slow
def test_torchrun_goes_on_and_equals_two_devices(tiny, tmp_path):
    command = [sys.executable, "-m", "mcn_lightning", *words(tmp_path, tiny, "whole", *TWO)]
    subprocess.run(command, check=True, capture_output=True, timeout=LIMIT)

    command = [*TORCHRUN, *words(tmp_path, tiny, "run", *TWO, "--ckpt_path", "last")]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    newest = tmp_path / "run" / "version_0" / "checkpoints" / "last.ckpt"
    try:
        until(lambda: newest.is_file() or first.poll() is not None, "the first epoch")
        os.kill(first.pid, signal.SIGTERM)
        told = first.communicate(timeout=LIMIT)[0]
    finally:
        first.kill()
    assert first.returncode != 0 and "stopped by SIGTERM after step" in told, told[-3000:]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0 and "--ckpt_path last: goes on from" in done.stdout, done.stderr[-3000:]

    assert_same_run(saved(tmp_path, "whole"), saved(tmp_path, "run", 1))
    expected = losses(tmp_path, "whole")
    assert losses(tmp_path, "run", 0) | losses(tmp_path, "run", 1) == expected and len(expected) == 36
