"""Wrong input ends in one line that fits what was wrong."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import yaml
from callbacks.test_embeddings import write_config
from safetensors.torch import save_file

from mcn_lightning.commands import main as commands
from mcn_lightning.commands.fit import main
from mcn_lightning.models import MCN, NetworkConfig
from mcn_lightning.module import MCNModule


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory) -> tuple[Path, Path]:
    """Return the options of a run of two epochs, and its last checkpoint."""
    folder = tmp_path_factory.mktemp("trained")
    config = write_config(folder, tiny)
    main(["fit", "--config", str(config), "--model.network.normalize", "true"])
    return config, folder / "run" / "version_0" / "checkpoints" / "last.ckpt"


@pytest.fixture
def config(tiny, tmp_path) -> Path:
    return write_config(tmp_path, tiny)


def refused(*words: object) -> str:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    said = str(stop.value.code)
    assert said.startswith("error: ") and "\n" not in said, said
    return said


def test_a_file_that_is_empty_or_no_checkpoint_is_called_so(config, tmp_path, capsys):
    empty, text = tmp_path / "empty.ckpt", tmp_path / "text.ckpt"
    empty.touch()
    text.write_text("no checkpoint")
    for command in ("fit", "validate", "predict"):
        said = refused(command, "--config", config, "--ckpt_path", empty)
        assert said.endswith(f"expected a whole checkpoint, found {empty}, which is not (an empty file)")
    said = refused("test", "--config", config, "--ckpt_path", text)
    assert said.endswith("(a file that is cut short, or was not written by torch.save)")
    assert "found an empty file; give the path" in refused("fit", "--config", config, "--model.weights", empty)
    main(["fit", "--config", str(config)])
    folder = tmp_path / "run" / "version_0" / "checkpoints"
    (folder / "newest.ckpt").touch()
    main(["validate", "--config", str(config), "--ckpt_path", "last"])
    assert "newest.ckpt is no whole checkpoint and is left out (an empty file)" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["module", "network", "parallel", "safetensors"])
def test_a_state_dict_of_our_own_is_taken_as_weights(form, trained, tmp_path, capsys):
    config, checkpoint = trained
    whole = ("validate", "--config", str(config), "--model.network.normalize", "true")
    main([*whole, "--ckpt_path", str(checkpoint)])
    rows = ("t->v ", "v->t ")
    expected = [line for line in capsys.readouterr().out.splitlines() if line.startswith(rows)]
    module = MCNModule.load_from_checkpoint(checkpoint, map_location="cpu")
    path = tmp_path / "weights.pth"
    state = module.state_dict() if form == "module" else module.network.state_dict()
    if form == "safetensors":
        save_file(state, path := tmp_path / "weights.safetensors")
    elif form == "parallel":
        torch.save({f"module.{name}": value for name, value in state.items()}, path)
    else:
        torch.save(state, path)
    main([*whole, "--model.network.embedding_dim", "99", "--model.weights", str(path)])
    said = capsys.readouterr().out
    assert len(expected) == 2 and [line for line in said.splitlines() if line.startswith(rows)] == expected
    assert f"--model.weights {path}: state dict of this project, D = 16; model.network follows the weights" in said


@pytest.mark.parametrize("options", [{}, {"fuse_audio_text": True, "reconstruction": False}], ids=str)
def test_the_shape_is_told_by_the_weights(options, tmp_path):
    config = NetworkConfig(
        embedding_dim=12, video_dim=10, text_dim=6, audio_bands=20, audio_widths=[2, 4, 6, 8], reconstruction_hidden=5,
        **options,
    )  # fmt: skip
    torch.save((network := MCN(config)).state_dict(), tmp_path / "w.pth")
    sizes = {"video_dim": 10, "text_dim": 6, "audio_bands": 20}
    module = MCNModule({"embedding_dim": 99} | sizes, weights=str(tmp_path / "w.pth"))
    for name, value in network.state_dict().items():
        assert torch.equal(module.network.state_dict()[name], value)


def test_a_state_dict_with_a_weight_less_is_refused(config, tmp_path):
    state = MCN(NetworkConfig(embedding_dim=16, modalities=["video", "text"], video_dim=8, text_dim=8)).state_dict()
    for name, part in {"video.gate.bias": "no weights for", "text.gated.gate.weight": "expected all weights"}.items():
        torch.save({each: value for each, value in state.items() if each != name}, tmp_path / "w.pth")
        said = refused("fit", "--config", config, "--model.weights", tmp_path / "w.pth")
        assert part in said and name in said


def test_no_batches_and_no_words(config, tiny, tmp_path, recwarn):
    main(["fit", "--config", str(config), "--trainer.limit_train_batches", "0"])
    said = [str(each.message) for each in recwarn]
    assert "--trainer.limit_train_batches 0: nothing is trained, and nothing is evaluated" in said
    assert not [each for each in said if "rows that this run pushes" in each]
    root = shutil.copytree(tiny, tmp_path / "data")
    captions = json.loads((root / "captions.json").read_text())
    for video in captions.values():
        video["text"] = [""] * len(video["text"])
    (root / "captions.json").write_text(json.dumps(captions))
    said = refused("fit", "--config", config, "--data.root", root)
    assert "expected captions with words, found none" in said


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("fit", "; free space or give another folder, and go on with --ckpt_path last"),
        ("predict", "; free space or give another folder"),
        ("synthetic", "; free space or give another folder"),
    ],
)
def test_only_a_run_is_advised_to_go_on(command, advice):
    full = OSError(errno.EROFS, os.strerror(errno.EROFS), "/somewhere")
    with patch.object(commands, "_dispatch", side_effect=full), pytest.raises(SystemExit) as stop:
        commands.main([command])
    assert stop.value.code == f"error: /somewhere: expected to write it, found read-only file system{advice}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--trainer.val_check_interval", 0), "--trainer.val_check_interval: expected a number above 0"),
        (("--trainer.check_val_every_n_epoch", 0), "--trainer.check_val_every_n_epoch: expected at least 1, found 0"),
        (("--trainer.accumulate_grad_batches", 0), "--trainer.accumulate_grad_batches: expected at least 1, found 0"),
        (("--trainer.gradient_clip_val", -1), "--trainer.gradient_clip_val: expected at least 0, found -1"),
        (("--trainer.val_check_interval", 100), "`val_check_interval` (100) must be less than"),
        (("--trainer.devices", -3), "`devices` selected with `CPUAccelerator` should be an int > 0"),
        (("--ckpt_path", "hpc"), "--ckpt_path: expected last or a file, found hpc"),
        (("--trainer.max_epochs", "many"), "--trainer.max_epochs: expected a whole number"),
        (("--model.optimizer.kind", "sgd"), "--model.optimizer.kind: expected one of 'adam', 'adamw', found sgd"),
        (("--seed_everything", -1), "--seed_everything: expected a number from 0 to 4294967295, found -1"),
        (("--data.streams", "[]"), "--data.streams is empty: give at least one stream"),
    ],
    ids=str,
)
def test_numbers_that_cannot_be(words, message, config):
    assert message in refused("fit", "--config", config, *words)


@pytest.mark.parametrize(
    ("words", "options"),
    [(("fit", "--model.network.embedding_dim", 16), "--data.root"),
     (("prepare", "--data.root", "here"), "--pack.output"), (("verify",), "--shards"),
     (("convert",), "--weights, --output"), (("results",), "runs")],
    ids=str,
)  # fmt: skip
def test_options_that_must_be_given(words, options):
    assert refused(*words) == f"error: {options}: expected a value, found none; give it"


def test_generated_data_that_have_no_place(tmp_path):
    (tmp_path / "file").touch()
    said = refused("synthetic", "--root", tmp_path / "file" / "data")
    assert said.startswith(f"error: {tmp_path / 'file' / 'data'}: expected a place for the generated data, found ")


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_the_best_checkpoint_of_no_run_is_one_line(command, config):
    assert "best" in refused(command, "--config", config, "--ckpt_path", "best")


def test_what_does_not_fit_into_memory_is_refused(config):
    said = refused("fit", "--config", config, "--model.network.embedding_dim", 100_000_000)
    assert "--model.network.embedding_dim 100000000: expected a network that fits into memory" in said
    said = refused("fit", "--config", config, "--model.clustering.queue_rows", 10**12)
    assert "GB of queue (--model.clustering.queue_rows)" in said
    full = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 5 bytes.")
    with patch.object(MCNModule, "forward", side_effect=full):
        assert "expected a run that fits into memory" in refused("fit", "--config", config)


def test_a_folder_that_a_run_writes_to_is_not_taken_by_another(config, tmp_path):
    words = ("fit", "--config", str(config), "--trainer.logger.init_args.version", "0")
    folder = tmp_path / "run" / "version_0"
    folder.mkdir(parents=True)
    with open(folder / ".lock", "a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        said = refused(*words)
        assert said == (
            f"error: {folder}: expected a folder that no run is writing to, found another `fit` that is; wait for its "
            "end, or give another version"
        )
    main(list(words))
    with open(folder / ".lock", "a") as other:  # the run is over, and its folder free
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["max_epochs"] == 2
