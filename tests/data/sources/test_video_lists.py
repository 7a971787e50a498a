"""Lists of videos, as the release and others write them."""

from __future__ import annotations

import pytest

from mcn_lightning.data.sources.howto100m import read_video_list, video_id
from mcn_lightning.errors import InputError


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "found no file"),
        ("", "expected the header 'path' or 'video_id', found ''"),
        ("video\na\n", "expected the header 'path' or 'video_id', found 'video'"),
        ("path\n", "expected one video a line, found none"),
        ("path\n\n\n", "expected one video a line, found none"),
        ("path\na/x\nb/x\n", "expected each video once, found 1 more than once: x 2 times"),
        ("path\na/x\nNone/a/x\n", "expected each video once, found 1 more than once: x 2 times"),
        (b"path\n\xff\xfe\n", "header 'path'"),
    ],
)
def test_bad_lists_of_videos_are_refused(tmp_path, content, part):
    path = tmp_path / "train.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        read_video_list(path)
    assert str(caught.value).startswith(str(path)) and part in str(caught.value) and "\n" not in str(caught.value)


def test_a_list_of_videos_drops_none_and_the_byte_order_mark(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfpath\r\nNone/a/x\r\nfood/b/y\r\n\r\n")
    assert read_video_list(tmp_path / "a.csv") == ["a/x", "food/b/y"]
    (tmp_path / "b.csv").write_text("task,path\n1,a/x\n")
    assert read_video_list(tmp_path / "b.csv") == ["a/x"]


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("path\nNone/ab/x\n", ["ab/x"]),
        ("video_id\nx\ny-_1\n", ["x", "y-_1"]),
        ("\ufeffvideo_id,category_1,rank\r\nx,Food,3\r\n\r\ny,Food,4\r\n\r\n", ["x", "y"]),
        ("path\nfood/x.npy\nfood/y.mp4\n./z.WebM\nw.mp4.npy\nv.npz\n", ["food/x", "food/y", "z", "w", "v"]),
        ("video_id,path\nx,food/x.npy\ny,None/food/y_2d.npy\nz,z\n", ["food/x", "food/y", "z"]),
        (' "path" \n "food/x.mp4" \n  food/y  \n,\n"food/z"\n', ["food/x", "food/y", "food/z"]),
        ("Path,Video_ID\nfood\\x,x\n", ["food/x"]),
        ("task, video_id\n7, x\n", ["x"]),
        ("path\nfood/x .mp4 \n", ["food/x"]),
    ],
)
def test_lists_as_people_have_them(tmp_path, text, paths):
    (tmp_path / "train.csv").write_bytes(text.encode())
    assert read_video_list(tmp_path / "train.csv") == paths
    assert [video_id(path) for path in paths] == [path.rpartition("/")[2] for path in paths]


def test_duplicates_are_named_and_counted(tmp_path):
    names = ["a/x", "y", "b/x", "z.mp4", "z.npy", "z", "u", "u", "v", "v"]
    (tmp_path / "train.csv").write_text("path\n" + "\n".join(names) + "\n")
    with pytest.raises(InputError, match=r"found 4 more than once: x 2 times, z 3 times, u 2 times"):
        read_video_list(tmp_path / "train.csv")
    (tmp_path / "train.csv").write_text("video_id,path\nx,food/y.npy\n")
    with pytest.raises(InputError, match="expected a path that ends in its video_id x, found food/y"):
        read_video_list(tmp_path / "train.csv")
