"""``model.compile``: one graph each for network and losses, for batches of all sizes, with the same numbers."""

from __future__ import annotations

import shutil
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from modules import CLUSTERING, NETWORK, make_data, make_module, make_trainer
from processes import run as run_processes
from torch import Tensor, nn
from torch import distributed as dist
from torch._dynamo.utils import counters
from torch.nn.parallel import DistributedDataParallel

from mcn_lightning import compiling
from mcn_lightning.batch import BadVideo, ClipBatch
from mcn_lightning.data.text import WordVectors
from mcn_lightning.errors import InputError
from mcn_lightning.module import MCNModule
from mcn_lightning.training.optimizer import OptimizerConfig


@pytest.fixture
def graphs(monkeypatch):
    """Compile without kernels, and return the counter of the graphs."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counters.clear()
    counter = CompileCounter()
    monkeypatch.setattr(compiling, "_backend", counter)
    yield counter
    torch._dynamo.reset()


def test_modes(monkeypatch):
    """Torch gets the mode, and CUDA graphs are left to training batches of the usual size."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(torch, "compile", lambda function, **given: asked.append(given) or function)
    assert compiling.make_compiler(False) is None
    for value in (True, "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"):
        compiler = compiling.make_compiler(value)
        assert compiler is not None
        for usual in (True, False):
            compiling._compiled.cache_clear()
            assert compiler.call(torch.add, torch.ones(2), 1, free=(), usual=usual).tolist() == [2, 2]
    compiling._compiled.cache_clear()
    none = "max-autotune-no-cudagraphs"
    expected = ["default", "default", "reduce-overhead", "default", "max-autotune", none, none, none]
    assert asked == [{"backend": "inductor", "mode": mode} for mode in expected]
    modes = "default, reduce-overhead, max-autotune, max-autotune-no-cudagraphs"
    message = f"--model.compile: expected true, false or one of {modes}, found fast; choose one"
    with pytest.raises(InputError) as refused:
        make_module(compile="fast")
    assert str(refused.value) == message


def test_no_compiler_is_one_line(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        InputError, match=r"^--model.compile: expected a C\+\+ compiler \(no-such-compiler\), found none;"
    ):
        compiling.check_compiler("cpu")
    compiling.check_compiler("cuda")  # kernels of Triton


def train(tiny, folder, compile: bool, epochs: int = 2, checkpoint: Any = None) -> dict[str, Any]:
    """Train on six videos of which one cannot be read, then evaluate and predict; return all numbers."""
    torch.manual_seed(0)
    data, losses = make_data(tiny, batch_size=3, val_csv="val.csv"), list[Tensor]()
    # constant: a run of one epoch is then the first half of one of two
    optimizer = OptimizerConfig(lr=0.01, warmup_steps=0, schedule="constant")
    module = MCNModule(NETWORK, clustering=CLUSTERING, optimizer=optimizer, compile=compile)
    step = module.training_step

    def noted(batch: ClipBatch, batch_idx: int) -> Tensor:
        if batch_idx == 1:
            kept = batch.take(range(4, len(batch)))
            batch = ClipBatch(**{**vars(kept), "skipped": (BadVideo("a", "damaged"),)})
        losses.append(step(batch, batch_idx))
        return losses[-1]

    module.training_step = noted  # type: ignore[method-assign]
    trainer = make_trainer(folder, max_epochs=epochs, enable_checkpointing=False)
    trainer.fit(module, data, ckpt_path=checkpoint)
    trainer.save_checkpoint(folder / "end.ckpt")
    trainer.limit_val_batches = 1.0
    found = trainer.predict(module, data)
    assert found is not None
    return {
        "losses": torch.stack(losses).detach(),
        "weights": module.state_dict(),
        "predicted": [part["video"] for part in found],
        "metrics": trainer.validate(module, data, verbose=False),
    }


