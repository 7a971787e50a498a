"""Pickles of older libraries and of Python 2 are read; what cannot be read is named, with the line that converts it.

``old_pickles`` holds files that pandas 1.5.3, 2.0.3 and 2.2.3 wrote with NumPy 1.26. Older forms are written by hand:
the names and the state are those of the releases that the tests name.
"""

from __future__ import annotations

import builtins
import io
import os
import pickle
from collections import Counter, OrderedDict, defaultdict
from datetime import date
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from processes import python

from mcn_lightning.data.captions import Captions, read_captions
from mcn_lightning.data.files.pickles import load_pickle
from mcn_lightning.errors import InputError

FILES = sorted((Path(__file__).parent / "old_pickles").glob("*.pickle"))
TEXTS = ["mix the flour", "café"]


class Old:
    """Something of an old library: pickled under its old name, made as old protocols make objects."""

    def __init__(self, module, name, state=None, call=None):
        self.module, self.name, self.state, self.call = module, name, state, call


class OldPickler(pickle._Pickler):
    """Writes names as they were, and texts and bytes as Python 2 did: both as byte strings."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)
    names: ClassVar = {
        "numpy._core.multiarray": "numpy.core.multiarray",
        "builtins": "__builtin__",
        "copyreg": "copy_reg",
    }

    def write_name(self, module, name):
        self.write(f"c{self.names.get(module, module)}\n{name}\n".encode())

    def save_global(self, found, name=None):
        self.write_name(found.__module__, name or found.__qualname__)

    dispatch[type], dispatch[type(len)], dispatch[type(torch.ones)] = save_global, save_global, save_global

    def save_bytes(self, value):
        if self.proto:
            self.write(b"T" + len(value).to_bytes(4, "little") + value)
        else:
            self.write(b"S" + repr(value)[1:].encode() + b"\n")

    def save_text(self, value):
        self.save_bytes(value.encode())

    def save_old(self, value):
        made_by_class = value.state is not None and value.call is None
        if made_by_class and self.proto < 2:
            self.write_name("copy_reg", "_reconstructor")
            self.write(b"(")
        self.write_name(value.module, value.name)
        if value.call is not None:  # a call
            self.save(value.call)
            self.write(b"R")
        elif made_by_class and self.proto < 2:
            self.write_name("__builtin__", "object")
            self.write(b"NtR")
        elif made_by_class:
            self.write(b")\x81")
        if value.state is not None:
            self.save(value.state)
            self.write(b"b")

    dispatch[bytes], dispatch[str], dispatch[Old] = save_bytes, save_text, save_old


def old(path, value, protocol):
    file = io.BytesIO()
    OldPickler(file, protocol).dump(value)
    path.write_bytes(file.getvalue())
    return load_pickle(path)


def old_index(values, module, cls="Index"):
    base = module.replace("numeric", "base").replace("range", "base")
    return Old(base, "_new_Index", call=(Old(module, cls), {"data": np.array(values), "name": None}))


def old_frame(internals, base, columns):
    """A data frame as pandas 0.13 to 1.2 wrote it, a block for every column."""
    names = np.array(list(columns), dtype=object)
    axes = [old_index(names, base), old_index(np.arange(2), base.replace("base", "numeric"), "Int64Index")]
    values = [np.array(column, dtype=object if isinstance(column[0], str) else None) for column in columns.values()]
    blocks = [{"values": row[None], "mgr_locs": slice(n, n + 1, 1)} for n, row in enumerate(values)]
    state = (axes, [row[None] for row in values], [], {"0.14.1": {"axes": axes, "blocks": blocks}})
    manager = Old(internals, "BlockManager", state)
    return Old("pandas.core.frame", "DataFrame", {"_data": manager, "_typ": "dataframe", "_metadata": []})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_of_older_pandas(path):
    assert len(FILES) == 6
    read = load_pickle(path)
    columns = {"start": [0.5, 2.0], "end": [2.0, 4.5], "text": TEXTS, "topic": [3, 1]}
    assert read["frame"].to_dict("list") == read["chosen"].to_dict("list") == columns
    assert read["chosen"].index.tolist() == [7, 9] and read["series"].tolist() == TEXTS
    np.testing.assert_array_equal(read["array"], np.arange(3, dtype=np.float32))


@pytest.mark.parametrize("protocol", [0, 1, 2])
@pytest.mark.parametrize(
    ("internals", "base"),
    [
        ("pandas.core.internals.managers", "pandas.core.indexes.base"),  # 0.24 to 1.2
        ("pandas.core.internals", "pandas.core.indexes.base"),  # 0.20 to 0.23
        ("pandas.core.internals", "pandas.indexes.base"),  # 0.18, 0.19
        ("pandas.core.internals", "pandas.core.index"),  # before
    ],
)
def test_frames_of_pandas_before_1_3_and_python_2(tmp_path, internals, base, protocol):
    columns = {"start": [0.5, 2.0], "end": [2.0, 4.5], "text": TEXTS, "topic": [3, 1]}
    path = tmp_path / "captions.pickle"
    read = old(path, {"a": old_frame(internals, base, columns)}, protocol)["a"]
    assert isinstance(read, pd.DataFrame) and read.to_dict("list") == columns
    captions = read_captions(path, ["a"])["a"]
    assert isinstance(captions, Captions) and captions.text == tuple(TEXTS) and captions.topics.tolist() == [3, 1]


@pytest.mark.parametrize("protocol", [0, 1, 2])
@pytest.mark.parametrize("dtype", ["f4", "f2", "i8", "u1", ">f4"])
def test_arrays_of_python_2(tmp_path, dtype, protocol):
    array = np.array([[200, 1.5], [195, 169]]).astype(dtype)  # 195, 169 are the bytes of é
    read = old(tmp_path / "a.pickle", {"x": array, "scalar": array[0, 0]}, protocol)
    np.testing.assert_array_equal(read["x"], array)
    assert read["scalar"] == array[0, 0] and read["x"].dtype.newbyteorder("=") == array.dtype.newbyteorder("=")


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_texts_of_python_2_are_utf_8_where_they_can_be(tmp_path, protocol):
    value = {"é": ["naïve", {"k": ("日本", b"\xff\xfe", "plain")}], "n": 2**40, "o": OrderedDict(a="ü")}
    read = old(tmp_path / "a.pickle", value, protocol)
    assert read["é"] == ["naïve", {"k": ("日本", "ÿþ", "plain")}]
    assert read["n"] == 2**40 and read["o"] == OrderedDict(a="ü") and type(read["o"]) is OrderedDict
    objects = np.array(["é", None, 3], dtype=object)
    assert old(tmp_path / "a.pickle", objects, protocol).tolist() == ["é", None, 3]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("factory", [list, dict, int, float, set, str, None, defaultdict])
def test_a_defaultdict_is_read_as_a_dict(tmp_path, factory, protocol):
    path = tmp_path / "a.pickle"
    path.write_bytes(pickle.dumps(defaultdict(factory, {"a": [1]}), protocol))
    read = load_pickle(path)
    assert type(read) is dict and read == {"a": [1]}
    path.write_bytes(pickle.dumps(Counter("aab"), protocol))
    assert load_pickle(path) == {"a": 2, "b": 1}


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_tensors_of_older_releases(tmp_path):
    storage = io.BytesIO()
    torch.save(torch.arange(6.0).storage(), storage, _use_new_zipfile_serialization=False)  # the form before 1.6
    listed = Old("torch", "FloatStorage", call=([0.0, 1.0, 2.0, 3.0, 4.0, 5.0],))  # as before 0.4
    saved = Old("torch.storage", "_load_from_bytes", call=(storage.getvalue(),))
    for kept in (listed, saved):
        for rebuild, more in (("_rebuild_tensor", ()), ("_rebuild_tensor_v2", (False, OrderedDict()))):
            tensor = Old("torch._utils", rebuild, call=(kept, 0, (2, 3), (3, 1), *more))
            assert torch.equal(old(tmp_path / "a.pickle", [tensor], 2)[0], torch.arange(6.0).view(2, 3))


def command_for(path):
    return rf"{path}.*python -c \"import .*pickle.dump\(.*NEW.pickle"


def test_files_of_torch_save_get_the_line_that_converts_them(tmp_path):
    path = tmp_path / "a.pickle"
    for new in (True, False):
        torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=new)
        with pytest.raises(InputError, match=r"found a file of torch\.save.*" + command_for("")) as caught:
            load_pickle(path)
        line = str(caught.value).split('python -c "')[1].removesuffix('"')
        assert python("-c", line, cwd=tmp_path).returncode == 0
        assert torch.equal(load_pickle(tmp_path / "NEW.pickle")["a"], torch.ones(2))


def test_frames_with_other_columns_get_the_line_that_converts_them(tmp_path):
    frame = pd.DataFrame({"start": [0.0], "end": [1.0], "text": pd.Categorical(["a"])})
    path = tmp_path / "a.pickle"
    path.write_bytes(pickle.dumps({"v": frame}))
    with pytest.raises(InputError, match=r"Categorical.*if you trust the file.*" + command_for("")) as caught:
        load_pickle(path)
    line = str(caught.value).split('python -c "')[1].removesuffix('"')
    assert python("-c", line, cwd=tmp_path).returncode == 0
    assert load_pickle(tmp_path / "NEW.pickle") == {"v": {"start": [0.0], "end": [1.0], "text": ["a"]}}


@pytest.mark.parametrize("protocol", [1, 2, 4])
def test_clips_with_other_objects_get_the_line_that_converts_them(tmp_path, protocol):
    clip = {"id": "v", "2d": np.ones(2, dtype=np.float32), "caption": ["a"], "day": date(2026, 1, 2)}
    path = tmp_path / "a.pickle"
    path.write_bytes(pickle.dumps([clip], protocol))
    with pytest.raises(InputError, match=r"datetime.date; if you trust the file.*" + command_for("")) as caught:
        load_pickle(path)
    line = str(caught.value).split('python -c "')[1].removesuffix('"')
    assert python("-c", line, cwd=tmp_path).returncode == 0
    (found,) = load_pickle(tmp_path / "NEW.pickle")
    assert found["day"] == "2026-01-02" and found["caption"] == ["a"] and np.array_equal(found["2d"], clip["2d"])


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"\x1f\x8b\x08\x00" + bytes(9), "found a gzip file"),
        (b"\x89HDF\r\n\x1a\n", "found an HDF5 file"),
        (b"\x93NUMPY\x01\x00", "found a NumPy array"),
        (b'{"a": {"start": [0]}}', "found text that may be JSON: name it .json"),
        (pickle.dumps({"a": list(range(99))})[:-9], "found a damaged one"),
        (
            b"\x80\x02cpandas.core.frame\nDataFrame\n)\x81K\x01K\x02\x86b.",
            "found one of other versions of",
        ),
    ],
)
def test_other_forms_are_named(tmp_path, content, part):
    (tmp_path / "a.pickle").write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_pickle(tmp_path / "a.pickle")
    message = str(caught.value)
    assert part in message and "\n" not in message and ("damaged" in message) == ("damaged" in part)


class Twice:
    """Pickles as a call whose result is given a state."""

    def __init__(self, function, arguments, state):
        self.parts = function, arguments, state

    def __reduce__(self):
        return self.parts


def refused(path, content, match="found the global"):
    path.write_bytes(content)
    with pytest.raises(InputError, match=match):
        load_pickle(path)


@pytest.mark.parametrize(
    "factory", ["posix\nsystem", "builtins\neval", "builtins\nobject", "torch\nload", "numpy\nload"]
)
def test_a_factory_cannot_be_a_function(tmp_path, factory):
    refused(tmp_path / "a.pickle", f"ccollections\ndefaultdict\n(c{factory}\ntR.".encode())
    refused(tmp_path / "a.pickle", b"ccollections\ndefaultdict\n(c_codecs\nencode\ntR.", "defaultdict of")


@pytest.mark.parametrize(
    "name",
    [
        "copyreg\n__newobj__", "copyreg\nadd_extension", "copy_reg\nconstructor", "copy_reg\n_slotnames",
        "pandas.core.index\nwarnings", "pandas.core.internals\nimport_module", "pandas.indexes.base\nop",
        "pandas.core.indexes.numeric\nnp", "pandas.io.pickle\nread_pickle", "pandas.core.internals.blocks\nmake_block",
        "torch._utils\n_import_dotted_name", "torch.serialization\nload", "__builtin__\nfile", "__builtin__\nexecfile",
        "__builtin__\napply", "numpy.core.multiarray\nfromfile", "collections\nnamedtuple", "functools\npartial",
    ],
)  # fmt: skip
def test_names_beside_those_of_old_files_are_refused(tmp_path, name):
    refused(tmp_path / "a.pickle", f"c{name}\n.".encode())


def test_old_objects_are_made_of_admitted_classes_alone(tmp_path):
    path = tmp_path / "a.pickle"
    refused(path, b"ccopy_reg\n_reconstructor\n(cos\nsystem\nc__builtin__\nobject\nNtR.")
    refused(path, b"ccopy_reg\n_reconstructor\n(c__builtin__\nint\nc__builtin__\nint\nI3\ntR.")
    refused(path, b"c__builtin__\nobject\n(tR.")


@pytest.mark.parametrize(
    "name", ["copy_reg\n_reconstructor", "collections\ndefaultdict", "__builtin__\nobject", "_codecs\nencode"]
)
@pytest.mark.parametrize("state", [b"}S'x'\nI1\ns", b"(N}S'__code__'\nI1\nst", b"(N}S'make'\nc__builtin__\nint\nst"])
def test_stand_ins_cannot_be_changed(tmp_path, name, state):
    refused(tmp_path / "a.pickle", f"c{name}\n".encode() + state + b"b.", "with a state of its own")
    path = tmp_path / "b.pickle"
    path.write_bytes(pickle.dumps(defaultdict(list, a=1), 2))
    assert load_pickle(path) == {"a": 1}


def test_nothing_runs_and_nobody_is_advised_to_run_it(tmp_path):
    marker = tmp_path / "ran"
    path = tmp_path / "a.pickle"
    for call in (os.system, builtins.exec):
        text = f"touch {marker}" if call is os.system else f"open({str(marker)!r}, 'w')"
        path.write_bytes(pickle.dumps(Twice(call, (text,), None), 2))
        with pytest.raises(InputError) as caught:
            load_pickle(path)
        assert "python -c" not in str(caught.value) and not marker.exists()
