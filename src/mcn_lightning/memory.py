"""Memory of batches: each batch is written once, and its memory is reused when the batch is gone.

A batch of 128 videos takes 400 MB. Fresh memory costs a page fault for every 4 kB, which takes several times as long
as writing to it. Joining small tensors into a large one writes every byte twice. So each video of a batch writes into
a slot of the batch's memory. Joining the videos then only checks that their slots are adjacent.

Workers of a data loader write into blocks of shared memory. The header of a block holds a flag: the block is in use.
The training process clears the flag when the last tensor over the block is freed.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import sys
import weakref
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from mcn_lightning.errors import one_line

_MAX_BLOCKS = 12
"""Most blocks that are kept: three batches of four large tensors."""
# 64 bytes: a cache line, and a multiple of the size of every number type
_HEADER = 64
# tells our blocks from other shared tensors that start at the same offset
_MARK = np.frombuffer(b"mcnblock", dtype=np.uint8)
_mapped: dict[int, torch.UntypedStorage] = {}
"""Shared blocks that this process has mapped, by address. Mapping them again for each batch would cost page faults."""


class SharedMemoryError(OSError):
    """Shared memory is full. The message is one line. A worker raises it, so it is no error of a video."""


def _new_shared(size: int) -> torch.UntypedStorage:
    try:
        return torch.UntypedStorage._new_shared(size)
    except RuntimeError as error:
        left = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else 0
        what = f"{size:,} bytes of shared memory for a part of a batch"
        if left > size:  # too many open files, for instance
            raise SharedMemoryError(
                f"--data.num_workers: expected {what}, found {one_line(error)}; lower it, or raise ulimit -n"
            ) from None
        raise SharedMemoryError(
            f"--data.num_workers: expected {what}, found {left:,} in /dev/shm; give a container more (docker run "
            "--shm-size 8g), or lower it or the batch size"
        ) from None


class Blocks:
    """A pool of memory blocks. A block is reused once no tensor uses it.

    Args:
        max_blocks: most blocks in the pool.
    """

    def __init__(self, max_blocks: int = _MAX_BLOCKS) -> None:
        self.max_blocks = max_blocks
        self._blocks: list[np.ndarray] = []
        self._shared: list[tuple[torch.UntypedStorage, np.ndarray]] = []

    def __getstate__(self) -> dict[str, object]:
        """Pickle without the blocks: each process has its own."""
        return {"max_blocks": self.max_blocks, "_blocks": [], "_shared": []}

    def new(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return an uninitialised tensor. In a worker of a data loader it lies in shared memory.

        Args:
            shape: of the tensor.
            dtype: of the tensor.
        """
        size = int(np.prod(shape)) * dtype.itemsize
        if get_worker_info() is not None:
            storage = self._free_shared(size)
            # the offset is in numbers of the tensor's type, not in bytes
            return _over(storage, dtype, tuple(shape), _HEADER // dtype.itemsize)
        block = self._free(size)
        return torch.from_numpy(block[:size]).view(dtype).view(tuple(shape))

    def _free(self, size: int) -> np.ndarray:
        for number in range(len(self._blocks)):
            # 2 references mean that only this list and this call hold the block: every tensor over it holds it too
            if size <= self._blocks[number].nbytes <= 2 * size and sys.getrefcount(self._blocks[number]) == 2:
                return self._blocks[number]
        # the oldest block leaves the pool, and is freed when its last tensor is
        block = _fresh(size)
        self._blocks = [*self._blocks, block][-self.max_blocks :]
        return block

    def _free_shared(self, size: int) -> torch.UntypedStorage:
        # at most twice the size: a small batch must not hold a large block
        for storage, header in self._shared:
            if _HEADER + size <= storage.nbytes() <= _HEADER + 2 * size and not header[len(_MARK)]:
                header[len(_MARK)] = 1
                return storage
        storage = _new_shared(_HEADER + size)
        header = _bytes_of(storage)[:_HEADER]
        header[: len(_MARK)], header[len(_MARK)] = _MARK, 1
        self._shared = [*self._shared, (storage, header)][-self.max_blocks :]
        return storage


def _bytes_of(storage: torch.UntypedStorage) -> np.ndarray:
    return _over(storage, torch.uint8, (storage.nbytes(),)).numpy()


def _over(storage: torch.UntypedStorage, dtype: torch.dtype, shape: tuple[int, ...], offset: int = 0) -> Tensor:
    """Return a tensor that views a part of a storage."""
    return torch.empty(0, dtype=dtype).set_(storage, offset, shape)  # type: ignore[call-overload]


def _is_block(tensor: Tensor) -> bool:
    if not tensor.is_shared() or tensor.storage_offset() * tensor.element_size() != _HEADER:
        return False
    return bool((_bytes_of(tensor.untyped_storage())[: len(_MARK)] == _MARK).all())


def _give_back(header: np.ndarray, process: int) -> None:
    if os.getpid() == process:  # the copies of the tensors in a forked child must not free the block
        header[len(_MARK)] = 0


def received(tensor: Tensor) -> Tensor:
    """Take over a tensor from a worker. Its block is released when the last view of it is freed.

    Args:
        tensor: any tensor. One that is not in a block of a worker is returned as it is.
    """
    if not _is_block(tensor):
        return tensor
    storage = tensor.untyped_storage()
    # kept: torch would unmap the block with the batch, and map it anew for the next
    _mapped[storage.data_ptr()] = storage
    # a worker that ended leaves its blocks behind, so the number is bounded
    while len(_mapped) > 16 * _MAX_BLOCKS:
        del _mapped[next(iter(_mapped))]
    content = _bytes_of(storage)
    size = len(content) // tensor.element_size() * tensor.element_size()
    own = content[_HEADER:size]  # from_numpy keeps this object alive as long as a tensor uses the memory
    weakref.finalize(own, _give_back, content[:_HEADER], os.getpid())
    return torch.from_numpy(own).view(tensor.dtype).as_strided(tensor.shape, tensor.stride())


def in_one_piece(tensors: Mapping[str, Tensor], pin: bool) -> dict[str, Tensor]:
    """Copy tensors into one piece of memory, and release their blocks. ``moved`` then takes one copy for all.

    Args:
        tensors: on the CPU.
        pin: whether the piece is page-locked, which lets a copy to a GPU run beside its kernels.
    """
    # on meta, which has strides and no memory; they are the tensor's own where it has no gaps
    wanted = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    sizes = [-(-each.nbytes // _HEADER) * _HEADER for each in wanted.values()]
    # one more: torch refuses to pin a piece of no bytes
    whole = torch.empty(max(sum(sizes), _HEADER), dtype=torch.uint8, pin_memory=pin)
    parts = {}
    for (name, like), size in zip(wanted.items(), sizes, strict=True):
        (part, whole) = (whole[: like.nbytes], whole[size:])
        parts[name] = part.view(like.dtype).as_strided(like.shape, like.stride()).copy_(received(tensors[name]))
    return parts


def moved(tensors: Mapping[str, Tensor], device: torch.device | str, non_blocking: bool) -> dict[str, Tensor]:
    """Move tensors to a device, in a single copy if they lie in one piece of the CPU's memory.

    Args:
        tensors: by name.
        device: of the result.
        non_blocking: whether the host goes on at once, where the memory allows it.
    """
    given = list(tensors.values())
    if torch.device(device).type != "cpu" and len(given) > 1 and all(each.device.type == "cpu" for each in given):
        storage = given[0].untyped_storage()
        used = sum(each.nbytes for each in given)
        # at least half: the tensors may be small parts of something large
        if 2 * used >= storage.nbytes() and len({each.untyped_storage().data_ptr() for each in given}) == 1:
            whole = _over(storage, torch.uint8, (storage.nbytes(),)).to(device, non_blocking=non_blocking)
            return {name: _part_like(whole, each) for name, each in tensors.items()}
    return {name: each.to(device, non_blocking=non_blocking) for name, each in tensors.items()}


def _part_like(whole: Tensor, tensor: Tensor) -> Tensor:
    first = tensor.storage_offset() * tensor.element_size()
    return whole[first : first + tensor.nbytes].view(tensor.dtype).as_strided(tensor.shape, tensor.stride())


def _fresh(size: int) -> np.ndarray:
    """Return new memory, in huge pages where the system has them."""
    if size < 1 << 22:  # 4 MiB: a huge page is 2 MiB, so small blocks gain little from them
        return np.empty(max(size, 1), dtype=np.uint8)
    memory = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype=np.uint8)


class Slots:
    """Memory of one batch, in which each of its videos takes a slot.

    Args:
        videos: number of videos in the batch.
        blocks: pool that the memory comes from.
    """

    def __init__(self, videos: int, blocks: Blocks) -> None:
        self.videos, self.blocks = videos, blocks
        self._whole: dict[str, Tensor] = {}
        self._used: dict[str, int] = {}

    def take(self, name: str, shape: Sequence[int], dtype: torch.dtype, max_rows: int = 0) -> Tensor:
        """Return the next slot in a tensor of the batch. If it has another shape or is full, memory of its own.

        Args:
            name: of the batch's tensor.
            shape: of the slot. Its first dimension is the clips.
            dtype: of the slot.
            max_rows: most rows of a video, where videos have different numbers of rows.
        """
        if name not in self._whole:
            self._whole[name] = self.blocks.new((self.videos * max(shape[0], max_rows), *shape[1:]), dtype)
            self._used[name] = 0
        whole, used = self._whole[name], self._used[name]
        if whole.shape[1:] != tuple(shape[1:]) or whole.dtype != dtype or used + shape[0] > len(whole):
            return torch.empty(tuple(shape), dtype=dtype)
        self._used[name] = used + shape[0]
        return whole[used : used + shape[0]]


def join(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate along the first dimension, without copying where the parts are adjacent in memory.

    Args:
        parts: tensors that differ in their first dimension only.
    """
    parts = [part for part in parts if len(part)] or list(parts[:1])  # an empty tensor has no address to compare
    first = parts[0]
    rows = sum(len(part) for part in parts)
    # strides too: slots of another layout may be adjacent by chance
    if all(part.stride() == first.stride() and part.dtype == first.dtype for part in parts):
        address, storage = first.data_ptr(), first.untyped_storage().data_ptr()
        for part in parts:
            if part.data_ptr() != address or part.untyped_storage().data_ptr() != storage:
                break
            address += len(part) * first.stride(0) * first.element_size()
        else:
            return first.as_strided((rows, *first.shape[1:]), first.stride())
    if first.dim() == 3 and all(part.stride(1) == 1 and part.shape[1] > 1 for part in parts):  # keep it time-major
        return _concatenate([part.transpose(1, 2) for part in parts], rows).transpose(1, 2)
    return _concatenate(parts, rows)


def _concatenate(parts: Sequence[Tensor], rows: int) -> Tensor:
    if get_worker_info() is None:
        return torch.cat(list(parts))
    dtype = parts[0].dtype
    for part in parts:
        dtype = torch.promote_types(dtype, part.dtype)
    # concatenate into shared memory, which saves the copy that sending it would make; this memory is not reused
    shape = (rows, *parts[0].shape[1:])
    storage = _new_shared(int(np.prod(shape)) * dtype.itemsize)
    return torch.cat(list(parts), out=_over(storage, dtype, shape))
