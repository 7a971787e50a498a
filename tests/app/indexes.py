"""A small index with media, written by hand: three clusters of clips, a model with random weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from extract.films import Film, Sound, write
from safetensors.torch import save_file

from mcn_lightning.data.files.spectrograms import AudioConfig
from mcn_lightning.data.text import TextConfig
from mcn_lightning.inference import Inputs, Model
from mcn_lightning.models.options import NetworkConfig
from mcn_lightning.search.clips import write_clips
from mcn_lightning.search.manifest import CLUSTERS, MODEL, WORDS, Manifest, hash_model, network_options
from mcn_lightning.search.vectors import write_shard

D, TOPICS = 16, 3
CAPTIONS = (
    ("crack two eggs into the pan", "whisk the eggs with a fork", "fry the eggs until firm"),
    ("tune the guitar string by string", "pluck the guitar strings softly", "strum a guitar chord"),
    ("saw the plank along the line", "sand the plank until smooth", "drill a hole in the plank"),
)
SCRIPT = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> & eggs"
SECONDS = 4.0  # of a clip
VIDEOS = ("eggs", "guitar", "plank", "lost")
"""The video of each topic, and one whose file is not there."""


def clips_of(media: Path | None) -> list[dict[str, Any]]:
    """Return 12 clips: three of each video, four seconds each. The last video has no file, and no sound."""
    found = []
    for video, name in enumerate(VIDEOS):
        for number in range(3):
            topic = video % TOPICS
            text = SCRIPT if name == "lost" and number == 0 else CAPTIONS[topic][number]
            found.append({
                "row": len(found), "id": f"{name}/{number}", "video": name, "split": "test", "kind": "caption",
                "start": SECONDS * number, "end": SECONDS * (number + 1), "text": text, "cluster": topic, "topic": None,
                "media": None if media is None else str(media / f"{name}.mp4"),
                "has_video": 1, "has_audio": int(name != "lost"), "has_text": 1,
            })  # fmt: skip
    return found


def vectors_of(clips: Sequence[dict[str, Any]], seed: int = 0) -> dict[str, torch.Tensor]:
    """Return embeddings ``(N, D)`` of each modality, near those of the clip's cluster."""
    rng = np.random.default_rng(seed)
    centres = np.eye(D)[: max((clip["cluster"] or 0) for clip in clips) + 1]
    found = {}
    for name in ("video", "audio", "text"):
        rows = np.stack([centres[clip["cluster"]] for clip in clips]) + 0.05 * rng.standard_normal((len(clips), D))
        rows[[not clip[f"has_{name}"] for clip in clips]] = 0
        found[name] = torch.from_numpy(rows).float()
    return found | {"fused": found["video"] + found["audio"]}


def write_films(folder: Path) -> Path:
    """Write a film of 12 s for each topic. Picture n of each carries the number n."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in VIDEOS[:TOPICS]:
        write(folder / f"{name}.mp4", Film(seconds=12.0, rate=10, size=(192, 144), sound=Sound(seconds=12.0)))
    return folder


def write_index(folder: Path, clips: Sequence[dict[str, Any]], own: dict[str, str] | None = None) -> Path:
    """Write an index of some clips."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    network = NetworkConfig(embedding_dim=D, video_dim=8, text_dim=8, audio_widths=(4, 4, 4, 4))
    model = Model(network, clustering={"kind": "none"}).eval()
    save_file(model.network.state_dict(), folder / MODEL)
    words = sorted({word for clip in clips for word in (clip["text"] or "").split() if word.isalpha()})
    save_file({"vectors": torch.randn(len(words), 8)}, folder / WORDS, {"words": json.dumps(words)})
    save_file({}, folder / CLUSTERS)
    write_clips(folder / "clips.sqlite", clips, own or {})
    vectors = vectors_of(clips)
    write_shard(folder / "shard.safetensors", vectors)
    inputs = Inputs(audio=AudioConfig(), text=TextConfig(dim=8))
    Manifest(
        model=hash_model(model), options={}, inputs=inputs.as_dict(), network=network_options(model),
        table="clips.sqlite", shards=[("shard.safetensors", len(clips))], embeddings=[*vectors], own=own or {},
    ).write(folder)  # fmt: skip
    return folder
