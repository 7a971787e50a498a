"""A plain reader of the layout, as the method's published description has it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from mcn_lightning.data.files.word_vectors import read_word_vectors

N_PAIR, MIN_TIME, FRAMES, MAX_WORDS = 32, 10.0, 1000, 20


def grow(entry: dict[str, Any], index: int) -> tuple[float, float, str]:
    """Return start, end and words of a caption, with neighbours until it lasts ``MIN_TIME``."""
    first = last = index
    words, count = entry["text"][index], len(entry["text"])
    start, end = entry["start"][index], entry["end"][index]
    while end - start < MIN_TIME and (first > 0 or last < count - 1):
        before = end - entry["start"][first - 1] if first > 0 else np.inf
        after = entry["end"][last + 1] - start if last < count - 1 else np.inf
        if before <= after:
            first -= 1
            start, words = entry["start"][first], f"{words} {entry['text'][first]}"
        else:
            last += 1
            end, words = entry["end"][last], f"{words} {entry['text'][last]}"
    return start, end, words


def frame_of(seconds: float) -> int:
    return max((int(seconds * 16000) - 200) // 160, 0)


class PlainReader(Dataset[dict[str, torch.Tensor]]):
    """The plain reader; one item is one video."""

    def __init__(self, root: Path, videos: list[str]) -> None:
        self.root, self.videos = root, videos
        self.captions = json.loads((root / "captions.json").read_text())
        used = {word for entry in self.captions.values() for text in entry["text"] for word in text.split()}
        words, vectors = read_word_vectors(root / "word_vectors.txt", used)
        self.vectors = dict(zip(words, vectors, strict=True))

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        path = self.videos[index]
        name = path.rsplit("/", 1)[-1]
        folder = self.root / "features" / path
        flat = np.load(folder / f"{name}_2d.npz")["features"].astype(np.float32)
        deep = np.load(folder / f"{name}_3d.npz")["features"].astype(np.float32)
        sound = np.load(folder / f"{name}_spec.npz")["arr_0"].astype(np.float32)
        entry = self.captions[name]
        video = np.zeros((N_PAIR, flat.shape[1] + deep.shape[1]), dtype=np.float32)
        audio = np.zeros((N_PAIR, sound.shape[0], FRAMES), dtype=np.float32)
        frames = np.zeros(N_PAIR, dtype=np.int64)
        text = np.zeros((N_PAIR, MAX_WORDS, 300), dtype=np.float32)
        for row in range(N_PAIR):
            start, end, words = grow(entry, int(np.random.randint(len(entry["text"]))))
            video[row] = np.concatenate([self._pool(flat, start, end, 1.0), self._pool(deep, start, end, 1.5)])
            first, stop = (frame_of(t) for t in (start, end))
            cut = sound[:, first:stop][:, :FRAMES]
            audio[row, :, : cut.shape[1]], frames[row] = cut, cut.shape[1]
            known = [self.vectors[word] for word in re.findall(r"[\w']+", words) if word in self.vectors]
            if known:
                text[row, : len(known[:MAX_WORDS])] = np.stack(known[:MAX_WORDS])
        found = {"video": video, "audio": audio, "frames": frames, "text": text}
        return {key: torch.from_numpy(value) for key, value in found.items()}

    @staticmethod
    def _pool(rows: np.ndarray, start: float, end: float, rate: float) -> np.ndarray:
        window = rows[int(start * rate) : int(end * rate) + 1]
        if not len(window):
            return np.zeros(rows.shape[1], dtype=np.float32)
        pooled = window.max(axis=0)
        return pooled / max(float(np.linalg.norm(pooled)), 1e-12)
