"""A trained model becomes a folder for others, and goes to the Hugging Face hub if asked."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

from mcn_lightning.data.datamodule import NarratedVideos
from mcn_lightning.errors import InputError, one_line
from mcn_lightning.files import replacing, writing
from mcn_lightning.inference import Inputs, Model
from mcn_lightning.inference.card import CardFacts, model_card
from mcn_lightning.inference.hub import is_name, push
from mcn_lightning.inference.loading import load, newest_checkpoint
from mcn_lightning.inference.shared import CARD, is_shared, write_shared
from mcn_lightning.runs.checkpoints import steps_of
from mcn_lightning.runs.saved import CONFIG, METRICS, Options, folder_of, read_metrics, read_options, read_record

# the letters of SPDX names; anything else could end the field in the card's YAML
_LICENCE = re.compile(r"[A-Za-z0-9.+-]+")


def export(
    run: Path, folder: Path, licence: str | None, name: str | None, private: bool, encoder: str | None = None
) -> None:
    """Write a trained model as a folder that others can load, and upload it if a name is given.

    Args:
        run: folder of a run, or a checkpoint.
        folder: to write.
        licence: of the weights, by its SPDX name.
        name: on the hub, such as ``user/name``.
        private: whether a new repository on the hub is private.
        encoder: name of the sentence encoder on the hub, if the run read it from a folder.

    Raises:
        InputError: if the run or an option is wrong, a file cannot be written, or the hub refuses the model.
    """
    _check(licence, name, folder)
    checkpoint = _checkpoint(run)
    model = load(checkpoint)
    model.inputs = name_encoder(model.inputs, encoder)
    words = _caption_words(read_options(folder_of(checkpoint.parent) / CONFIG), model)
    facts = _facts(checkpoint, name, folder.resolve().name, licence)
    with writing(f"--output {folder}", "give another folder"):
        folder.mkdir(parents=True, exist_ok=True)
        write_shared(folder, model, words)
        with replacing(folder / CARD) as partial:
            partial.write_text(model_card(model, facts), encoding="utf-8")
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    print(f"{checkpoint} -> {folder}, {size / 1e6:.1f} MB; mcn.load('{folder}') loads it")
    if name:
        print(push(folder, name, private))


def _check(licence: str | None, name: str | None, folder: Path) -> None:
    """Refuse wrong options before the checkpoint is read."""
    if licence is not None and not _LICENCE.fullmatch(licence):
        raise InputError(f"--license: expected an SPDX name such as cc-by-4.0, found {licence!r}; write its name")
    if name is not None and not is_name(name):
        raise InputError(f"--push: expected user/name, found {name!r}; give both parts")
    # files of a run have names of their own, and the folder may be uploaded whole
    run = (folder / CONFIG).is_file()
    free = not any(folder.iterdir()) or is_shared(folder) if folder.is_dir() else not folder.exists()
    if run or not free:
        found = "a run" if run else "other files" if folder.is_dir() else "a file"
        raise InputError(f"--output {folder}: expected a folder for a model alone, found {found}; give another folder")


def _checkpoint(run: Path) -> Path:
    if not run.exists():
        raise InputError(f"RUN {run}: expected the folder of a run or a checkpoint, found none; check the path")
    return newest_checkpoint(run) if run.is_dir() else run


def name_encoder(inputs: Inputs | None, encoder: str | None) -> Inputs | None:
    """Return inputs whose sentence encoder is named as others find it.

    Args:
        inputs: of the run.
        encoder: name of the sentence encoder on the hub.

    Raises:
        InputError: if a name is given, and the text comes from word vectors.
    """
    vectors = inputs is None or inputs.text.kind == "word_vectors"
    if encoder is not None and (inputs is None or vectors):
        raise InputError("--text_encoder: expected a run with a sentence encoder, found one without; leave it out")
    if inputs is None or vectors:
        return inputs
    if encoder is None and Path(inputs.text.source).exists():
        print(
            f"warning: others do not have the sentence encoder of this run, {inputs.text.source}; give its name on the "
            "hub with --text_encoder",
            file=sys.stderr,
        )
    return replace(inputs, text=replace(inputs.text, source=encoder or inputs.text.source))


def _caption_words(options: Options, model: Model) -> list[str]:
    """Return the words of the captions that a run was trained on, as far as word vectors are its text."""
    if (
        model.inputs is None
        or model.inputs.text.kind != "word_vectors"
        or "text" not in model.network_config.modalities
    ):
        return []
    try:
        # no synthetic data are generated for it, and no workers started
        data = NarratedVideos(**{**options["data"], "synthetic": None, "num_workers": 0})
        data.splits.open(("train",))
    except (InputError, TypeError) as error:
        reason = one_line(error)
        print(
            f"warning: the captions of the run cannot be read ({reason}); frequent words alone are written",
            file=sys.stderr,
        )
        return []
    return list(getattr(data.text, "vocabulary", ()))


def _facts(checkpoint: Path, hub_name: str | None, name: str, licence: str | None) -> CardFacts:
    """Return what the card tells, as far as the run's files lie beside the checkpoint."""
    folder = folder_of(checkpoint.parent)
    step = steps_of(checkpoint.parent).get(checkpoint)
    metrics: dict[str, float] = {}
    for row in read_metrics(folder / METRICS) if (folder / METRICS).is_file() else ():
        if step is None or row.get("step", 0.0) < step:  # the evaluation after step s is logged with step s - 1
            metrics |= {name: value for name, value in row.items() if name.startswith(("val/", "test/"))}
    title, place = (hub_name.partition("/")[2], hub_name) if hub_name else (name, f"FOLDER/{name}")
    return CardFacts(title, place, licence, step, metrics, read_record(folder), read_options(folder / CONFIG))
