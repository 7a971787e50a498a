"""Time, memory and recall of searches in a generated index, and what the sizes beyond take, on paper.

    python benchmarks/search.py --root DIR --clips 100000 1000000 --dim 1024 --threads 2

Embeddings have a few latent numbers and noise, without clusters, which is hard for lists. Queries are clips with as
much noise again, as sentences lie near their videos. Captions are words by Zipf's law. Embeddings, table and search
index are written and tuned by the code of ``lightning index``; a second run takes them as they are. Searches are timed
one at a time through ``Index.search``, in a new process, from files that are not in memory before ``warm_up``. Prints
tables, asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

import mcn_lightning as mcn
from mcn_lightning.data.text import TextConfig
from mcn_lightning.models.options import NetworkConfig
from mcn_lightning.search.clips import write_clips
from mcn_lightning.search.manifest import CLUSTERS, MANIFEST, MODEL, WORDS, Manifest, hash_model, network_options
from mcn_lightning.search.neighbours import Choice, build, choose, exact
from mcn_lightning.search.vectors import Vectors, write_shard

PAPER = (10_000_000, 120_000_000)
FLOPS, BYTES = 1e11, 1e10
"""Operations and bytes read in a second, of two cores: assumptions of what is on paper."""
EMBEDDING = "an embedding"
LATENT = 32
"""Numbers that an embedding really has."""
VOCABULARY, CAPTION = 20_000, 9
CLIPS_A_VIDEO = 100
CONDITIONS = {
    "`--where`, a tenth of the clips": "video like 'v1%'",
    "`--where`, one cluster of 256": "cluster = 3",
    "`--where`, a fiftieth by time": "start > 485",
    "`--where`, a hundredth by text": "text like '%word99 %'",
}
"""Each search gets its condition with another comment, so that none is known."""


def write_vectors(root: Path, clips: int, dim: int) -> list[tuple[str, int]]:
    """Write embeddings of length 1, in shards of 50,000: LATENT numbers, mapped to D, and noise of half their size."""
    shards, size = [], 50_000
    axes = torch.randn(LATENT, dim, generator=torch.Generator().manual_seed(0)) / LATENT**0.5
    for number, first in enumerate(range(0, clips, size)):
        random = torch.Generator().manual_seed(number + 1)
        rows = min(size, clips - first)
        video = torch.randn(rows, LATENT, generator=random) @ axes
        video += 0.5 * torch.randn(rows, dim, generator=random)
        name = f"vectors-{number:05d}.safetensors"
        video = torch.nn.functional.normalize(video, dim=1)
        write_shard(root / name, {"video": video})
        shards.append((name, rows))
    return shards


def make_clips(clips: int) -> Iterator[dict[str, Any]]:
    """Return rows of the table; the n-th most frequent word of the captions is ``word<n>``."""
    random, share = np.random.default_rng(0), 1 / (np.arange(VOCABULARY) + 3)
    for first in range(0, clips, 10_000):
        words = random.choice(VOCABULARY, (min(10_000, clips - first), CAPTION), p=share / share.sum())
        for row, own in enumerate(words.tolist(), first):
            video, number = divmod(row, CLIPS_A_VIDEO)
            yield {
                "row": row, "id": f"v{video}:{number}", "video": f"v{video}", "split": "test", "kind": "caption",
                "start": 5.0 * number, "end": 5.0 * number + 5, "text": " ".join(f"word{word}" for word in own),
                "cluster": row * 7919 % 256, "has_video": 1, "has_audio": 0, "has_text": 0,
            }  # fmt: skip


def write_index(root: Path, clips: int, dim: int, memory: float) -> None:
    """Write an index with a network of random weights, unless it is there."""
    if (root / MANIFEST).is_file():
        return
    root.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    network = NetworkConfig(embedding_dim=dim, modalities=("video", "text"), video_dim=8, text_dim=8)
    model = mcn.Model(network, clustering={"kind": "none"}).eval()
    save_file(model.network.state_dict(), root / MODEL)
    save_file({}, root / CLUSTERS)
    words = json.dumps([f"word{number}" for number in range(VOCABULARY)])
    save_file({"vectors": torch.randn(VOCABULARY, 8)}, root / WORDS, {"words": words})
    started = time.perf_counter()
    shards = write_vectors(root, clips, dim)
    write_clips(root / "clips-1.sqlite", make_clips(clips), {})
    written = time.perf_counter()
    choice = choose(clips, dim, memory)
    about = build(root / "neighbours-v-1.faiss", Vectors(root, shards), ["video"], np.arange(clips), choice, 0.97)
    took = {"written": written - started, "built": time.perf_counter() - written}
    inputs = mcn.Inputs(text=TextConfig(dim=8)).as_dict()
    Manifest(hash_model(model), took, inputs, network_options(model), "clips-1.sqlite", shards, ["video"],
             {"v": about}).write(root)  # fmt: skip


def forget(root: Path) -> None:
    """Ask the system to drop the files from memory."""
    for path in root.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def make_queries(vectors: Vectors, count: int, seed: int) -> torch.Tensor:
    random = np.random.default_rng(seed)
    rows = vectors.rows(["video"], np.sort(random.choice(len(vectors), count, False)))
    noise = torch.from_numpy(random.standard_normal(rows.shape, dtype=np.float32))
    return torch.nn.functional.normalize(rows + noise * rows.norm() / noise.norm(), dim=1)


def ask(root: Path, asked: torch.Tensor, captions: list[str], threads: int) -> dict[str, Any]:
    """Time searches (runs in a process of its own)."""
    import faiss

    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    started = time.perf_counter()
    index = mcn.Index.open(root)
    index.warm_up()
    warm = time.perf_counter() - started
    sentences = [caption.rpartition(" ")[0] for caption in captions]
    vectors = [{"vector": query} for query in asked]
    kinds: dict[str, list[dict[str, Any]]] = {
        EMBEDDING: vectors,
        "a sentence": [{"text": sentence} for sentence in sentences],
        **{
            kind: [each | {"where": f"{condition} -- {number}"} for number, each in enumerate(vectors)]
            for kind, condition in CONDITIONS.items()
        },
        "`--words`, a caption": [{"words": caption} for caption in captions],
        "a sentence and `--words`": [{"text": sentence, "words": sentence} for sentence in sentences],
        "`--per_video 1 --merge true`": [each | {"per_video": 1, "merge": True} for each in vectors],
    }
    found: dict[str, Any] = {"warm": warm, "times": {}, "answers": {}}
    for kind, queries in kinds.items():
        times, rows = [], []
        for query in queries:
            started = time.perf_counter()
            answers = index.search(**query)
            times.append(1000 * (time.perf_counter() - started))
            rows.append([index.clips.row_of(name) for name in answers["id"]])
        found["times"][kind], found["answers"][kind] = times, rows
    return found | {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}


def measure(root: Path, clips: int, dim: int, memory: float, count: int, threads: int, fresh: bool = True) -> None:
    write_index(root, clips, dim, memory)
    index = mcn.Index.open(root)
    asked = make_queries(index.vectors, count, 1)
    truth = {EMBEDDING: exact(index.vectors, ["video"], asked, 10)[1]}
    for kind, condition in CONDITIONS.items():
        truth[kind] = exact(index.vectors, ["video"], asked, 10, index.clips.where(condition))[1]
    captions = [clip["text"] for clip in index.clips.take(np.random.default_rng(2).integers(0, clips, count).tolist())]
    forget(root)
    if fresh:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(ask, (root, asked, captions, threads))
    else:
        found = ask(root, asked, captions, threads)
    recall = {}
    for kind, rows in truth.items():
        pairs = zip(found["answers"][kind], rows.tolist(), strict=True)
        recall[kind] = sum(len({*answers} & {*true}) for answers, true in pairs) / max(rows.size, 1)
    about = index.manifest.galleries["v"]
    print(f"\n{clips:,} x {dim}: {about['factory']}, {about['probes']} lists, {about['bytes'] / 1e6:,.0f} MB, built in "
          f"{index.manifest.options['built']:.0f} s beside {index.manifest.options['written']:.0f} s for the "
          f"rest; warm after {found['warm']:.1f} s; most memory {found['memory']:.1f} GB, mapped files "
          "included\n")  # fmt: skip
    print("| query | first | median | 95 % within | recall@10 |\n|---|---|---|---|---|")
    for kind, times in found["times"].items():
        right = f"{recall[kind]:.3f}" if kind in recall else ""
        print(
            f"| {kind} | {times[0]:.0f} ms | {np.median(times):.1f} ms | {np.percentile(times, 95):.1f} ms | {right} |"
        )


def on_paper(clips: int, dim: int, memory: float) -> str:
    """Return bytes, time to assign all clips to lists, and time to read 256 lists and all centres."""
    choice: Choice = choose(clips, dim, memory)
    lists = int(choice.factory[3:].split(",")[0])
    hours = 2 * clips * lists * dim / FLOPS / 3600
    read = 4 * lists * dim + choice.bytes * min(256 / lists, 1)
    return (
        f"| {clips:,} x {dim} | {choice.factory} | {2 * clips * dim / 1e9:.0f} GB | {choice.bytes / 1e9:.1f} GB "
        f"| {hours:.1f} h | {read / 1e6:.0f} MB | {1000 * read / BYTES:.0f} ms |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder for the generated indexes")
    parser.add_argument("--clips", type=int, nargs="+", default=[100_000], help="sizes to measure")
    parser.add_argument("--dim", type=int, default=1024, help="width of an embedding")
    parser.add_argument("--memory", type=float, default=4.0, help="gigabytes of a search index")
    parser.add_argument("--queries", type=int, default=100, help="queries of each kind")
    parser.add_argument("--threads", type=int, default=2, help="threads of a search")
    parser.add_argument(
        "--tiny", action="store_true", help="a thousand clips, in this process alone: does the script run"
    )
    args = parser.parse_args()
    if args.tiny:
        args.clips, args.dim, args.queries, args.memory = [1_000], 32, 10, 1e-4
    for clips in args.clips:
        root = args.root / f"{clips}-{args.dim}"
        measure(root, clips, args.dim, args.memory, args.queries, args.threads, fresh=not args.tiny)
    print("\n| on paper | search index | embeddings | its size | built in | read by a search of 256 lists | in |")
    print("|---|---|---|---|---|---|---|")
    for clips in PAPER:
        print(on_paper(clips, 1024, 12.0))


if __name__ == "__main__":
    main()
