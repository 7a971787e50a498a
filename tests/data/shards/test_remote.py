"""Shards from a URL: the batches of the folder, fetched once, and one line for what goes wrong."""

from __future__ import annotations

import errno
import functools
import http.server
import os
import pickle
import threading
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import known_implementations

from data.sharding import break_shard, digests, narrated, opened, packed, same
from mcn_lightning.batch import BadVideo
from mcn_lightning.commands.fit import main
from mcn_lightning.data.shards import store as stores
from mcn_lightning.data.shards.files import ShardIndex
from mcn_lightning.data.shards.header import INDEX, ShardHeader, shard_name
from mcn_lightning.data.shards.job import PackConfig
from mcn_lightning.data.shards.store import StoreError, open_store
from mcn_lightning.errors import InputError

URL = "memory://shards"


@pytest.fixture
def folder(tiny, tmp_path):
    """A folder of shards, which lies in fsspec's memory too."""
    packed(tiny, tmp_path / "packed")
    upload(tmp_path / "packed")
    yield tmp_path / "packed"
    MemoryFileSystem.store.clear()


def upload(folder):
    files = MemoryFileSystem()
    for path in folder.iterdir():
        files.pipe_file(f"/shards/{path.name}", path.read_bytes())


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder and counts what is asked for; ``answer`` may refuse a request in its place."""

    def __init__(self, folder):
        self.asked, self.answer = Counter(), None
        server = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self):
                server.asked[self.path.rpartition("/")[2]] += 1
                if server.answer is None or not server.answer(self):
                    super().do_GET()

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=folder))


@pytest.fixture
def server(folder):
    with Server(folder) as found:
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        found.url = f"http://127.0.0.1:{found.server_port}"
        yield found
        found.shutdown()
        thread.join()


def assert_same_batches(tiny, folder, url, cache, workers=0, **changes):
    near = opened(tiny, shards=str(folder), **changes)
    far = opened(tiny, shards=url, shards_cache=str(cache), num_workers=workers, **changes)
    for name in ("train_dataloader", "val_dataloader", "predict_dataloader"):
        for one, other in zip(getattr(near, name)(), getattr(far, name)(), strict=True):
            same(one, other)
    return far


@pytest.mark.parametrize("workers", [0, 2])
def test_memory_gives_the_batches_of_the_folder(tiny, folder, tmp_path, workers):
    far = assert_same_batches(tiny, folder, URL, tmp_path / "cache", workers)
    (cached,) = (tmp_path / "cache").iterdir()
    expected = {name: digest for name, digest in digests(folder).items() if name.endswith(".safetensors")}
    found = {name: digest for name, digest in digests(cached).items() if not name.endswith(".lock")}
    assert found == {name: digest for name, digest in expected.items() if name != "sources.safetensors"}
    assert far.datasets["train"].source.index.shards


@pytest.mark.parametrize("workers", [0, 2])
def test_a_server_gives_the_batches_of_the_folder_and_each_file_once(tiny, folder, server, tmp_path, workers):
    assert_same_batches(tiny, folder, server.url, tmp_path / "cache", workers)
    shards = len(ShardIndex(folder).shards)
    assert server.asked == {INDEX: 1, **{shard_name(number): 1 for number in range(shards)}}
    assert_same_batches(tiny, folder, server.url, tmp_path / "cache", workers)
    assert server.asked == {INDEX: 2, **{shard_name(number): 1 for number in range(shards)}}  # it may have changed


def test_only_the_shards_of_the_splits_that_are_used_are_fetched(tiny, folder, server, tmp_path):
    data = narrated(tiny, shards=server.url, shards_cache=str(tmp_path / "cache"))
    data.setup("test")
    index = ShardIndex(folder)
    held_out = {shard_name(number) for number in index.tables["val/shard"].tolist()}
    assert set(server.asked) == {INDEX, *held_out}
    near = opened(tiny, shards=str(folder))
    same(near.datasets["train"][(0, 3)], data.datasets["train"][(0, 3)])  # the others come when they are asked for
    assert set(server.asked) == {INDEX, *held_out, shard_name(int(index.tables["train/shard"][3]))}


def read(content, index):
    source = pickle.loads(content)
    return source.open(index).captions.text[0]


def test_several_processes_fetch_a_shard_once(tiny, folder, server, tmp_path):
    data = narrated(tiny, shards=server.url, shards_cache=str(tmp_path / "cache"))
    data.setup("validate")
    content = pickle.dumps(data.datasets["train"].source)
    before = Counter(server.asked)
    with ProcessPoolExecutor(4, get_context("forkserver")) as pool:
        found = set(pool.map(read, [content] * 8, [0] * 8))
    assert len(found) == 1 and sum((server.asked - before).values()) == 1


def test_what_a_killed_process_left_is_fetched_anew(tiny, folder, server, tmp_path):
    store = open_store(server.url, INDEX, tmp_path / "cache")
    (store.folder / f"{shard_name(0)}.partial").write_bytes(b"half")
    (store.folder / shard_name(0)).write_bytes(b"short")
    index = ShardHeader(store)
    assert index.path(0).read_bytes() == (folder / shard_name(0)).read_bytes()
    assert not list(store.folder.glob("*.partial"))


def test_shards_that_are_packed_anew_are_not_mixed_with_the_old(tiny, folder, tmp_path):
    assert_same_batches(tiny, folder, URL, tmp_path / "cache")
    packed(tiny, tmp_path / "again", keep_frames=True)
    MemoryFileSystem.store.clear()
    upload(tmp_path / "again")
    assert_same_batches(tiny, tmp_path / "again", URL, tmp_path / "cache")


def refused(tiny, url, cache, kind=InputError, **changes):
    with pytest.raises(kind) as caught:
        opened(tiny, shards=url, shards_cache=str(cache), **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_protocol_without_its_package_is_one_line(tiny, tmp_path, monkeypatch):
    known = {"class": "no_such_package.Files", "err": "Install nofar to access far"}
    monkeypatch.setitem(known_implementations, "far", known)
    told = refused(tiny, "far://bucket/shards", tmp_path)
    assert told.startswith(f"far://bucket/shards/{INDEX}: expected the package that reads far://, found none (Install")
    monkeypatch.setitem(stores.PACKAGES, "far", "farfs")
    assert refused(tiny, "far://bucket/shards", tmp_path).endswith("; pip install farfs")
    told = refused(tiny, "farther://bucket/shards", tmp_path)
    assert "expected a URL such as s3://, gs:// or hf://, found Protocol not known: farther" in told


def test_a_url_without_shards_is_one_line(tiny, server, tmp_path):
    for url in (f"{server.url}/elsewhere", "memory://elsewhere"):
        told = refused(tiny, url, tmp_path)
        assert told.startswith(f"{url}/{INDEX}: expected the index of finished shards, found no file")


@pytest.mark.parametrize(("status", "found"), [(403, "found no rights (403"), (401, "found no rights (401")])
def test_a_url_without_rights_is_one_line(tiny, server, tmp_path, status, found):
    server.answer = lambda request: request.send_error(status) or True
    told = refused(tiny, server.url, tmp_path, StoreError)
    assert found in told and "credentials" in told and server.asked == {INDEX: 1}


def test_a_connection_that_fails_once_is_tried_again(tiny, folder, server, tmp_path, monkeypatch):
    monkeypatch.setattr(stores.time, "sleep", lambda _: None)
    server.answer = lambda request: server.asked[request.path[1:]] == 1 and cut(request)
    assert_same_batches(tiny, folder, server.url, tmp_path / "cache")
    assert set(server.asked.values()) == {2}


def cut(request):
    """Promise more bytes than come."""
    request.send_response(200)
    request.send_header("Content-Length", "1000")
    request.end_headers()
    request.wfile.write(b"a few")
    request.close_connection = True
    return True


def test_a_connection_that_fails_for_good_is_one_line(tiny, server, tmp_path, monkeypatch):
    monkeypatch.setattr(stores.time, "sleep", lambda _: None)
    told = refused(tiny, "http://127.0.0.1:9/shards", tmp_path, StoreError)
    assert f"found a failing connection, {stores.ATTEMPTS} times" in told and "start again" in told
    server.answer = lambda request: request.path != f"/{INDEX}" and cut(request)
    told = refused(tiny, server.url, tmp_path / "cache", StoreError)
    assert told.startswith(f"{server.url}/shard-") and "failing connection" in told
    assert not list((tmp_path / "cache").rglob("shard-*.safetensors*[!k]"))


def test_a_shard_that_is_gone_or_another_costs_its_videos(tiny, folder, tmp_path):
    break_shard(folder, 0, "missing")
    break_shard(folder, 1, "one bit")
    MemoryFileSystem.store.clear()
    upload(folder)
    told = refused(tiny, URL, tmp_path / "cache")
    assert "training videos" in told and "--data.max_bad_share" in told
    data = opened(tiny, shards=URL, shards_cache=str(tmp_path / "cache"), max_bad_share=1.0)
    source = data.datasets["train"].source
    items = [data.datasets["train"][(0, index)] for index in range(6)]
    reasons = {source.column("shard", n): item.reason for n, item in enumerate(items) if isinstance(item, BadVideo)}
    assert f"{URL}/{shard_name(0)}: expected a file that can be read, found no file" in reasons[0]
    assert f"{URL}/{shard_name(1)}: expected SHA-256" in reasons[1] and set(reasons) == {0, 1}


def test_a_damaged_index_is_one_line(tiny, folder, tmp_path):
    content = (folder / INDEX).read_bytes()
    for damage in (content[:40], content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]):
        MemoryFileSystem().pipe_file(f"/shards/{INDEX}", damage)
        assert INDEX in refused(tiny, URL, tmp_path / "cache")


def test_a_full_disk_is_one_line_and_keeps_what_is_there(tiny, folder, tmp_path, monkeypatch):
    def fails(self, path, target, **_):
        if path.endswith(shard_name(2)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return whole(self, path, target)

    whole = MemoryFileSystem.get_file
    monkeypatch.setattr(MemoryFileSystem, "get_file", fails)
    told = refused(tiny, URL, tmp_path / "cache", StoreError)
    assert "found no space left on device" in told and "--data.shards_cache" in told
    (cached,) = (tmp_path / "cache").iterdir()
    assert not (cached / shard_name(2)).exists() and not list(cached.glob("*.partial"))
    monkeypatch.undo()
    assert_same_batches(tiny, folder, URL, tmp_path / "cache")


def test_too_small_a_disk_is_said_before_anything_is_fetched(tiny, server, tmp_path, monkeypatch):
    usage = stores.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(stores.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    told = refused(tiny, server.url, tmp_path / "cache", StoreError)
    assert "GB of free space for " in told and set(server.asked) == {INDEX}


def test_a_cache_that_cannot_be_written_is_one_line(tiny, folder, tmp_path):
    (tmp_path / "file").write_text("")
    assert "--data.shards_cache" in refused(tiny, URL, tmp_path / "file", StoreError)


def test_the_cache_is_where_the_user_s_caches_are(tiny, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    opened(tiny, shards=URL)
    assert list((tmp_path / "caches" / "mcn-lightning" / "shards").glob("shards-*/shard-00000.safetensors"))


def test_verify_reads_every_byte_of_a_url(folder, server, tmp_path, capsys):
    words = ["verify", "--shards", server.url, "--shards_cache", str(tmp_path / "cache")]
    main(words)
    assert "all as packed" in capsys.readouterr().out
    assert not list((tmp_path / "cache").rglob("shard-*"))
    break_shard(folder, 1, "one bit")
    with pytest.raises(SystemExit, match="1 of"):
        main(words)
    assert f"{server.url}/{shard_name(1)}: expected SHA-256" in "".join(capsys.readouterr())


def test_packing_is_into_a_folder():
    with pytest.raises(ValueError, match=r"--pack\.output: expected a folder on this machine, found s3://.*upload"):
        PackConfig("s3://bucket/shards")


def test_what_litdata_wrote_is_refused_in_one_line(tiny, tmp_path):
    (tmp_path / "store" / "train").mkdir(parents=True)
    (tmp_path / "store" / "train" / "index.json").write_text("{}")
    with pytest.raises(InputError, match="found LitData records of an older version; pack them again"):
        opened(tiny, shards=str(tmp_path / "store"))
    with pytest.raises(SystemExit, match=r"--pack\.format: no such option; LitData is gone"):
        main(["prepare", "--data.root", str(tiny), "--pack.output", "shards", "--pack.format", "litdata"])
