"""Time, bytes and memory of a training step on any number of GPUs, computed from the parts of one.

    python benchmarks/scaling.py                                   # from the assumptions below
    python benchmarks/scaling.py --measured gpu/gpu.json           # from what benchmarks/gpu.py measured on one GPU
    python benchmarks/scaling.py --gpus 16 128 --between 25e9      # other numbers of GPUs, slower links between nodes

Nothing is measured here. docs/guides/scaling.md explains the model; tests/test_scaling.py compares its numbers of
operations and bytes with those of processes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Parts:
    """A step of one GPU, and what it has. The defaults are assumptions about the paper's recipe on an H200.

    Args:
        clips: of a GPU.
        dim: width D of the embeddings.
        pairs: of modalities that the contrastive loss compares.
        gathered: embeddings that every GPU of a group needs whole: the second ones of the pairs.
        network: operations of the network in a step, forward and backward; 105e12 with the losses.
        rate: operations a second of a product in bfloat16.
        share: of this rate that the network reaches; losses are products and reach all of it.
        step: seconds of a step of one GPU, if they were measured; they replace ``network``, ``rate`` and ``share``.
        memory_rate: bytes a second that the GPU's memory reads and writes.
        kept: most bytes of the similarities of a pair that are kept for the backward pass.
        passes: over the similarity matrix: reads and writes of element-wise operations and of products.
        parameters: of the network, float32.
        backward: share of the network's time that is backward, under which gradients travel.
        queue: rows of the queue.
        queue_share: share of the clips that are pushed.
        clusters: K.
        every: steps between two runs of k-means.
        iterations: of a run of k-means.
        kmeans_rate: operations a second of k-means, float32 as TF32.
    """

    clips: int = 4096
    dim: int = 6144
    pairs: int = 3
    gathered: int = 2
    network: float = 103.1e12
    rate: float = 790e12
    share: float = 0.55
    step: float | None = None
    memory_rate: float = 4.8e12
    kept: int = 1 << 30
    passes: float = 28.5
    parameters: float = 224e6
    backward: float = 2 / 3
    queue: int = 40_960
    queue_share: float = 0.5
    clusters: int = 256
    every: int = 20
    iterations: int = 30
    kmeans_rate: float = 395e12

    @property
    def network_seconds(self) -> float:
        """Seconds of the network in a step, without the losses."""
        if self.step is None:
            return self.network / (self.rate * self.share)
        return self.step - self.similarity_seconds(1) - self.element_seconds(1)

    def products(self, group: int) -> int:
        """Return the products of a GPU's rows with those of its group, for a pair: one less if tiles are kept."""
        return 3 if 4 * self.clips * group * self.clips <= self.kept else 4

    def similarity_operations(self, group: int) -> float:
        """Return the operations of the similarities of a GPU's clips with those of its group."""
        return self.products(group) * self.pairs * 2 * self.clips * (group * self.clips) * self.dim

    def similarity_seconds(self, group: int) -> float:
        """Return the seconds of these operations."""
        return self.similarity_operations(group) / self.rate

    def element_seconds(self, group: int) -> float:
        """Return the seconds of the element-wise operations on the similarities, which the memory's rate bounds."""
        return self.passes * self.pairs * 4 * self.clips * (group * self.clips) / self.memory_rate

    def kmeans_seconds(self, gpus: int) -> float:
        """Return the seconds of an iteration of k-means on a GPU, without what it exchanges."""
        rows = (self.queue + gpus * self.clips) / gpus
        return max(2 * rows * self.dim * self.clusters / self.kmeans_rate, 4 * rows * self.dim / self.memory_rate)


@dataclass(frozen=True)
class Links:
    """How fast a GPU gets bytes from others. The defaults are those of H200s with NVLink and 400 Gb/s each.

    Args:
        inside: bytes a second inside of a node, one way.
        between: bytes a second of a GPU's link to other nodes.
        node: GPUs of a node.
        hop: seconds that a message takes from one GPU to the next.
    """

    inside: float = 450e9
    between: float = 50e9
    node: int = 8
    hop: float = 5e-6

    def rate(self, group: int) -> float:
        """Return the bytes a second of a ring over a group. Between nodes it uses the links of all GPUs of a node."""
        return self.inside if group <= self.node else min(self.inside, self.node * self.between)

    def seconds(self, received: float, group: int, hops: int = 0) -> float:
        """Return the seconds in which a GPU gets bytes in an operation of a group.

        Args:
            received: bytes that a GPU receives.
            group: GPUs that take part.
            hops: from GPU to GPU; by default once around the ring.
        """
        return 0.0 if group == 1 else received / self.rate(group) + self.hop * (hops or group - 1)


