"""Options of a run that depend on its devices."""

from __future__ import annotations

import configparser
import re
from types import SimpleNamespace

import pytest
import torch
import yaml
from launch import CONFIGS, refusal, run
from pytorch_lightning.accelerators import CPUAccelerator, CUDAAccelerator

from mcn_lightning.commands.checks import check_accelerator
from mcn_lightning.data.options import videos_per_process
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


REASONS = {
    "built for CPUs": (None, None, r"found torch \S+, which is built for CPUs; install torch for CUDA, or give"),
    "hidden": ("13.0", "", "found none in CUDA_VISIBLE_DEVICES=; unset the variable, or give"),
    "no driver": ("13.0", None, r"found none that torch \S+ can use; see what nvidia-smi shows, or give"),
}


@pytest.mark.parametrize(("cuda", "visible", "reason"), REASONS.values(), ids=REASONS)
def test_a_recipe_for_a_gpu_needs_one_or_another_option(cuda, visible, reason, overlay, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    words = ("fit", "--config", CONFIGS / "howto100m.yaml", "--data.root", overlay.parent)
    message = refusal(capsys, *words).partition("mcn-lightning")[0]
    assert re.fullmatch(
        rf"error: --trainer\.accelerator gpu: expected a GPU, {reason} --trainer\.accelerator cpu", message
    )
    check_accelerator("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_accelerator("gpu")


def test_data_are_packed_without_the_gpu_that_a_recipe_asks_for(tmp_path, capsys):
    message = refusal(capsys, "prepare", "--config", CONFIGS / "howto100m.yaml", "--data.root", tmp_path,
                      "--pack.output", tmp_path / "shards")  # fmt: skip
    assert "train.csv" in message and "accelerator" not in message


def test_a_batch_that_cannot_be_divided_is_refused_before_other_processes_start(overlay, capsys):
    words = ("fit", *demo(overlay), "--trainer.devices", 2, "--data.global_batch_size", 5)
    wanted = "--data.global_batch_size: expected a multiple of the number of devices, 2, found 5; set it to 4 or 6"
    assert wanted in refusal(capsys, *words)
    message = refusal(capsys, *words[:-1], 6)  # the demo has a batch size
    assert "--data.batch_size: expected null, or 3, which is --data.global_batch_size 6 over 2 device(s)" in message


def test_groups_that_do_not_fit_are_refused_before_other_processes_start(overlay, capsys):
    words = ("fit", *demo(overlay), "--trainer.devices", 2, "--model.distributed.group_size", 3)
    wanted = "--model.distributed.group_size: expected a divisor of the number of devices, 2, found 3; set it to 1 or 2"
    assert f"error: {wanted}, or to null for all devices" in refusal(capsys, *words)


def test_the_recipe_of_the_paper_has_its_batch_on_four_gpus():
    options = yaml.safe_load((CONFIGS / "howto100m.yaml").read_text())
    data, model = options["data"], options["model"]
    assert "batch_size" not in data and videos_per_process(None, data["global_batch_size"], 4) == 32
    assert data["global_batch_size"] * data["clips"]["n_pair"] == 4096
    assert data["global_batch_size"] * data["clips"]["n_pair"] // 2 * 20 == model["clustering"]["queue_rows"]


def test_the_environment_for_gpus_has_one_faiss_and_no_other_cuda_than_torch_s():
    root, setup = CONFIGS.parent, configparser.ConfigParser()
    setup.read(root / "setup.cfg")
    (pip,) = (part["pip"] for part in yaml.safe_load((root / "environment.yml").read_text())["dependencies"]
              if isinstance(part, dict))  # fmt: skip
    ((extras,),) = (re.findall(r"^-e \.\[(.*)\]$", line) for line in pip)
    needed = "\n".join(setup["options.extras_require"][name] for name in extras.split(","))
    assert re.findall(r"^faiss-\w+", needed, re.M) == ["faiss-cpu"]
