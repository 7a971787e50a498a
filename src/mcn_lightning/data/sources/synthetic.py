"""Generated narrated videos with known topics, in the release's layout."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mcn_lightning.errors import InputError, os_reason
from mcn_lightning.files import making_folder
from mcn_lightning.options.config import Options
from mcn_lightning.options.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, ShareBelowOne

LATENT = 24
WORDS_A_TOPIC = 6
FILLERS = ("so", "now", "we", "the", "and", "then", "this", "with", "you", "just")


@dataclass(frozen=True)
class SyntheticConfig(Options, option="--data.synthetic"):
    """A generated data set.

    Args:
        videos: number of training videos.
        held_out: number of validation videos.
        seconds: length of a video in seconds.
        length_spread: largest random change of a video's length, as a share of it, 0 to below 1.
        caption_seconds: average length of a caption in seconds.
        topics: number of topics. A video has one of them.
        strength: effect of the topic on the features, relative to the effect of the clip's own content.
        noise: standard deviation of the noise of every row and frame, relative to the clip's own content.
        widths: widths of the two visual streams, which have 1 and 1.5 rows a second.
        word_dim: width of the word vectors.
        seed: the same seed gives the same bytes.
    """

    videos: PositiveInt = 120
    held_out: PositiveInt = 20
    seconds: float = 120.0
    length_spread: ShareBelowOne = 0.0
    caption_seconds: PositiveFloat = 6.0
    topics: PositiveInt = 16
    strength: NonNegativeFloat = 1.5
    noise: NonNegativeFloat = 0.5
    widths: tuple[PositiveInt, PositiveInt] = (64, 64)
    word_dim: PositiveInt = 32
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        shortest = self.seconds * (1 - self.length_spread)
        if not shortest >= self.caption_seconds:  # also true for NaN
            expected = f"expected at least caption_seconds ({self.caption_seconds}) in the shortest video"
            raise InputError(f"--data.synthetic.seconds: {expected}, found {shortest:g}")
        if len(self.widths) != 2:
            raise InputError(f"--data.synthetic.widths: expected two widths, found {self.widths}")


class _World:
    """Constants of all videos: directions of the topics, and projections of a latent to each modality."""

    def __init__(self, config: SyntheticConfig) -> None:
        rng = np.random.default_rng((config.seed, 0))
        self.topics = rng.standard_normal((config.topics, LATENT))
        self.visual = [rng.standard_normal((LATENT, width)) / np.sqrt(LATENT) for width in config.widths]
        self.bands = rng.standard_normal((LATENT, 40)) / np.sqrt(LATENT)
        names = [f"topic{t}word{w}" for t in range(config.topics) for w in range(WORDS_A_TOPIC)]
        # a word for each direction of each latent number, so that text tells the clip's own content
        self.traits = [f"trait{i}{sign}" for i in range(LATENT) for sign in ("up", "down")]
        self.words = [*names, *self.traits, *FILLERS]
        self.vectors = rng.standard_normal((len(self.words), config.word_dim)).astype(np.float32)


def write_synthetic(root: Path, config: SyntheticConfig) -> None:
    """Write a generated data set, unless the same one exists already.

    A clip has a topic and a latent of its own. Both determine its rows, its sound and its words.

    Args:
        root: folder to write. It appears whole or not at all.
        config: what to generate.

    Raises:
        InputError: if the folder holds something else, or cannot be made.
    """
    manifest = json.dumps(dataclasses.asdict(config), indent=1, sort_keys=True)
    if _is_same(root, manifest):
        return
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        expected = "expected an empty folder, or data generated with the same --data.synthetic options"
        raise InputError(f"{root}: {expected}, found other files: choose another --data.root or delete it")
    try:
        with making_folder(root) as partial:
            _write_data(partial, config)
            (partial / "synthetic.json").write_text(manifest)
    except OSError as error:
        if not _is_same(root, manifest):  # or another process was faster
            found = os_reason(error)
            raise InputError(f"{root}: expected a place for the generated data, found {found}; give another") from None


def _write_data(root: Path, config: SyntheticConfig) -> None:
    world, captions = _World(config), {}
    splits = (("train", 0, config.videos), ("val", config.videos, config.held_out))
    total = config.videos + config.held_out
    with tqdm(total=total, desc="generating videos", unit=" videos", disable=None) as bar:  # no bar without a terminal
        for split, first, count in splits:
            paths = []
            for number in range(first, first + count):
                name = f"synthetic_{number:05d}"
                captions[name] = _write_video(root / "features" / split / name, name, number, world, config)
                paths.append(f"{split}/{name}")
                bar.update()
            (root / f"{split}.csv").write_text("path\n" + "\n".join(paths) + "\n")
    (root / "captions.json").write_text(json.dumps(captions))
    _write_word_vectors(root / "word_vectors.txt", world)


def _is_same(root: Path, manifest: str) -> bool:
    """Tell whether a folder holds data that were generated with the same options."""
    known = root / "synthetic.json"
    # the manifest is written last, so a folder with it is whole
    return known.is_file() and known.read_bytes() == manifest.encode()


def _write_word_vectors(path: Path, world: _World) -> None:
    """Write the words in word2vec's text format."""
    lines = [f"{len(world.words)} {world.vectors.shape[1]}"]
    for word, row in zip(world.words, world.vectors, strict=True):
        lines.append(f"{word} {' '.join(f'{value:.5f}' for value in row)}")
    path.write_text("\n".join(lines) + "\n")


