"""Networks of one's own in a file of TorchScript or ``torch.export``: ``torch:<file>``."""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from mcn_lightning.errors import InputError
from mcn_lightning.extract.decode import PictureSize
from mcn_lightning.extract.encoders.base import Encoder, Pixels
from mcn_lightning.extract.encoders.weights import IMAGENET_MEAN, IMAGENET_STD, fetching, find_whole

FILE_ADVICE = "give its short_side, crop and frames as arguments, and export it with a batch of any size"
"""What to do about a network in a file that takes no pictures."""
# torch's operators and arithmetic of sizes, which an exported graph may call
_OPERATOR = re.compile(
    r"torch\.ops\.[a-z]\w*\.\w+\.\w+|torch\.ops\.higher_order\.\w+|torch\.sym_\w+|math\.\w+|"
    r"_operator\.(add|sub|mul|truediv|floordiv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
)
_SYMBOL = re.compile(r"Symbol\('\w+'(, \w+=(True|False))*\)")
_NOT_A_FORMULA = re.compile(r"[^\w\s,()*+/<>=.-]|\.\s*[A-Za-z_]|__|\b[a-z_]\w*\s*\(")
"""What no formula of shapes has, and a line of Python needs: quotes, attributes, calls of functions."""
_NOT_A_SPEC = re.compile(r"default_factory|enum|\\u")
"""What lets a description of nested inputs import a module."""
_SAFE: dict[str, Callable[[str], object]] = {
    "target": _OPERATOR.fullmatch,
    "expr_str": lambda value: not _NOT_A_FORMULA.search(_SYMBOL.sub("", value)),
    "guards_code": lambda value: False,
    "_spec": lambda value: not _NOT_A_SPEC.search(value),
    "name": re.compile(r"[\w.]*").fullmatch,
    "names": re.compile(r"[\w.]*").fullmatch,
}
"""What texts in an exported network may be, by the ends of their keys. The loader runs other ones as Python."""
_ALLOWED = re.compile(
    r"(models/\w+\.json|data/weights/(weight_\d+|\w+\.(json|pt))|data/constants/(tensor_\d+|\w+\.(json|pt))|"
    r"data/sample_inputs/\w+\.pt|archive_format|archive_version|byteorder|\.data/\w+)|"
    r"version|serialized_\w+\.(json|pt)"
)
"""Files that the archive of an exported network may have."""


class TorchFileEncoder(Encoder):
    """A network in a file of TorchScript or of ``torch.export.save``.

    The network takes ``(B, 3, height, width)`` float32, scaled to [0, 1] and standardised by ``mean`` and ``std``; with
    ``frames`` it takes ``(B, 3, frames, height, width)``. It returns ``(B, width)``.

    Args:
        file: path of the file.
        weights: must be left out, as the file has them.
        short_side: pixels of the shorter side of pictures after scaling.
        crop: side of the square that is cut from the middle; 0 for the whole picture.
        mean: of each channel; those of ImageNet unless given.
        std: standard deviation of each channel.
        frames: frames of a clip; ``None`` for a network of pictures.
        frame_rate: frames a second of a clip.

    Raises:
        InputError: if the file is neither, or would run code of its own.
    """

    def __init__(
        self,
        file: str,
        weights: str | None = None,
        short_side: int = 256,
        crop: int = 224,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        frames: int | None = None,
        frame_rate: float = 15.0,
    ) -> None:
        super().__init__()
        name = f"torch:{file}"
        path = find_whole(file, weights, name, "a file of TorchScript or torch.export")
        self.network = _read(path, name)
        self.size, self.pixels = PictureSize(short_side, crop or None), Pixels(mean, std)
        if frames is not None:
            self.frames, self.frame_rate = frames, frame_rate
        self.width = self.find_width(name, FILE_ADVICE)

    def encode(self, pictures: Tensor) -> Tensor:
        """Return what the network returns."""
        planes = self.pixels(pictures)
        return self.network(planes if self.frame_rate is None else planes.movedim(1, 2))


class _Exported(nn.Module):
    """An exported network. It has no other mode than that in which it was exported."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def train(self, mode: bool = True) -> _Exported:
        """Change nothing; torch refuses it."""
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        """Call the network."""
        return self.network(pixels)


def _read(path: Path, name: str) -> nn.Module:
    """Read a network without running code that the file brings.

    TorchScript runs in torch's own interpreter. The loader of ``torch.export`` would run formulas and pickles, so such
    a file is checked before.
    """
    wanted = f"{name}: expected a file of TorchScript or torch.export"
    if not zipfile.is_zipfile(path):
        raise InputError(f"{wanted}, found another format or a part of one")
    with zipfile.ZipFile(path) as archive:
        inside = [entry.partition("/")[2] for entry in archive.namelist()]
        if any(entry.startswith("code/") for entry in inside):
            with fetching(name, ""):
                return torch.jit.load(path, map_location="cpu")
        exported = any(entry.startswith("models/") for entry in inside) or "serialized_exported_program.json" in (
            archive.namelist()
        )
        if not exported:
            raise InputError(
                f"{wanted}, found a pickle of torch.save, which could run code; save it by torch.export.save"
            )
        problem = _what_would_run(archive)
    if problem:
        raise InputError(f"{name}: expected an exported network of torch functions, found {problem}; save TorchScript")
    with fetching(name, ""), _plain_pickles():
        return _Exported(torch.export.load(io.BytesIO(path.read_bytes())).module())


def _what_would_run(archive: zipfile.ZipFile) -> str:
    """Return what in an exported network could run other code than torch's functions; empty for none."""
    names = archive.namelist()
    # of two files with one name, this check and torch's reader could see different ones
    if len(set(names)) < len(names):
        return "two files of one name"
    for entry in names:
        if not any(_ALLOWED.fullmatch(each) for each in (entry, entry.partition("/")[2])):
            return f"the file {entry}"
        if entry.endswith(".json"):
            for key, value in _texts(json.loads(archive.read(entry))):
                for keys, allowed in _SAFE.items():
                    if key.endswith(keys) and not allowed(value):
                        return f"{key} {value!r:.60}"
    return ""


def _texts(content: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield all texts in nested dicts and lists, with the keys under which they are."""
    if isinstance(content, str):
        yield key, content
    for name, value in content.items() if isinstance(content, dict) else ():
        yield from _texts(value, name)
    for value in content if isinstance(content, list) else ():
        yield from _texts(value, key)


@contextmanager
def _plain_pickles() -> Iterator[None]:
    """Let ``torch.load`` read tensors and plain data only, also where torch's own code asks it for more."""
    key, other = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    before = {name: os.environ.pop(name, None) for name in (key, other)}
    # read by torch.load itself, which torch.export calls with weights_only=False
    os.environ[key] = "1"
    try:
        yield
    finally:
        del os.environ[key]
        os.environ.update({name: value for name, value in before.items() if value is not None})
