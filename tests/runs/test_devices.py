"""Options of a run that depend on its devices."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from launch import refusal, run
from pytorch_lightning.accelerators import CPUAccelerator, CUDAAccelerator

from mcn_lightning.runs.trainer_options import set_matmul_precision
from runs.trainer_runs import demo


@pytest.fixture(autouse=True)
def precision_of_torch():
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(
    ("accelerator", "before", "asked", "after"),
    [
        (CPUAccelerator, "highest", None, "highest"),
        (CPUAccelerator, "highest", "medium", "medium"),
        (CUDAAccelerator, "highest", None, "high"),
        (CUDAAccelerator, "medium", None, "medium"),
        (CUDAAccelerator, "high", "highest", "highest"),
    ],
)
def test_products_are_faster_on_cuda_unless_asked_otherwise(accelerator, before, asked, after, caplog):
    torch.set_float32_matmul_precision(before)
    with caplog.at_level("INFO"):
        set_matmul_precision(asked, SimpleNamespace(accelerator=accelerator()))
    assert torch.get_float32_matmul_precision() == after
    lines = [record.getMessage() for record in caplog.records]
    if accelerator is CPUAccelerator and asked is None:
        assert lines == []
    else:
        (line,) = lines
        assert line.startswith(f"--trainer.float32_matmul_precision {after}: ") and "\n" not in line


def test_the_command_sets_the_precision_before_it_trains(overlay, capsys, monkeypatch):
    seen = []
    monkeypatch.setattr("mcn_lightning.module.MCNModule.on_validation_start", lambda self: seen.append(
        torch.get_float32_matmul_precision()))  # fmt: skip
    option = "--trainer.float32_matmul_precision"
    run("validate", *demo(overlay), option, "medium")
    assert seen == ["medium"]
    wanted = "expected one of 'highest', 'high', 'medium', found hgh"
    assert f"{option}: {wanted}" in refusal(capsys, "fit", *demo(overlay), option, "hgh")