def _write_video(
    folder: Path, name: str, number: int, world: _World, config: SyntheticConfig
) -> Mapping[str, list[object]]:
    # one generator a video: the same video comes out however many there are
    rng = np.random.default_rng((config.seed, 1, number))
    topic = int(rng.integers(config.topics))
    seconds = config.seconds
    # without a spread no random number is taken: the bytes of a seed stay those of before this option
    if config.length_spread:
        seconds *= 1 + config.length_spread * rng.uniform(-1, 1)
    count = max(1, round(seconds / config.caption_seconds))
    edges = np.linspace(0.0, seconds, count + 1)
    own = rng.standard_normal((count, LATENT))
    latents = config.strength * world.topics[topic] + own
    captions: dict[str, list[object]] = {"start": [], "end": [], "text": [], "topic": []}
    for index in range(count):
        pause = 0.1 * config.caption_seconds * rng.random()
        captions["start"].append(round(float(edges[index] + pause), 2))
        captions["end"].append(round(float(edges[index + 1]), 2))
        captions["text"].append(_sentence(rng, topic, own[index], world))
        captions["topic"].append(topic)
    folder.mkdir(parents=True)
    for suffix, rate, projection in (("_2d", 1.0, world.visual[0]), ("_3d", 1.5, world.visual[1])):
        times = (np.arange(int(np.ceil(seconds * rate))) + 0.5) / rate
        rows = _at(latents, edges, times) @ projection
        # at least 0, as the features of networks that end in a ReLU
        rows = np.maximum(rows + config.noise * rng.standard_normal(rows.shape), 0.0)
        _save(folder / f"{name}{suffix}.npz", "features", rows)
    times = (np.arange(round(seconds * 100)) + 0.5) / 100
    level = _at(latents, edges, times) @ world.bands
    # a mean and a spread as of real spectrograms, whose range is -80 to 0 dB
    level = -35.0 + 8.0 * (level + config.noise * rng.standard_normal(level.shape))
    _save(folder / f"{name}_spec.npz", "arr_0", np.clip(level, -80.0, 0.0).T)
    return captions


def _at(latents: np.ndarray, edges: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return the latent of the caption at each time."""
    return latents[np.clip(np.searchsorted(edges, times, side="right") - 1, 0, len(latents) - 1)]


def _sentence(rng: np.random.Generator, topic: int, own: np.ndarray, world: _World) -> str:
    """Return two words of the topic, the clip's four strongest traits and two fillers, in random order."""
    topic_words = [world.words[topic * WORDS_A_TOPIC + int(i)] for i in rng.choice(WORDS_A_TOPIC, 2, replace=False)]
    strongest = np.argsort(-np.abs(own))[:4]
    traits = [world.traits[2 * int(i) + int(own[i] < 0)] for i in strongest]
    words = [*topic_words, *traits, *rng.choice(FILLERS, 2)]
    return " ".join(str(word) for word in rng.permutation(words))


def _save(path: Path, key: str, array: np.ndarray) -> None:
    """Write an ``.npz`` file."""
    # not np.savez, whose bytes depend on the release of NumPy: the same seed gives the same bytes
    content = io.BytesIO()
    np.save(content, np.ascontiguousarray(array, dtype=np.float16))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo(f"{key}.npy", (1980, 1, 1, 0, 0, 0)), content.getvalue())