@dataclass(frozen=True)
class Way:
    """How the losses and the queue are spread over the GPUs.

    Args:
        name: of the row.
        group: GPUs whose clips are compared; ``None`` for all.
        before: as it was: float32 rows, gradients summed whole on every GPU, no tiles kept, bounded exponents, and a
            queue on each GPU.
    """

    name: str
    group: int | None = None
    before: bool = False

    def parts(self, parts: Parts) -> Parts:
        """Return the parts of this way."""
        return dataclasses.replace(parts, kept=0, passes=parts.passes + 9) if self.before else parts


WAYS = (
    Way("all, as it was", before=True),
    Way("all"),
    Way("groups of 8", group=8),
)


def embedding_bytes(parts: Parts, group: int, size: int = 2) -> float:
    """Return the bytes of the embeddings that a GPU receives in a step, ``size`` bytes a number."""
    return parts.gathered * (group - 1) * parts.clips * parts.dim * size


def gradient_bytes(parts: Parts, group: int) -> float:
    """Return the bytes that the sum of the gathered embeddings' gradients takes, by reduce-scatter in float32."""
    return parts.gathered * (group - 1) * parts.clips * parts.dim * 4


def normalizer_bytes(parts: Parts, group: int) -> float:
    """Return the bytes of the log-sum-exps that a GPU receives: of all columns, and of the others' rows."""
    return parts.pairs * (group - 1) * (group * parts.clips * 4 + parts.clips * 2 * 4)


def weight_bytes(parts: Parts, gpus: int) -> float:
    """Return the bytes that a GPU receives for the sum of the weights' gradients."""
    return 2 * (gpus - 1) / gpus * parts.parameters * 4


def pushed_bytes(parts: Parts, gpus: int) -> float:
    """Return the most bytes that a GPU receives for its share of the queue."""
    return min(gpus * parts.clips * parts.queue_share, parts.queue / gpus) * parts.dim * 4 * (gpus > 1)


def centroid_bytes(parts: Parts, gpus: int) -> float:
    """Return the bytes of sums, counts and means that a GPU receives in an iteration of k-means."""
    sums, counts = parts.clusters * parts.dim * 4, parts.clusters * 8
    return (2 * (gpus - 1) / gpus * (sums + counts) + sums + 24) * (gpus > 1)


