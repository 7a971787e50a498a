"""The restricted unpickler: what data sets hold goes through, what runs code does not."""

from __future__ import annotations

import builtins
import os
import pickle
import random
import subprocess
from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
import torch

from mcn_lightning.data.files.pickles import _ALLOWED, load_pickle
from mcn_lightning.errors import InputError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def through(tmp_path, value, protocol=pickle.HIGHEST_PROTOCOL):
    path = tmp_path / "data.pickle"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return load_pickle(path)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_containers(tmp_path, protocol):
    value = [{"id": "a", "n": 1, "x": 0.5, "none": None, "yes": True, "bytes": b"\x00\xff", "set": {1, 2}}, (1, 2j)]
    value += [frozenset("ab"), OrderedDict(a=1), range(3), slice(1, 2), bytearray(b"ab"), 2**80, "é"]
    assert through(tmp_path, value, protocol) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "i8", "u1", "?", "U5", "S3", "O"])
def test_arrays(tmp_path, protocol, dtype):
    array = np.array([[1, 0], [3, 4]]).astype(dtype)
    for value in (array, np.asfortranarray(array), array[:0]):
        read = through(tmp_path, value, protocol)
        assert read.dtype == pickle.loads(pickle.dumps(value, protocol)).dtype  # old protocols make it native
        np.testing.assert_array_equal(read, value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_array_scalars(tmp_path, protocol):
    value = [np.float32(0.5), np.int64(3), np.bool_(True), np.str_("a")]
    assert through(tmp_path, value, protocol) == value


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool]
)
def test_tensors(tmp_path, protocol, dtype):
    tensor = torch.tensor([[1, 0, 2], [3, 4, 5]]).to(dtype)
    for value in (tensor, tensor.T, tensor[:, 1:], torch.nn.Parameter(tensor.float())):
        assert torch.equal(through(tmp_path, value, protocol), value)


def frames():
    base = {"start": [0.0, 1.5], "end": [1.0, 2.0], "text": ["a b", "c"], "topic": [1, 2], "good": [True, False]}
    frame = pd.DataFrame(base)
    return {
        "default": frame,
        "text only": frame[["text"]],
        "object": frame.astype({"text": object}),
        "string": frame.astype({"text": "string"}),
        "python string": frame.astype({"text": pd.StringDtype("python")}),
        "one row": frame.iloc[1:],
        "masked": frame[frame.start > 1],
        "text index": frame.set_index("text"),
        "float32": frame.astype({"start": "float32"}),
        "missing text": pd.DataFrame({"text": ["a", None]}),
        "empty": frame.iloc[:0],
    }


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", frames())
def test_frames(tmp_path, kind, protocol):
    frame = frames()[kind]
    pd.testing.assert_frame_equal(through(tmp_path, {"a": frame}, protocol)["a"], frame)
    frame.to_pickle(tmp_path / "frame.pickle", protocol=protocol)
    pd.testing.assert_frame_equal(load_pickle(tmp_path / "frame.pickle"), frame)
    for column in frame:
        pd.testing.assert_series_equal(through(tmp_path, frame[column], protocol), frame[column])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_command_is_not_run_and_is_named(tmp_path, protocol):
    marker = tmp_path / "ran"
    with pytest.raises(InputError, match=rf"data\.pickle: expected a pickle of arrays.*{os.system.__module__}\.system"):
        through(tmp_path, [1, Call(os.system, f"touch {marker}")], protocol)
    assert not marker.exists()


@pytest.mark.parametrize(
    "function",
    [
        *(getattr(builtins, name) for name in ("eval", "exec", "getattr", "setattr", "open", "compile", "__import__")),
        *(getattr(builtins, name) for name in ("map", "filter", "type", "object", "super", "property", "input")),
        subprocess.run, os.remove, pickle.loads, torch.load, torch.save, np.load, np.memmap, np.fromfile, np.save,
        pd.read_pickle, pd.eval, pd.read_csv, pd.DataFrame.eval, np.lib.format.open_memmap,
    ],
    ids=lambda function: function.__qualname__,
)  # fmt: skip
def test_functions_that_reach_further_are_refused(tmp_path, function):
    with pytest.raises(InputError, match=r"data\.pickle: expected a pickle of arrays"):
        through(tmp_path, Call(function, "x"))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"), ("builtins", "getattr"), ("__builtin__", "eval"), ("numpy", "os"), ("numpy.core", "sys"),
        ("builtins", "dict.__class__"), ("builtins", "str.format"), ("numpy", "ndarray.tofile"), ("torch", "os.system"),
        ("numpy.testing._private.utils", "runstring"), ("pandas.io.common", "os.system"), ("pickle", "loads"),
        ("torch.storage", "pickle"), ("collections", "OrderedDict.__init__.__globals__"),
    ],
)  # fmt: skip
def test_names_and_dotted_names_are_refused(tmp_path, module, name):
    path = tmp_path / "data.pickle"
    fields = b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name))
    path.write_bytes(b"\x80\x04" + fields + b"\x93.")
    with pytest.raises(InputError, match="found the global"):
        load_pickle(path)


def test_a_tensor_s_storage_cannot_carry_a_command(tmp_path):
    marker = tmp_path / "ran"
    inner = pickle.dumps(Call(os.system, f"touch {marker}"), protocol=2)
    with pytest.raises(InputError):
        through(tmp_path, Call(torch.storage._load_from_bytes, inner))
    assert not marker.exists()


def test_what_is_admitted_are_classes_and_known_rebuilders():
    rebuilders = {
        "_reconstruct", "scalar", "_frombuffer", "__pyx_unpickle_NDArrayBacked", "_unpickle_block", "_new_Index",
        "_rebuild_parameter", "_rebuild_tensor", "_rebuild_tensor_v2",
    }  # fmt: skip
    for module, name in _ALLOWED:
        try:
            found = getattr(__import__(module, fromlist=[name]), name)
        except (ImportError, AttributeError):
            continue  # of another version
        assert isinstance(found, type | torch.dtype) or found is pd.NA or name in rebuilders, (module, name)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_damaged_pickles_give_one_line(tmp_path):
    frame = pd.DataFrame({"start": [0.0], "text": ["a"]})
    value = {"a": np.arange(3.0), "b": torch.ones(2), "c": frame, "d": [1, "x", 2**70]}
    path, rng = tmp_path / "data.pickle", random.Random(0)
    for protocol in (0, 2, 5):
        whole = pickle.dumps(value, protocol=protocol)
        for number in range(150):
            content = bytearray(whole[: rng.randrange(len(whole))] if number % 2 else whole)
            if number % 2 == 0:
                for _ in range(3):
                    # flips in the names and opcodes; not in lengths, which would ask for gigabytes
                    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            path.write_bytes(bytes(content))
            try:
                load_pickle(path)
            except InputError as error:
                assert str(error).startswith(str(path)) and "\n" not in str(error)
