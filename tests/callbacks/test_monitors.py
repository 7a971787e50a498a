"""What a run will evaluate is known before it trains."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from launch import write_video_text

from mcn_lightning.callbacks.monitors import batches_until
from mcn_lightning.commands.fit import main


@pytest.fixture
def words(tiny, tmp_path) -> list[str]:
    """Return ``fit`` of two epochs of three batches."""
    return ["fit", "--config", str(write_video_text(tmp_path, tiny))]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (10, 40)),
        ({"check_val_every_n_epoch": 3}, (30, 40)),
        ({"check_val_every_n_epoch": 5}, (50, 40)),
        ({"check_val_every_n_epoch": 2, "val_check_batch": 4}, (14, 40)),
        ({"check_val_every_n_epoch": None, "val_check_batch": 25}, (25, 40)),
        ({"max_steps": 3, "accumulate_grad_batches": 2}, (10, 6)),
        ({"max_epochs": -1}, (10, float("inf"))),
        ({"_val_check_time_interval": 60.0, "max_steps": 1}, (0, float("inf"))),
        ({"num_training_batches": float("inf"), "max_steps": 1}, (0, float("inf"))),
    ],
    ids=str,
)
def test_batches_before_the_first_validation_and_the_end(options, expected):
    usual = {
        "num_training_batches": 10, "check_val_every_n_epoch": 1, "val_check_batch": 10, "max_epochs": 4,
        "max_steps": -1, "accumulate_grad_batches": 1, "_val_check_time_interval": None,
    }  # fmt: skip
    assert batches_until(SimpleNamespace(**usual | options)) == expected


@pytest.mark.parametrize(
    ("more", "first", "end"),
    [
        (("--trainer.check_val_every_n_epoch", "3"), 9, 6),
        (("--trainer.max_steps", "2"), 3, 2),
        (("--trainer.check_val_every_n_epoch", "null", "--trainer.val_check_interval", "7"), 7, 6),
    ],
    ids=str,
)
def test_a_run_that_evaluates_nothing_says_so(more, first, end, words, capsys):
    with pytest.warns(UserWarning) as warned:
        main([*words, *more])
    said = [str(each.message) for each in warned if str(each.message).startswith("nothing is evaluated")]
    assert len(said) == 1
    assert f"it ends after {end} batches, and the first validation would come after {first} (--trainer.check" in said[0]
    assert "held-out clips" not in capsys.readouterr().out


def test_a_run_that_evaluates_or_should_not_says_nothing(words, recwarn):
    main([*words, "--trainer.check_val_every_n_epoch", "2"])
    main([*words, "--trainer.check_val_every_n_epoch", "3", "--trainer.limit_val_batches", "0"])
    assert not [each for each in recwarn if "nothing is evaluated" in str(each.message)]


def refused(words: list[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert "\n" not in str(stop.value.code)
    return str(stop.value.code)


def test_a_metric_that_will_not_be_there_is_refused_before_training(words, tmp_path):
    said = refused([*words, "--checkpoint.monitor", "val/t->v/R@11"])
    assert "--checkpoint.monitor: expected a metric of this run (val/t->v/R@1, val/t->v/R@5, val/t->v/R@10" in said
    assert said.endswith("found val/t->v/R@11")
    assert "val/t->v/R@10" in refused([*words, "--checkpoint.monitor", "val/t->a/R@10"])  # there is no sound
    never = refused([*words, "--checkpoint.monitor", "val/nmi", "--trainer.limit_val_batches", "0"])
    assert never.endswith("found val/nmi, as nothing is evaluated in this run") and "train/loss" in never
    early = ("--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val_loss")
    assert "monitor of EarlyStopping (--trainer.callbacks): expected a metric" in refused([*words, *early])
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    "name", ["val/t->v/R@10", "val/nmi", "val/topics_nmi", "train/loss", "train/text_video", "train/clips_per_second"]
)
def test_metrics_that_are_there_are_taken(name, words, tmp_path):
    main([*words, "--checkpoint.monitor", name])
    assert len(list(tmp_path.rglob("epoch=*.ckpt"))) == 1


def test_a_callback_that_takes_the_lowest_recall_for_the_best_says_so(words, recwarn):
    early = ("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor", "val/t->v/R@10")
    main([*words, *early, "--trainer.max_epochs", "1"])
    said = "EarlyStopping takes the lowest val/t->v/R@10 for the best, and more of it is better: set its mode to max"
    assert [str(each.message) for each in recwarn].count(said) == 1
    recwarn.clear()
    main([*words, *early, "--trainer.callbacks.mode", "max", "--trainer.max_epochs", "1"])
    assert not [each for each in recwarn if "for the best" in str(each.message)]
