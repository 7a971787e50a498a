"""Alignment of a long video to its transcript, and steps in order, against plain dynamic programming.

    OMP_NUM_THREADS=1 python benchmarks/alignment.py --frames 3600 --entries 40

Scores are random. The plain versions fill one cell of the table after another, in Python; with lengths each cell takes
the maximum over all starts in one NumPy call (T * T * L operations). Both find their way back through stored starts.
The versions take turns; the ratio says how many times as long the plain one takes. The last column is the plain
result's score less this project's. Prints a table, asserts nothing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import rounds

from mcn_lightning.metrics import align, assign_steps


def plain_assign(scores: np.ndarray) -> np.ndarray:
    rows, (seconds, steps) = scores.tolist(), scores.shape
    best = [[0.0] * (seconds + 1)] + [[-np.inf] * (seconds + 1) for _ in range(steps)]
    for step in range(steps):
        above, here = best[step], best[step + 1]
        for second in range(seconds):
            here[second + 1] = max(here[second], above[second] + rows[second][step])
    chosen, second = [], seconds
    for step in reversed(range(steps)):
        while best[step + 1][second] == best[step + 1][second - 1]:
            second -= 1
        second -= 1
        chosen.append(second)
    return np.array(chosen[::-1])


def plain_align(log_probs: np.ndarray) -> np.ndarray:
    rows, (frames, entries) = log_probs.tolist(), log_probs.shape
    best = [-np.inf] * entries
    starts = []
    for frame in range(frames):
        before, best, new = best, [], []
        for entry in range(entries):
            enter = before[entry - 1] if entry else (0.0 if frame == 0 else -np.inf)
            new.append(enter >= before[entry])
            best.append(max(enter, before[entry]) + rows[frame][entry])
        starts.append(new)
    boundaries, frame = [frames], frames - 1
    for entry in reversed(range(entries)):
        while not starts[frame][entry]:
            frame -= 1
        boundaries.append(frame)
        frame -= 1
    return np.array(boundaries[::-1])


def plain_align_with_lengths(log_probs: np.ndarray, means: np.ndarray) -> np.ndarray:
    frames, entries = log_probs.shape
    length = np.arange(1, frames + 1)
    factorial = np.cumsum(np.log(length))
    best = np.full(frames + 1, -np.inf)
    best[0] = 0
    starts = np.zeros((entries, frames + 1), dtype=np.int64)
    for entry in range(entries):
        sums = np.concatenate([[0], np.cumsum(log_probs[:, entry])])
        longest_first = (length * np.log(means[entry]) - means[entry] - factorial)[::-1]
        gain, best = best - sums, np.full(frames + 1, -np.inf)
        for end in range(1, frames + 1):
            values = gain[:end] + longest_first[frames - end :]
            starts[entry, end] = start = values.argmax()
            best[end] = values[start] + sums[end]
    boundaries = [frames]
    for entry in reversed(range(entries)):
        boundaries.append(int(starts[entry, boundaries[-1]]))
    return np.array(boundaries[::-1])


def score(log_probs: np.ndarray, boundaries: np.ndarray, means: np.ndarray | None = None) -> float:
    lengths = np.diff(boundaries)
    total = log_probs[np.arange(len(log_probs)), np.repeat(np.arange(len(lengths)), lengths)].sum()
    if means is not None:
        total += sum(n * np.log(m) - m - np.log(np.arange(1, n + 1)).sum() for n, m in zip(lengths, means, strict=True))
    return float(total)


def seconds(call: Callable[[], np.ndarray]) -> rounds.Measured:
    start, busy = time.perf_counter(), time.process_time()
    call()
    return {"seconds": time.perf_counter() - start, "processor": time.process_time() - busy}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("frames", 3600), ("entries", 40), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = rounds.parse(parser, frames=60, entries=5)
    generator = np.random.default_rng(options.seed)
    x = np.log(generator.random((options.frames, options.entries)))
    means = generator.uniform(0.2, 1.8, options.entries) * options.frames / options.entries
    steps = np.arange(options.entries)
    cases: list[tuple[str, Callable[[], np.ndarray], Callable[[], np.ndarray], Callable[[np.ndarray], float]]] = [
        (
            "alignment with Poisson lengths",
            lambda: plain_align_with_lengths(x, means),
            lambda: align(x, means),
            lambda found: score(x, found, means),
        ),
        ("alignment", lambda: plain_align(x), lambda: align(x), lambda found: score(x, found)),
        (
            "one second a step",
            lambda: plain_assign(x),
            lambda: assign_steps(x),
            lambda found: float(x[found, steps].sum()),
        ),
    ]
    print(f"{options.frames} frames, {options.entries} entries, medians of {options.rounds}")
    print("| | plain | this project | ratio | ratio of processor time | difference of scores |")
    print("|---|---|---|---|---|---|")
    for name, plain, ours, total in cases:
        difference = total(plain()) - total(ours())
        calls = {"plain": plain, "ours": ours}
        found = rounds.take_turns(list(calls), options.rounds, lambda version, calls=calls: seconds(calls[version]))
        times = [f"{1000 * rounds.median(runs, 'seconds'):.1f} ms" for runs in found.values()]
        times += [rounds.ratio(found["plain"], found["ours"], key, 1) for key in ("seconds", "processor")]
        print(f"| {name} | {' | '.join(times)} | {difference:.1g} |")


if __name__ == "__main__":
    main()
