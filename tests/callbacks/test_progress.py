"""What a run prints while it goes on: lines in a file, a bar of one line on a terminal."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import sys
import termios
from datetime import timedelta

import pytest
import torch
from forked import Popen
from launch import write_video_text
from processes import LIMIT, python
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelSummary, Timer, TQDMProgressBar

from mcn_lightning.callbacks import ParameterSummary, Progress, with_displays
from mcn_lightning.callbacks import progress as module_of
from mcn_lightning.callbacks.progress import Window, format_duration
from mcn_lightning.commands.fit import main
from mcn_lightning.errors import InputError

NOISE = (
    "v_num",
    "FLOPs",
    "litlogger",
    "litmodels",
    "💡",
    "LeafSpec",
    "many workers",
    "Loading `train_dataloader`",
    ".py:",
)
LINE = re.compile(r"epoch (\d+)/(\d+): loss ([\d.]+), [\d,]+ clips/s, \d+:\d\d so far, \d+:\d\d left")


@pytest.fixture
def words(tiny, tmp_path) -> list[str]:
    """Return ``fit`` of three epochs of three steps, validated twice in each."""
    length = {"max_epochs": 3, "val_check_interval": 2, "check_val_every_n_epoch": None, "enable_progress_bar": True}
    write_video_text(tmp_path, tiny, queue_rows=16, **length)
    return ["fit", "--config", str(tmp_path / "run.yaml")]


def test_a_file_has_a_line_an_epoch_and_the_table_of_every_validation(words, tmp_path, capsys):
    main(words)
    said = capsys.readouterr()
    lines = said.out.splitlines()
    found = [match for line in lines if (match := LINE.fullmatch(line))]
    assert [match.group(1, 2) for match in found] == [("1", "3"), ("2", "3"), ("3", "3")]
    assert lines[-1].endswith(" 0:00 left")
    assert [line[: line.index("R@1")].strip() for line in lines if line.startswith("held-out clips")] == [
        "held-out clips: 10, in epoch 1, after step 2",
        "held-out clips: 10, in epoch 2, after step 4",
        "held-out clips: 10, after epoch 2",
        "held-out clips: 10, in epoch 3, after step 8",
    ]
    place = {line: number for number, line in enumerate(lines)}
    assert place[found[1].group()] < lines.index(next(line for line in lines if "after epoch 2" in line))
    assert not [noise for noise in NOISE if noise in said.out + said.err]
    assert "parameters: " in said.out
    rows = (tmp_path / "run" / "version_0" / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("train/loss")
    losses = [float(row.split(",")[column]) for row in rows[1:] if row.split(",")[column]]
    assert len(losses) == 9
    for epoch, match in enumerate(found):
        assert float(match.group(3)) == pytest.approx(sum(losses[3 * epoch : 3 * epoch + 3]) / 3, rel=1e-3)


def test_a_run_with_a_version_of_its_own_that_goes_on_says_nothing_beside_it(words, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").touch(0o755)  # as on the login node of a cluster
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    words = [*words, "--trainer.logger.init_args.version", "0"]
    for more in (["--trainer.max_epochs", "1"], ["--ckpt_path", "last"]):
        done = python("-m", "mcn_lightning", *words, *more, cwd=tmp_path)
        assert done.returncode == 0
        assert not [noise for noise in ("srun", "not empty", "Restored all") if noise in done.stderr], done.stderr
    assert "--ckpt_path last: goes on from " in done.stdout


def test_lines_within_an_epoch_by_number_and_by_the_clock(words, capsys, monkeypatch):
    main([*words, "--trainer.max_epochs", "1", "--progress.every_n_batches", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert [line[:22] for line in lines if "batch" in line] == ["epoch 1/1, batch 1/3: ", "epoch 1/1, batch 2/3: "]
    ticks = iter(range(10**6))
    monkeypatch.setattr(module_of.time, "monotonic", lambda: 60.0 * next(ticks))  # a minute at every look
    main([*words, "--trainer.max_epochs", "1", "--progress.every_minutes", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("epoch 1/1, batch 1/3: loss ")]
    assert [line for line in lines if line.startswith("validation: batch 1/2, ")]


def test_the_bar_is_one_line_of_the_terminal_and_shows_the_time_left(words, tmp_path):
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, "-m", "mcn_lightning", *words]
    process = Popen(command, stdout=theirs, stderr=theirs, cwd=tmp_path)
    os.close(theirs)
    said = b""
    while select.select([ours], [], [], LIMIT)[0]:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux tells the end of a terminal as an error
            break
        if not piece:
            break
        said += piece
    os.close(ours)
    assert process.wait() == 0, said.decode()
    shown = re.sub(r"\x1b\[\w", "", said.decode())
    pieces = [piece for piece in re.split(r"[\r\n]", shown) if "|" in piece]
    bars = [
        piece
        for piece in pieces
        if re.match(r"epoch \d/3: +\d+%\|.+\| \d/3, loss [\d.]+, [\d,]+ clips/s, \d+:\d\d left$", piece)
    ]
    assert {bar[:9] for bar in bars} == {"epoch 1/3", "epoch 2/3", "epoch 3/3"}
    assert all(len(piece) <= 80 for piece in pieces), max(pieces, key=len)
    assert bars[-1].endswith(" 0:00 left") and "epoch 0" not in shown.lower()
    assert shown.count("held-out clips") == 4
    assert not [noise for noise in NOISE if noise in shown]


def run_of(**options: object) -> tuple[Progress, Trainer]:
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False,
                      callbacks=[bar := Progress()], **options)  # fmt: skip
    trainer.fit_loop.max_batches = 10
    return bar, trainer


@pytest.mark.parametrize(
    ("options", "left", "text"),
    [
        ({"max_epochs": 4}, 70.0, "epoch 1/4"),  # 5 of 40 batches in 10 s
        ({"max_steps": 20}, 30.0, "epoch 1/2"),
        ({"max_epochs": 4, "max_steps": 20}, 30.0, "epoch 1/2"),
        ({"max_epochs": 1, "max_steps": 200}, 10.0, "epoch 1/1"),
        ({"max_epochs": -1}, None, "epoch 1"),
        ({"max_epochs": -1, "max_time": timedelta(seconds=50)}, 40.0, "epoch 1"),
        ({"max_epochs": 1, "max_time": timedelta(seconds=50)}, 10.0, "epoch 1"),
    ],
    ids=str,
)
def test_time_left_is_that_until_the_first_limit(options, left, text, monkeypatch):
    bar, trainer = run_of(**options)
    monkeypatch.setattr(module_of.time, "monotonic", lambda: 1010.0)
    bar._started, bar._batch = 1000.0, 0
    bar._first_shares = bar._shares(trainer)
    bar._batch = 5
    trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = 5
    for timer in (each for each in trainer.callbacks if isinstance(each, Timer)):
        monkeypatch.setattr(timer, "time_remaining", lambda: 40.0)
    assert bar.time_left(trainer) == (None if left is None else pytest.approx(left))
    assert bar._epoch_text(trainer) == text


def test_a_continued_run_counts_what_it_did_itself(monkeypatch):
    bar, trainer = run_of(max_epochs=4)
    trainer.fit_loop.epoch_progress.current.completed = 2
    monkeypatch.setattr(module_of.time, "monotonic", lambda: 1010.0)
    bar._started, bar._batch = 1000.0, 5
    bar._first_shares = bar._shares(trainer)  # 25 of 40 batches are done already
    bar._batch = 10
    assert bar.time_left(trainer) == pytest.approx(20.0)
    assert bar._epoch_text(trainer) == "epoch 3/4"


def test_means_and_rates():
    window = Window()
    assert window.text() == []
    window.add(8, 2.0, torch.tensor(3.0))
    window.add(0, 1.0, None)  # no video of the step could be read
    window.add(4000, 1.0, torch.tensor(4.0))
    assert window.text() == ["loss 3.5", "1,002 clips/s"]
    assert [format_duration(seconds) for seconds in (42, 61, 11525, 183600)] == ["0:42", "1:01", "3:12:05", "2 d 03 h"]


def test_the_users_own_displays_are_honoured():
    own = [Progress()]
    kinds = lambda options: [type(each) for each in with_displays(options, own)]  # noqa: E731
    assert kinds({}) == kinds({"callbacks": None}) == [Progress, ParameterSummary]
    assert kinds({"enable_progress_bar": False}) == [ParameterSummary]
    assert kinds({"enable_model_summary": False}) == [Progress]
    assert kinds({"callbacks": [TQDMProgressBar(), ModelSummary()]}) == []


def test_a_users_bar_and_none_at_all(words, capsys):
    main([*words, "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"])
    said = capsys.readouterr().out
    assert "clips/s" not in said and "held-out clips" in said
    main([*words, "--trainer.max_epochs", "1", "--trainer.callbacks", "TQDMProgressBar"])
    assert "clips/s" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["every_minutes", "every_n_batches"])
def test_intervals_are_checked(name):
    with pytest.raises(InputError, match=f"--progress.{name}: expected a.* number of at least 0, found -1"):
        Progress(**{name: -1})
