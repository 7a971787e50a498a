"""The model card, README.md of a shared model: results, data, licence, and how to use and cite it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from mcn_lightning.inference.inputs import Inputs, without_places
from mcn_lightning.runs.saved import Options, Record

if TYPE_CHECKING:
    from mcn_lightning.inference.model import Model

BIBTEX = """@inproceedings{chen2021multimodal,
  title     = {Multimodal Clustering Networks for Self-supervised Learning from Unlabeled Videos},
  author    = {Chen, Brian and Rouditchenko, Andrew and Duarte, Kevin and Kuehne, Hilde and Thomas, Samuel and
               Boggust, Angie and Panda, Rameswar and Kingsbury, Brian and Feris, Rogerio and Harwath, David and
               Glass, James and Picheny, Michael and Chang, Shih-Fu},
  booktitle = {Proceedings of the IEEE/CVF International Conference on Computer Vision (ICCV)},
  year      = {2021}
}"""


@dataclass(frozen=True)
class CardFacts:
    """What a model card tells of a run.

    Args:
        title: name of the model.
        place: what ``mcn.load`` takes.
        licence: of the weights, by its SPDX name; ``None`` if it was not given.
        step: training steps of the checkpoint; ``None`` for weights alone.
        metrics: last value of every evaluated metric up to that step.
        record: contents of ``run.json``; empty without.
        options: as in ``config.yaml``; empty without.
    """

    title: str
    place: str
    licence: str | None = None
    step: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    record: Record = field(default_factory=dict)
    options: Options = field(default_factory=dict)


def model_card(model: Model, facts: CardFacts) -> str:
    """Return the model card as Markdown."""
    # the fields that the hub reads from the head of a card
    head: dict[str, Any] = {"library_name": "mcn-lightning", "pipeline_tag": "feature-extraction"}
    head |= {"tags": ["multimodal", "video-retrieval", "clustering", "mcn"]}
    if facts.licence is not None:
        head["license"] = facts.licence
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {facts.title}",
        f"A Multimodal Clustering Network (MCN) with one embedding space for "
        f"{_listed(model.network_config.modalities)}. Embeddings have {model.network_config.embedding_dim} dimensions.",
        *_section("Use", _usage(facts.place, model)),
        *_section("Results", _results(facts)),
        # the card is public: paths of this machine are no part of it
        *_section("Inputs", _inputs(None if model.inputs is None else without_places(model.inputs))),
        *_section("Training", _training(facts)),
        *_section("Licence", facts.licence or "No licence was given. Ask the authors of the model before you use it."),
        *_section("Citation", f"```bibtex\n{BIBTEX}\n```"),
    ]
    return "\n\n".join(parts) + "\n"


def _section(title: str, text: str) -> list[str]:
    return [f"## {title}", text]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]


def _usage(place: str, model: Model) -> str:
    lines = ["import mcn_lightning as mcn", "", f'model = mcn.load("{place}")']
    if model.inputs is not None and "text" in model.network_config.embeddings:
        lines.append('embedding = model.embed_text("two eggs are cracked into a pan")  # (1, D)')
    return "```python\n" + "\n".join(lines) + "\n```"


def _results(facts: CardFacts) -> str:
    if not facts.metrics:
        return "The run logged no evaluation."
    lines = ["| metric | value |", "|---|---|"]
    lines += [f"| {name} | {_number(name, value)} |" for name, value in sorted(facts.metrics.items())]
    return f"Evaluated during training, at or before step {facts.step}.\n\n" + "\n".join(lines)


def _number(name: str, value: float) -> str:
    return f"{value:.1f}" if "/R@" in name or name.endswith("median_rank") else f"{value:.3f}"


def _inputs(inputs: Inputs | None) -> str:
    if inputs is None:
        return "The options of the data were not at hand when this folder was written."
    rows = [
        f"- Visual stream `{each.suffix}`: {each.width} numbers, {each.rate:g} rows a second."
        for each in inputs.streams
    ]
    for stream in inputs.encoders:
        rows.append(f"- Encoder of `_{stream['name']}`: `{stream['encoder']}`.")
    rows.append(
        f"- Sound: log-mel spectrograms with {inputs.audio.bands} bands, {inputs.audio.num_frames} frames a clip."
    )
    rows.append(f"- Text: `{inputs.text.kind}` of `{inputs.text.source}`, at most {inputs.text.max_words} a text.")
    return "\n".join(rows)


def _training(facts: CardFacts) -> str:
    record, data = facts.record, facts.options.get("data") or {}
    rows = []
    if root := data.get("root"):
        rows.append(f"- Data set: `{str(root).rstrip('/').rpartition('/')[2]}`, list `{data.get('train_csv')}`.")
    if facts.step is not None:
        rows.append(f"- Steps: {facts.step}.")
    if (weights := (facts.options.get("model") or {}).get("weights")) is not None:
        rows.append(f"- Began with the weights of `{str(weights).rpartition('/')[2]}`.")
    if "hours" in record:
        rows.append(f"- Hardware: {record.get('hardware', 'unknown')}, {record['hours']:.2f} hours.")
    if "commit" in record:
        changed = ", with changes" if record.get("changed") else ""
        rows.append(f"- Code: mcn-lightning {record.get('version', '')}, commit `{record['commit']}`{changed}.")
    if "seed_everything" in facts.options:
        rows.append(f"- Seed: {facts.options['seed_everything']}.")
    return "\n".join(rows) or "No record of the run was beside the checkpoint."