def test_compiled_runs_are_the_same_runs(graphs, tiny, tmp_path):
    """A run that is compiled, its evaluation, and its checkpoint, which a run without compiling goes on from."""
    for name in ("plain", "half", "resumed", "compiled"):
        (tmp_path / name).mkdir()
    plain = train(tiny, tmp_path / "plain", False)
    assert graphs.frame_count == 0
    train(tiny, tmp_path / "half", True, epochs=1)
    # network and losses in training, and the network in evaluation; a batch of a video less has no graph of its own
    assert graphs.frame_count == 3 and not counters["graph_break"]
    compiled = train(tiny, tmp_path / "compiled", True)
    assert graphs.frame_count == 3
    for again in (compiled, train(tiny, tmp_path / "resumed", False, checkpoint=tmp_path / "half" / "end.ckpt")):
        steps = len(again["losses"])
        assert torch.equal(again["losses"], plain["losses"][-steps:])
        assert list(again["weights"]) == list(plain["weights"])  # no `_orig_mod`
        assert all(map(torch.equal, again["weights"].values(), plain["weights"].values()))
        assert all(map(torch.equal, again["predicted"], plain["predicted"]))
        assert again["metrics"] == plain["metrics"] and again["metrics"]


class Step(nn.Module):
    """A module that can be wrapped: forward is the training step of one of ours."""

    def __init__(self, module: MCNModule) -> None:
        super().__init__()
        self.module = module
        module._trainer = SimpleNamespace(global_step=1)  # type: ignore[assignment]
        module.log = module.log_dict = lambda *_, **__: None  # type: ignore[method-assign]

    def forward(self, batch: ClipBatch) -> Tensor:
        loss = self.module.training_step(batch, 0)
        assert loss is not None
        return loss


def clips(count: int, rank: int, lacking: int = 0) -> ClipBatch:
    generator = torch.Generator().manual_seed(count + 100 * rank)
    present = None if lacking == 0 else torch.arange(count)[:, None] >= torch.tensor([0, lacking, 0])
    return ClipBatch(
        ids=tuple(f"v{rank}:{clip}" for clip in range(count)),
        video=torch.rand(count, 16, generator=generator),
        audio=-80 * torch.rand(count, 96, 40, generator=generator).transpose(1, 2),
        audio_frames=torch.full((count,), 80),
        words=torch.randint(1, 9, (count, 5), generator=generator, dtype=torch.int32),
        clips_per_video=1,
        present=present,
    )


def steps_of(compile: bool) -> tuple[list[Tensor], int]:
    """Train for a few steps of several sizes; return losses and gradients, and the number of graphs."""
    from torch._dynamo.testing import CompileCounter

    rank = dist.get_rank()
    compiling._backend = counter = CompileCounter()  # type: ignore[assignment]
    torch.manual_seed(0)
    module = make_module(compile=compile)
    assert module.network.text is not None
    module.network.text.set_embedder(WordVectors(torch.randn(9, 8)))
    # small buckets: torch cuts the graph where the gradients of a bucket are sent
    dist._DEFAULT_FIRST_BUCKET_BYTES = 5000
    wrapped = DistributedDataParallel(Step(module), bucket_cap_mb=0.01, broadcast_buffers=False)
    found = []
    for count, lacking in ((6, 0), (5, 0), (6, 2), (5 + rank, 0), (6, 3)):
        loss = wrapped(clips(count, rank, lacking))
        module.backward(loss)
        found += [loss.detach(), *(weight.grad for weight in module.parameters() if weight.grad is not None)]
        wrapped.zero_grad()
    return found, counter.frame_count


def two_processes() -> list[int]:
    """Return how many graphs the steps take, after comparing them with those that are not compiled."""
    plain, compiled = steps_of(False), steps_of(True)
    assert len(plain[0]) == len(compiled[0]) > 50 and plain[1] == 0
    assert all(map(torch.equal, plain[0], compiled[0]))
    return [compiled[1], sum(counters["graph_break"].values())]


def test_two_processes_compile_the_network():
    """Losses and gradients are bit for bit the same, also where clips lack a modality."""
    (graphs, breaks), other = run_processes(two_processes)
    assert other == [graphs, breaks]
    # two kinds of batches, each cut into the same pieces; no graph is for a size
    assert breaks == 0 and graphs == (6 if torch.__version__ >= (2, 5) else 2)  # torch 2.4 does not cut it


def doubled(x: Tensor) -> Tensor:
    return (2 * x).relu()


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler makes the kernels")
def test_a_kernel_is_for_all_sizes():
    """What torch compiles by default, for a function that is small enough for a test."""
    torch._dynamo.reset()
    counters.clear()
    compiler = compiling.Compiler("default")
    for size in (5, 8, 3):
        x = torch.arange(-2.0, size)
        assert torch.equal(compiler.call(doubled, x, free=[x]), doubled(x))
    assert counters["stats"]["unique_graphs"] == 1
