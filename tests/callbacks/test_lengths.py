"""A run may go on under another limit than it began with: what comes then is what comes in a run never stopped."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import EarlyStopping, Timer

from callbacks.lengths import Cut, Story, run
from mcn_lightning.errors import InputError
from mcn_lightning.runs.lightning import adapt_stopping


def lengths(accumulate: int) -> dict[str, dict[str, Any]]:
    """Return ways to say how long a run is; with 6 batches an epoch it ends in the middle of the third, or with it."""
    return {
        "max_epochs": {"max_epochs": 3},
        "max_steps": {"max_steps": 14 // accumulate},
        "both": {"max_epochs": 3, "max_steps": 16 // accumulate},
        "max_time": {"max_time": {"seconds": 15}},  # a batch is a second
        "limit_train_batches": {"limit_train_batches": 4, "max_epochs": 4},
        "min_epochs": {"max_epochs": 10, "min_epochs": 3, "patience": 1},
        "min_steps": {"max_epochs": 10, "min_steps": 16 // accumulate, "patience": 1},
        "early stopping": {"max_epochs": 10, "patience": 2},
    }


NAMES = list(lengths(1))
STOPS = NAMES[5:]
CUTS = {
    "in an epoch": ("on_train_batch_end", 3),  # and, where two batches make a step, in a step
    "in a later epoch": ("on_train_batch_end", 8),
    "before validation": ("on_train_batch_end", 6),
    "after validation": ("on_validation_end", 6),
    "after an epoch": ("on_train_epoch_end", 6),
    "at its end": ("end", 0),
}
FIRST = next(iter(CUTS))


@pytest.fixture(scope="module")
def known(tiny, tmp_path_factory):
    """Return what a run did, which runs once for all tests."""
    folder, stories = tmp_path_factory.mktemp("lengths"), {}

    def told(name: str, accumulate: int, cut: str | None = None) -> Story:
        key = (name, accumulate, cut)
        if key not in stories:
            path = folder / f"{len(stories)}.ckpt"
            where = None if cut is None else Cut(path, *CUTS[cut])
            stories[key] = run(tiny, lengths(accumulate)[name], accumulate, cut=where)
        return stories[key]

    return told


def check(known, tiny: Path, began: str, goes_on: str, cut: str, accumulate: int) -> None:
    """Compare a run that goes on with one that was never stopped, from the cut on."""
    whole, part = known(goes_on, accumulate), known(began, accumulate, cut)
    done = len(part.batches)
    try:
        rest = run(tiny, lengths(accumulate)[goes_on], accumulate, resume=part.saved)
    except InputError as error:
        assert done > len(whole.batches) and "of the checkpoint, found" in str(error)
        return
    late = goes_on in STOPS and began not in STOPS  # what counts for early stopping was not counted before
    if done >= len(whole.batches) and not late:
        assert not rest.batches and rest.steps == max(part.steps, rest.steps)
        return
    expected = {number: batch for number, batch in whole.batches.items() if number >= done}
    assert expected == {number: batch for number, batch in rest.batches.items() if number in expected}
    steps = torch.load(part.saved, weights_only=True)["global_step"]
    logged = [(step, row) for step, row in whole.logged if "train/loss" in row and step >= steps]
    found = [(step, row) for step, row in rest.logged if "train/loss" in row]
    assert logged == found[: len(logged)]
    validations = [each for each in whole.validations if each[0] >= done and each not in part.validations]
    if late:
        return
    assert rest.batches.keys() == expected.keys() and len(found) == len(logged)
    assert rest.validations == validations
    assert (rest.steps, rest.epochs) == (whole.steps, whole.epochs)
    assert all(torch.equal(value, rest.weights[name]) for name, value in whole.weights.items())


def cases(turn: int) -> list[tuple[str, str, str, int]]:
    """Return pairs, each with a cut and with one or two batches a step; another turn has other ones."""
    found = []
    for one, began in enumerate(NAMES):
        for other, goes_on in enumerate(NAMES):
            if "both" in (began, goes_on) and {began, goes_on} - {"both", "max_epochs", "max_steps"}:
                continue  # it acts as the one of the two that ends first
            cut = list(CUTS)[(one + other + turn) % len(CUTS)]
            if (began == "limit_train_batches") != (goes_on == "limit_train_batches"):
                cut = FIRST  # later on the epochs of the two are others
            found.append((began, goes_on, cut, 1 + (one // 2 + other + turn) % 2))
    return found


@pytest.mark.parametrize(("began", "goes_on", "cut", "accumulate"), cases(0))
def test_a_run_goes_on_under_another_limit(known, tiny, began, goes_on, cut, accumulate):
    check(known, tiny, began, goes_on, cut, accumulate)


@pytest.mark.slow
@pytest.mark.parametrize(("began", "goes_on", "cut", "accumulate"), cases(3)[::3])
def test_a_run_goes_on_from_other_places(known, tiny, began, goes_on, cut, accumulate):
    check(known, tiny, began, goes_on, cut, accumulate)


@pytest.mark.parametrize("goes_on", [{"max_epochs": 4}, {"max_steps": 21}])
def test_learning_rates_are_those_of_the_new_length_from_the_first_step_on(tiny, tmp_path, goes_on):
    part = run(tiny, {"max_epochs": 2}, schedule="cosine", cut=Cut(tmp_path / "a.ckpt", "on_train_batch_end", 8))
    whole, rest = run(tiny, goes_on, schedule="cosine"), run(tiny, goes_on, schedule="cosine", resume=part.saved)
    rates = {number: batch[3] for number, batch in rest.batches.items()}
    assert rates == {number: batch[3] for number, batch in whole.batches.items() if number >= 8} and len(rates) > 12
    assert part.batches[7][3] != whole.batches[7][3]  # which was of the old length


def test_a_limit_that_is_reached_or_passed_is_told_in_one_line(tiny, tmp_path, capsys):
    end = run(tiny, {"max_epochs": 2}, cut=Cut(tmp_path / "end.ckpt", "end", 0)).saved
    capsys.readouterr()
    for length in ({"max_epochs": 2}, {"max_steps": 12}):
        assert not run(tiny, length, resume=end).batches
        told = [line for line in capsys.readouterr().out.splitlines() if "nothing is left to train" in line]
        assert told == [
            "--ckpt_path: nothing is left to train: it has reached its limit (2 epochs, 12 steps); raise the limit to "
            "go on"
        ]
    with pytest.raises(InputError, match=r"--trainer\.max_epochs: expected at least the 2 epochs of the checkpoint, f"):
        run(tiny, {"max_epochs": 1}, resume=end)
    with pytest.raises(
        InputError, match=r"--trainer\.max_steps: expected at least the 12 steps of the checkpoint, fou"
    ):
        run(tiny, {"max_steps": 11}, resume=end)
    begun = run(tiny, {"max_epochs": 2}, cut=Cut(tmp_path / "begun.ckpt", "on_train_batch_end", 8)).saved
    with pytest.raises(InputError, match=r"--trainer\.max_epochs: expected at least the 2 epochs of the checkpoint, f"):
        run(tiny, {"max_epochs": 1}, resume=begun)
    middle = run(tiny, {"max_epochs": 2}, cut=Cut(tmp_path / "middle.ckpt", "on_train_batch_end", 5)).saved
    with pytest.raises(InputError, match=r"--trainer\.limit_train_batches: expected at least the 5 batches that the "):
        run(tiny, {"max_epochs": 4, "limit_train_batches": 4}, resume=middle)


def test_max_time_counts_what_the_run_has_used_and_patience_is_that_of_today():
    timer, stopping = Timer("00:01:00:00"), EarlyStopping("val/x", patience=3)
    trainer = SimpleNamespace(callbacks=[timer, stopping])
    state = {"wait_count": 2, "stopped_epoch": 4, "best_score": 1.0, "patience": 2, "stopping_reason_message": "why"}
    checkpoint = {"callbacks": {"RunRecord": {"hours": 0.5}, stopping.state_key: state}}
    assert not adapt_stopping(trainer, checkpoint)  # it may wait longer now
    timer.load_state_dict(checkpoint["callbacks"]["Timer"])
    assert timer.time_elapsed() == 1800.0 and timer.time_remaining() == 1800.0
    assert checkpoint["callbacks"][stopping.state_key]["patience"] == 3
    stopping.patience = 2
    assert adapt_stopping(trainer, {"callbacks": {stopping.state_key: state}})