def queue_bytes(parts: Parts, gpus: int) -> float:
    """Return the bytes of the queue on a GPU."""
    return -(-parts.queue // gpus) * parts.dim * 4


def loss_bytes(parts: Parts, group: int) -> float:
    """Return the bytes of the losses at their peak: gathered rows in two precisions and tiles, or their gradients."""
    rows = group * parts.clips
    kept = 4 * parts.clips * rows if parts.products(group) == 3 else 0
    return rows * parts.dim * (4 * parts.gathered + 2 * parts.pairs) * (group > 1) + parts.pairs * kept


def step(parts: Parts, links: Links, way: Way, gpus: int) -> dict[str, float]:
    """Return the milliseconds of a step by part, its GB received, and the GB of losses and queue on a GPU."""
    group = min(way.group or gpus, gpus)
    parts = way.parts(parts)
    rows = embedding_bytes(parts, group, 4 if way.before else 2)
    slopes = gradient_bytes(parts, group) * (2 if way.before else 1)
    scalars, weights = normalizer_bytes(parts, group), weight_bytes(parts, gpus)
    pushed, sums = pushed_bytes(parts, gpus), centroid_bytes(parts, gpus)
    if way.before:
        pushed = (gpus - 1) * parts.clips * parts.queue_share * parts.dim * 4
    tree = 2 * max(1, (gpus - 1).bit_length())
    network = parts.network_seconds
    iteration = parts.kmeans_seconds(gpus) + 3 * links.seconds(sums / 3, gpus, tree)
    seconds = {
        "network": network,
        "similarities": parts.similarity_seconds(group),
        "element-wise": parts.element_seconds(group),
        "rows": links.seconds(rows, group) + links.seconds(slopes, group) + links.seconds(scalars, group),
        "weights": max(0.0, links.seconds(weights, gpus, tree) - parts.backward * network),
        "queue": links.seconds(pushed, gpus, min(gpus, links.node)),
        "k-means": iteration * parts.iterations / parts.every,
    }
    total = sum(seconds.values())
    received = rows + slopes + scalars + weights + pushed + sums * parts.iterations / parts.every
    held = loss_bytes(parts, group), queue_bytes(parts, 1 if way.before else gpus)
    found = {name: 1e3 * value for name, value in seconds.items()} | {"step": 1e3 * total}
    return found | {"GB received": received / 1e9, "GB losses": held[0] / 1e9, "GB queue": held[1] / 1e9}


def rows(parts: Parts, links: Links, counts: Sequence[int], ways: Sequence[Way] = WAYS) -> Iterator[dict[str, object]]:
    """Yield the rows of the table. Efficiency is the clips a second of each GPU, over those of a GPU alone."""
    for way in ways:
        alone = step(parts, links, way, 1)["step"]
        for gpus in counts:
            found = step(parts, links, way, gpus)
            yield {"comparison": way.name, "GPUs": gpus, **found, "efficiency": 100 * alone / found["step"]}


def read_parts(path: Path, parts: Parts) -> Parts:
    """Return the parts with what ``benchmarks/gpu.py`` measured: rates, and the fastest step of the most clips."""
    found = [row for row in json.loads(path.read_text()) if isinstance(row["value"], float)]

    def values(section: str, case: str) -> Mapping[re.Match[str], float]:
        matches = ((re.fullmatch(case, row["case"]), row) for row in found if row["section"] == section)
        return {match: row["value"] for match, row in matches if match is not None}

    steps = {match: value for match, value in values("step", r".*bf16.*, (\d+) clips").items()}
    if not steps or not values("rates", "product .*, bf16"):
        sys.exit(f"error: --measured {path}: expected rows of rates and step, found none; run these sections of gpu.py")
    clips = max(int(match[1]) for match in steps)
    fastest = min(value for match, value in steps.items() if int(match[1]) == clips)
    given: dict[str, float | int] = {"clips": clips, "step": fastest / 1e3}
    names = {"rate": ("product .*, bf16", 1e12), "kmeans_rate": ("product .*, TF32", 1e12),
             "memory_rate": ("copy on the device.*", 1e9)}  # fmt: skip
    for name, (case, unit) in names.items():
        if measured := values("rates", case):
            given[name] = unit * max(measured.values())
    return dataclasses.replace(parts, **given)  # type: ignore[arg-type]


def table(found: Sequence[Mapping[str, object]]) -> str:
    """Return rows as Markdown: milliseconds, GB and per cent."""
    heads = [*found[0]]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in found:
        digits = {name: 2 if name.startswith("GB") else 1 for name in heads} | {"efficiency": 0}
        cells = [f"{value:.{digits[name]}f}" if isinstance(value, float) else str(value) for name, value in row.items()]
        lines.append(f"| {' | '.join(cells)} % |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, help="gpu.json of benchmarks/gpu.py; by default assumptions")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64, 512], help="numbers of GPUs")
    for kind in (Parts, Links):
        for field in dataclasses.fields(kind):
            number = int if isinstance(field.default, int) else float
            parser.add_argument(f"--{field.name}", type=number, default=field.default, help=f"of {kind.__name__}")
    options = parser.parse_args()
    parts, links = (
        kind(**{field.name: getattr(options, field.name) for field in dataclasses.fields(kind)})
        for kind in (Parts, Links)
    )
    if uneven := [gpus for gpus in options.gpus if gpus < 1 or (gpus > 8 and gpus % 8)]:
        parser.error(f"--gpus: expected up to 8, or multiples of 8, found {uneven[0]}")
    if options.measured is not None:
        parts = read_parts(options.measured, parts)
    print(f"{parts}\n{links}\n\nMilliseconds a step, GB a GPU:\n\n{table([*rows(parts, links, options.gpus)])}")


if __name__ == "__main__":
    main()
