"""What the card can do, what a training step takes of it, and which lines make the host wait."""

from __future__ import annotations

import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from gpu_parts.making import make_batch, make_module, step_operations
from gpu_parts.run import Run, matmul_precision
from mcn_lightning import compiling
from mcn_lightning.batch import ClipBatch
from mcn_lightning.data.loading import CopyStream
from mcn_lightning.models.audio import ResDAVEnet
from mcn_lightning.module import MCNModule


def rates(run: Run) -> None:
    """Measure products, copies and the convolutions of the audio network alone."""
    run.add("rates", "torch", torch.__version__, "", f"CUDA {torch.version.cuda}")
    if run.gpu:
        card = torch.cuda.get_device_properties(0)
        run.add("rates", "card", card.name, "", f"{card.total_memory / 1e9:.1f} GB")
    size = run.sizes.product
    for name, dtype, precision in (
        ("bf16", torch.bfloat16, "highest"), ("float32", torch.float32, "highest"), ("TF32", torch.float32, "high"),
    ):  # fmt: skip
        x, y = (torch.randn(size, size, device=run.device).to(dtype) for _ in range(2))
        with matmul_precision(precision):
            run.rates[name] = 2 * size**3 / run.seconds(lambda x=x, y=y: x @ y) / 1e12  # type: ignore[misc]
        run.add("rates", f"product of {size} x {size}, {name}", run.rates[name], "TFLOP/s")
    source = torch.randint(0, 255, (run.sizes.copied,), dtype=torch.uint8, device=run.device)
    target = torch.empty_like(source)
    rate = 2 * len(source) / run.seconds(lambda: target.copy_(source)) / 1e9
    run.add("rates", "copy on the device, read and written", rate, "GB/s")
    host = torch.empty(len(source) // 4, dtype=torch.uint8)
    for name, given in (("pageable", host), ("pinned", host.pin_memory() if run.gpu else host)):
        took = run.seconds(lambda given=given: target[: len(given)].copy_(given, non_blocking=True))  # type: ignore[misc]
        run.add("rates", f"host to device, {name}", len(given) / took / 1e9, "GB/s")
    run.clear()
    for width, steps in zip(run.sizes.widths, (500, 250, 125, 63), strict=True):
        convolutions(run, width, 16 if run.tiny else steps, 4 if run.tiny else 1024)


def convolutions(run: Run, width: int, steps: int, clips: int) -> None:
    """Measure a convolution of the audio network, forward and backward, in two layouts."""
    x = torch.randn(clips, width, steps, device=run.device, dtype=torch.bfloat16, requires_grad=True)
    kernel = torch.randn(width, width, 9, device=run.device, dtype=torch.bfloat16, requires_grad=True)
    flat, flat_kernel = (
        each.detach().unsqueeze(2).contiguous(memory_format=torch.channels_last).requires_grad_()
        for each in (x, kernel)
    )
    work = 3 * 2 * clips * steps * width * width * 9
    ways: dict[str, Callable[[], Tensor]] = {
        "conv1d": lambda: F.conv1d(x, kernel, padding=4),
        "channels-last": lambda: F.conv2d(flat, flat_kernel, padding=(0, 4)),
    }
    for tuned in (False, True):
        torch.backends.cudnn.benchmark = tuned
        for name, way in ways.items():
            slope = torch.randn_like(way())
            rate = work / run.seconds(lambda way=way, slope=slope: way().backward(slope)) / 1e12  # type: ignore[misc]
            case = f"{name}{', cudnn.benchmark' if tuned else ''}, {width} channels x {steps}"
            run.add("rates", case, rate, "TFLOP/s", f"{100 * rate / run.rates['bf16']:.0f} % of the product")
    torch.backends.cudnn.benchmark = False
    run.clear()


def one_step(run: Run, module: MCNModule, batch: ClipBatch, optimizer: Optimizer) -> None:
    """Train for a step."""
    with run.autocast():
        loss = module.training_step(batch, 0)
    assert loss is not None
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def measure_step(run: Run, name: str, clips: int, module: MCNModule, optimizer: Optimizer) -> None:
    """Add a row for a step of some clips."""
    if run.left() < 30:
        return run.add("step", f"{name}, {clips} clips", "left out", "", "no time")
    batch = make_batch(run, clips).to(run.device)
    run.clear()
    try:
        first = run.wall(lambda: one_step(run, module, batch, optimizer))
        took = run.seconds(lambda: one_step(run, module, batch, optimizer))
    except torch.cuda.OutOfMemoryError:
        return run.add("step", f"{name}, {clips} clips", "out of memory")
    rate = step_operations(run, clips) / took / 1e12
    share = f"{100 * rate / run.rates['bf16']:.1f} % of the product, " if run.rates else ""
    note = f"{share}{rate:.3g} TFLOP/s, {clips / took:,.0f} clips/s, first step {first:.1f} s, peak {run.peak():.1f} GB"
    run.add("step", f"{name}, {clips} clips", 1e3 * took, "ms", note)


def steps(run: Run) -> None:
    """Measure steps of several sizes, the parts of the largest, and both layouts of the audio network."""
    module = make_module(run)
    optimizer = module.configure_optimizers()["optimizer"]
    for clips in run.sizes.clips:
        measure_step(run, "eager, bf16", clips, module, optimizer)
    try:
        parts(run, module, run.sizes.clips[-1])
    except torch.cuda.OutOfMemoryError:
        run.add("step", "parts of a step", "out of memory")
    run.clear()
    assert module.network.audio and isinstance(module.network.audio.network, ResDAVEnet)
    torch.backends.cudnn.benchmark = True
    measure_step(run, "eager, bf16, cudnn.benchmark", run.sizes.clips[-1], module, optimizer)
    module.network.audio.network.channels_last = False
    measure_step(run, "conv1d, bf16, cudnn.benchmark", run.sizes.clips[-1], module, optimizer)
    torch.backends.cudnn.benchmark = False
    measure_step(run, "conv1d, bf16", run.sizes.clips[-1], module, optimizer)


def parts(run: Run, module: MCNModule, clips: int) -> None:
    """Measure the parts of a step of some clips."""
    batch, net = make_batch(run, clips).to(run.device), module.network
    run.add("step", f"cutting {clips} clips", 1e3 * run.seconds(batch.ready), "ms")
    ready = batch.ready()
    assert net.audio and net.text and net.video and ready.words is not None
    with run.autocast(), torch.no_grad():
        ways: dict[str, Callable[[], object]] = {
            "audio branch": lambda: net.audio(ready.audio, ready.audio_frames),  # type: ignore[misc]
            "text branch": lambda: net.text(ready.words),  # type: ignore[misc]
            "video branch": lambda: net.video(ready.video),  # type: ignore[misc]
        }
        for name, way in ways.items():
            run.add("step", f"{name}, forward, {clips} clips", 1e3 * run.seconds(way), "ms")
    kind = {"device": run.device, "dtype": torch.bfloat16, "requires_grad": True}
    given = {name: torch.randn(clips, run.sizes.dim, **kind) for name in ("video", "audio", "text")}  # type: ignore

    def losses() -> None:
        with run.autocast():
            total = torch.stack(list(module.contrastive(given).values())).sum()  # type: ignore[misc]
        total.backward()

    run.add("step", f"three losses, forward and backward, {clips} clips", 1e3 * run.seconds(losses), "ms")
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    for name, fused in (("Adam", False), ("Adam, fused", True)):
        optimizer = torch.optim.Adam(weights, lr=0.0, fused=fused)
        run.add("step", name, 1e3 * run.seconds(optimizer.step), "ms")
    module.zero_grad(set_to_none=True)


def compiled(run: Run) -> None:
    """Measure steps with ``model.compile``, in several modes."""
    modes = ("default", "reduce-overhead", "max-autotune-no-cudagraphs")
    for mode in modes[: 1 if run.tiny else None]:
        if run.left() < 90 and not run.tiny:
            run.add("step", f"compiled, {mode}", "left out", "", "no time")
            continue
        torch._dynamo.reset()
        with mock.patch.object(compiling, "_backend", "eager" if run.tiny else "inductor"):
            module = make_module(run, compile=mode)
            measure_step(
                run, f"compiled, {mode}, bf16", run.sizes.clips[-1], module, module.configure_optimizers()["optimizer"]
            )


def waits(run: Run) -> None:
    """Name the lines of a step at which the host waits for the device, as CUDA tells, and time the copy of a batch."""
    module, batch = make_module(run), make_batch(run, run.sizes.clips[0])
    batch = batch.pin_memory() if run.gpu else batch
    with run.autocast():
        module.training_step(batch.to(run.device), 0)
    for name, recluster in (("a step", False), ("a step with k-means", True)):
        found = _waits(run, module, batch, recluster)
        lines = "; ".join(f"{line} x{count}" for line, count in found.most_common(8))
        run.add("waits", name, sum(found.values()) if run.gpu else "not on a CPU", "", lines)
    large = make_batch(run, run.sizes.clips[-1])
    large = large.pin_memory() if run.gpu else large
    size = sum(value.nbytes for value in large._tensors().values())
    for name, ahead in (("waiting", False), ("of the host, without waiting", True)):
        run.wait()
        begun = time.perf_counter()
        large.to(run.device, non_blocking=ahead)
        took = time.perf_counter() - begun
        run.add("waits", f"copy of {run.sizes.clips[-1]} clips, time {name}", 1e3 * took, "ms", f"{size / 1e6:.0f} MB")
    _beside(run, module, large)


def _beside(run: Run, module: MCNModule, batch: ClipBatch) -> None:
    """Compare steps on a batch that is on the device with steps that copy it, before the step and beside the last."""
    optimizer, copies = module.configure_optimizers()["optimizer"], CopyStream()
    there, count = batch.to(run.device), 2 if run.tiny else 6
    ways: dict[str, Callable[[], ClipBatch]] = {
        "nothing copied": lambda: there,
        "copied on a stream beside": lambda: copies.move(batch, run.device),
        "copied before the step": lambda: batch.to(run.device),
    }
    for name, way in ways.items():
        try:
            one_step(run, module, way(), optimizer)
            # in a row: the host goes on to the next copy while the device works
            took = run.wall(lambda way=way: [one_step(run, module, way(), optimizer) for _ in range(count)])  # type: ignore
        except torch.cuda.OutOfMemoryError:
            run.add("waits", f"step of {len(batch)} clips, {name}", "out of memory")
            continue
        run.add("waits", f"step of {len(batch)} clips, {name}", 1e3 * took / count, "ms", f"{count} in a row")


def _waits(run: Run, module: MCNModule, batch: ClipBatch, recluster: bool) -> Counter[str]:
    """Return how often each line of the project waits in a step."""
    found: Counter[str] = Counter()

    def show(message: object, category: object, filename: str, lineno: int, *_: object) -> None:
        if "synchronizing" in str(message):
            own = [frame for frame in traceback.extract_stack() if "/mcn_lightning/" in frame.filename]
            place = (own[-1].filename.split("/mcn_lightning/")[1], own[-1].lineno) if own else (filename, lineno)
            found[f"{place[0]}:{place[1]}"] += 1

    if recluster and module.clustering is not None:
        for _ in range(-(-run.sizes.queue // len(batch))):  # until the queue is full
            with run.autocast(), torch.no_grad():
                module.training_step(batch.to(run.device), 0)
        module.request_clustering(fresh=True)
    shown, warnings.showwarning = warnings.showwarning, show  # type: ignore[assignment]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = show  # type: ignore[assignment]
            if run.gpu:
                torch.cuda.set_sync_debug_mode("warn")
            with run.autocast():
                loss = module.training_step(batch.to(run.device, non_blocking=True), 0)
            assert loss is not None
            loss.backward()
    finally:
        warnings.showwarning = shown
        if run.gpu:
            torch.cuda.set_sync_debug_mode("default")
    module.zero_grad(set_to_none=True)
    return found
