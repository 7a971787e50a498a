"""Memory of batches: neighbours are joined without a copy, and nothing that is still held is written to."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import pytest
import torch

from mcn_lightning import memory
from mcn_lightning.batch import ClipBatch
from mcn_lightning.data.loading import ClipLoader, CopyStream, collate
from mcn_lightning.errors import InputError
from mcn_lightning.memory import Blocks, Slots, join


def address(tensor):
    return tensor.untyped_storage().data_ptr()


def test_a_block_is_used_again_only_when_nothing_holds_it():
    blocks = Blocks()
    first = blocks.new((1000, 3), torch.float32).fill_(1.0)
    second = blocks.new((1000, 3), torch.float32).fill_(2.0)
    assert address(first) != address(second)
    view, where = first[10:20, 1], address(first)
    del first
    third = blocks.new((1000, 3), torch.float32).fill_(3.0)
    assert address(third) != where and (view == 1.0).all()  # a view holds the block
    del view
    gc.collect()
    assert address(blocks.new((2000, 3), torch.float16)) == where  # as many bytes
    assert (second == 2.0).all() and (third == 3.0).all()


def test_the_number_of_blocks_is_bounded():
    blocks = Blocks()
    held = [blocks.new((100,), torch.uint8).fill_(number) for number in range(50)]
    assert len(blocks._blocks) <= 12
    assert all((tensor == number).all() for number, tensor in enumerate(held))


@pytest.mark.parametrize("time_major", [False, True])
def test_neighbours_are_joined_where_they_are(time_major):
    slots = Slots(3, Blocks())
    parts = []
    for number in range(3):
        part = slots.take("audio", (2, 5, 7), torch.float16).fill_(number)
        parts.append(part.transpose(1, 2) if time_major else part)
    whole = join(parts)
    assert whole.data_ptr() == parts[0].data_ptr() and whole.shape == (6, *parts[0].shape[1:])
    assert torch.equal(whole, torch.cat(parts)) and whole.stride(1) == parts[0].stride(1)
    assert torch.equal(join(parts[:2]), torch.cat(parts[:2]))
    for others in (parts[::-1], [parts[0], parts[2]], [parts[0], parts[1].clone()]):
        assert torch.equal(join(others), torch.cat(others)) and join(others).data_ptr() != others[0].data_ptr()


def test_a_part_of_another_shape_or_too_many_get_memory_of_their_own():
    slots = Slots(2, Blocks())
    first = slots.take("x", (2, 4), torch.float32)
    for shape, dtype in (((2, 5), torch.float32), ((2, 4), torch.float16), ((3, 4), torch.float32)):
        other = slots.take("x", shape, dtype)
        assert tuple(other.shape) == shape and other.dtype == dtype and address(other) != address(first)
    second = slots.take("x", (2, 4), torch.float32)
    assert address(second) == address(first)
    assert address(slots.take("x", (2, 4), torch.float32)) != address(first)
    mixed = [first.fill_(1.0), torch.ones(1, 4, dtype=torch.float16)]
    assert join(mixed).dtype == torch.float32 and (join(mixed) == 1).all()


class Numbers(torch.utils.data.Dataset):
    """Batches of one tensor that holds the number of the batch, in slots of recycled memory."""

    def __init__(self):
        self.blocks = Blocks()

    def __len__(self):
        return 60

    def __getitems__(self, keys):
        part = Slots(1, self.blocks).take("video", (1, 50_000), torch.float16)
        return [ClipBatch(ids=(str(keys[0]),), video=part.fill_(keys[0]))]


@pytest.mark.parametrize("workers", [1, 2])
def test_what_workers_send_stays_as_long_as_it_is_held_and_is_used_again_after(workers):
    loader = ClipLoader(Numbers(), batch_size=1, num_workers=workers, collate_fn=lambda items: items[0])
    held, places = {}, set()
    for number, batch in enumerate(loader):
        places.add(batch.video.data_ptr())
        if number % 3 == 0:
            held[number] = batch.video[0, 100:200]  # a view of it is enough
        assert (batch.video == number).all()
        for kept, view in held.items():
            assert (view == kept).all()
        if len(held) > 4:
            del held[min(held)]
        del batch
    assert len(places) < 40  # 60 batches, and few of them held at a time


def test_every_batch_may_be_held():
    loader = ClipLoader(Numbers(), batch_size=1, num_workers=2, collate_fn=lambda items: items[0])
    batches = list(loader)
    assert all((batch.video == number).all() for number, batch in enumerate(batches))
    assert len({batch.video.data_ptr() for batch in batches}) == 60


def test_pinned_copies_give_the_block_back(monkeypatch):
    # there may be no device to pin for
    monkeypatch.setattr("mcn_lightning.batch.in_one_piece", lambda tensors, pin: memory.in_one_piece(tensors, not pin))
    loader = ClipLoader(Numbers(), batch_size=1, num_workers=1, collate_fn=lambda items: items[0])
    copies = [batch.pin_memory() for batch in torch.utils.data.DataLoader.__iter__(loader)]
    assert all((copy.video == number).all() for number, copy in enumerate(copies))


def test_one_piece_holds_every_tensor_as_it_was_and_is_moved_as_one(monkeypatch):
    given = {
        "time_major": torch.rand(3, 7, 5).transpose(1, 2), "bytes": torch.arange(5, dtype=torch.uint8),
        "gaps": torch.rand(4, 6)[:, 1:3], "none": torch.zeros(0, 4), "long": torch.arange(3),
        "scalar": torch.tensor(2.0),
    }  # fmt: skip
    found = memory.in_one_piece(given, pin=False)
    assert len({address(tensor) for tensor in found.values()}) == 1
    assert all(torch.equal(found[name], tensor) for name, tensor in given.items())
    assert found["time_major"].stride() == given["time_major"].stride()
    copies = []

    def to(tensor, device, non_blocking):
        copies.append((tensor.dtype, device, non_blocking))
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "to", to)
    there = memory.moved(found, "cuda", True)
    assert copies == [(torch.uint8, "cuda", True)] and len({address(tensor) for tensor in there.values()}) == 1
    assert all(torch.equal(there[name], tensor) for name, tensor in given.items())
    assert address(there["long"]) != address(found["long"])
    copies.clear()
    apart = memory.moved({"a": given["long"], "b": given["bytes"]}, "cuda", False)
    assert len(copies) == 2 and torch.equal(apart["a"], given["long"])


def test_a_copy_to_a_gpu_has_a_stream_of_its_own_that_the_next_step_waits_for(monkeypatch):
    done, device = [], torch.device("cuda", 0)

    class Stream:
        def __init__(self, name):
            self.name = name

        def wait_stream(self, other):
            done.append(f"{self.name} waits for {other.name}")

        def __enter__(self):
            done.append(f"on {self.name}")

        def __exit__(self, *_):
            done.append(f"off {self.name}")

    class Batch:
        def to(self, device, non_blocking):
            done.append(f"to {device}, {non_blocking}")
            return self

        def record_stream(self, stream):
            done.append(f"kept for {stream.name}")

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("side"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("main"))
    copies = CopyStream()
    copies.move(Batch(), device)
    assert done == ["on side", "to cuda:0, True", "off side", "main waits for side", "kept for main"]
    assert len(copies._streams) == 1 and copies.move(Batch(), torch.device("cpu")) and done[-1] == "to cpu, True"


@pytest.mark.parametrize(
    ("free", "found"), [(57_344, "found 57,344 in /dev/shm; .*size$"), (10**9, "found no; .* -n$")]
)
def test_full_shared_memory_is_one_line(monkeypatch, free, found):
    def full(size):
        raise RuntimeError("no")

    monkeypatch.setattr(torch.UntypedStorage, "_new_shared", full)  # the worker is a fork, and has it too
    monkeypatch.setattr(memory.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    with pytest.raises(InputError, match=f"^--data.num_workers: expected 100,064 bytes of shared memory .*{found}"):
        list(ClipLoader(Numbers(), batch_size=1, num_workers=1, collate_fn=lambda items: items[0]))


class Apart(Numbers):
    """Batches whose parts are not neighbours."""

    def __getitems__(self, keys):
        return [ClipBatch(ids=(str(key),), video=torch.full((2, 50_000), float(key))) for key in keys]


def test_memory_that_will_not_be_used_again_is_not_kept():
    before = len(memory._mapped)
    for batch in ClipLoader(Apart(), batch_size=4, num_workers=1, collate_fn=collate):
        assert batch.video.shape == (8, 50_000)
    assert len(memory._mapped) == before
