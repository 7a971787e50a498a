"""What the sections of the GPU benchmark share: sizes, clocks, and the table that they fill."""

from __future__ import annotations

import contextlib
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sizes:
    """Sizes of what is measured; the defaults are those of the paper's recipe."""

    dim: int = 6144
    widths: tuple[int, ...] = (128, 256, 512, 1024)
    clips: tuple[int, ...] = (512, 1024, 2048, 4096)
    clips_per_video: int = 32
    frames: int = 1000
    words: int = 60_000
    clusters: int = 256
    queue: int = 40_960
    video: int = 4096
    loss_clips: tuple[int, ...] = (4096, 16_384, 65_536)
    loss_dim: int = 1024
    tiles: tuple[int, ...] = (2048, 8192)
    rows: int = 45_056
    gallery: int = 100_000
    gallery_dim: int = 512
    parity: int = 48
    product: int = 8192
    copied: int = 1 << 30
    repeats: int = 5


TINY = Sizes(
    dim=32, widths=(8, 8, 16, 16), clips=(16, 32), clips_per_video=8, frames=64, words=500, clusters=4, queue=64,
    video=64, loss_clips=(64,), loss_dim=16, tiles=(16, 32), rows=256, gallery=200, gallery_dim=16, parity=12,
    product=64, copied=1 << 16, repeats=1,
)  # fmt: skip


@dataclass
class Run:
    """A run of the benchmark.

    Args:
        device: what is measured.
        tiny: whether the sizes are those of a test.
        budget: seconds for all sections; what would go beyond is left out.
        out: folder of the table.
    """

    device: torch.device
    tiny: bool
    budget: float
    out: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)
    begun: float = field(default_factory=time.perf_counter)

    @property
    def sizes(self) -> Sizes:
        """The sizes of what is measured."""
        return TINY if self.tiny else Sizes()

    @property
    def gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.budget - (time.perf_counter() - self.begun)

    def add(self, section: str, case: str, value: object, unit: str = "", note: str = "") -> None:
        """Add a row to the table, and print it."""
        value = float(f"{value:.4g}") if isinstance(value, float) else value
        self.rows.append({"section": section, "case": case, "value": value, "unit": unit, "note": note})
        print(f"[{time.perf_counter() - self.begun:6.1f} s] {section} | {case} | {value} {unit} {note}", flush=True)

    def verdict(self, case: str, error: float, limit: float, unit: str = "relative error") -> None:
        """Add an error, and whether it is within its limit; NaN is not."""
        note = "ok" if error <= limit else f"BAD: above {limit:g}"
        self.add("parity", case, error, unit, note)

    def table(self) -> str:
        """Return the rows as Markdown."""
        lines = ["| section | case | value | unit | note |", "|---|---|---|---|---|"]
        lines += [f"| {' | '.join(str(cell) for cell in row.values())} |" for row in self.rows]
        return "\n".join(lines) + "\n"

    def write(self) -> None:
        """Write the table so far, as Markdown and JSON."""
        (self.out / "gpu.md").write_text(self.table())
        (self.out / "gpu.json").write_text(json.dumps(self.rows, indent=1))

    def wait(self) -> None:
        """Wait for the device."""
        if self.gpu:
            torch.cuda.synchronize()

    def clear(self) -> None:
        """Give the device's memory back, and count its peak anew."""
        if self.gpu:
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> float:
        """Return the peak of the device's memory since ``clear``, in GB."""
        return torch.cuda.max_memory_allocated() / 1e9 if self.gpu else float("nan")

    def seconds(self, call: Callable[[], object], repeats: int | None = None, warm: int = 2) -> float:
        """Return the median time of a call, by the device's clock where it has one."""
        for _ in range(0 if self.tiny else warm):
            call()
        return statistics.median(self._once(call) for _ in range(repeats or self.sizes.repeats))

    def _once(self, call: Callable[[], object]) -> float:
        if not self.gpu:
            begun = time.perf_counter()
            call()
            return time.perf_counter() - begun
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.wait()
        first.record()
        call()
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last)) / 1e3

    def wall(self, call: Callable[[], object]) -> float:
        """Return the time of one call until the device has done its work, for calls that wait for it themselves."""
        self.wait()
        begun = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - begun

    def autocast(self, on: bool = True) -> torch.autocast:
        """Return the context of bf16."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=on)


@contextlib.contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Set the precision of float32 products in the block."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def relative(found: Tensor, truth: Tensor) -> float:
    """Return the norm of the difference over that of the truth, in float64."""
    found, truth = (side.detach().double().cpu() for side in (found, truth))
    return float((found - truth).norm() / truth.norm().clamp(min=1e-30))
