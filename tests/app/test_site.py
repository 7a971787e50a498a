"""The server's answers: searches, clips, media by ranges, and what a request may not reach."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra `app` is not installed")
pytest.importorskip("av", reason="the extra `app` is not installed")

from extract.films import Film, Sound, write
from starlette.testclient import TestClient

from app.indexes import SCRIPT, clips_of, write_films, write_index
from mcn_lightning.app.options import AppConfig
from mcn_lightning.app.server import guarded, opened
from mcn_lightning.errors import InputError
from mcn_lightning.search.explore.points import principal_points
from mcn_lightning.search.explore.stills import STILLS, keep_stills
from mcn_lightning.search.index import Index

PATIENT = {"decode_seconds": 600.0, "upload_seconds": 600.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    write_index(folder / "index", clips_of(write_films(folder / "media")))
    (folder / "secret.mp4").write_bytes(b"secret")
    return folder


@pytest.fixture(scope="module")
def index(folder) -> Index:
    return Index.open(folder / "index")


@pytest.fixture(scope="module")
def library(folder, index):
    config = AppConfig(str(folder / "index"), max_upload_mb=1.0, **PATIENT)
    with opened(config, index) as library:
        yield library


@pytest.fixture(scope="module")
def client(folder, library) -> TestClient:
    return TestClient(guarded(AppConfig(str(folder / "index")), library), base_url="http://127.0.0.1:8000")


def search(client, **params):
    found = client.get("/api/search", params=params)
    assert found.status_code == 200, found.text
    return found.json()


def test_a_search_gives_what_the_index_gives(client, index):
    found = search(client, q="crack two eggs", k="5")["clips"]
    expected = index.search("crack two eggs", k=5)
    assert [clip["id"] for clip in found] == expected["id"].tolist()
    assert [clip["score"] for clip in found] == pytest.approx(expected["score"].tolist())
    for clip, (_, row) in zip(found, expected.iterrows(), strict=True):
        for letter in "vat":
            score = row[f"score_{letter}"]
            assert clip["scores"][letter] == (None if math.isnan(score) else pytest.approx(score))


@pytest.mark.parametrize("letter", ["v", "a", "t"])
def test_more_like_a_clip_by_each_modality(client, index, letter):
    found = search(client, like="guitar/1", modality=letter, k="2")["clips"]
    assert [clip["id"] for clip in found] == index.search(like="guitar/1", modality=letter, k=2)["id"].tolist()
    assert {clip["video"] for clip in found} == {"guitar"}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"video": "GUIT"}, {"guitar/0", "guitar/1", "guitar/2"}),
        ({"cluster": "0"}, {"eggs/0", "eggs/1", "eggs/2", "lost/0", "lost/1", "lost/2"}),
        ({"cluster": "0", "from": "4", "to": "8"}, {"eggs/1", "lost/1"}),
        ({"video": "a' OR '1'='1"}, set()),
        ({"video": "a') > 0 OR (1 = 1"}, set()),
    ],
)
def test_filters(client, filters, expected):
    assert {clip["id"] for clip in search(client, q="eggs", **filters)["clips"]} == expected
    assert {clip["id"] for clip in search(client, **filters)["clips"]} == expected  # without a query, too


def test_words_are_searched_in_captions(client):
    found = search(client, q="plank", by="words")["clips"]
    assert {clip["id"] for clip in found} == {"plank/0", "plank/1", "plank/2"}
    assert found[0]["scores"] == {"v": None, "a": None, "t": None}
    assert len(search(client, q="plank", by="both", k="12")["clips"]) == 12


def test_few_of_a_video(client):
    videos = [clip["video"] for clip in search(client, q="eggs", per_video="1")["clips"]]
    assert sorted(videos) == ["eggs", "guitar", "lost", "plank"]


def test_unknown_words_are_named(client):
    found = search(client, q="eggs zyzzyva")
    assert found["clips"] and "zyzzyva" in found["notice"] and "eggs" not in found["notice"]
    found = search(client, q="zyzzyva qwrtz")
    assert not found["clips"] and "zyzzyva, qwrtz" in found["notice"] and "Try other words" in found["notice"]


@pytest.mark.parametrize(
    "asked", [{"q": "eggs pan"}, {"like": "plank/1", "modality": "v"}, {"q": "eggs", "by": "words"}]
)
def test_the_score_along_a_video_is_that_of_the_index(client, index, asked):
    found = client.get("/api/moments", params={**asked, "row": 4}).json()
    query = {"q": "text", "like": "like", "modality": "modality"}
    expected = index.moments("guitar", **{query[name]: value for name, value in asked.items() if name in query})
    assert [each["id"] for each in found] == ["guitar/0", "guitar/1", "guitar/2"] == expected["id"].tolist()
    assert [each["score"] for each in found] == pytest.approx(expected["score"].tolist(), abs=1e-5)
    assert [(each["start"], each["end"]) for each in found] == [(0, 4), (4, 8), (8, 12)]


@pytest.mark.parametrize("asked", [{"row": 4}, {"q": "eggs"}, {"q": "eggs", "row": 99}, {"q": "xyzzy", "row": 4}])
def test_a_score_along_a_video_that_cannot_be_is_refused(client, asked):
    found = client.get("/api/moments", params=asked)
    assert found.status_code == 400 and found.json()["error"]


def test_without_a_query_some_clips_are_shown(client):
    found = search(client, k="4")
    assert [clip["row"] for clip in found["clips"]] == [0, 3, 6, 9] and "12 clips" in found["notice"]


@pytest.mark.parametrize(
    "params",
    [
        {"q": "x" * 501}, {"q": "eggs", "k": "201"}, {"q": "eggs", "k": "0"}, {"q": "eggs", "k": "1e9"},
        {"q": "eggs", "k": "\u0663"}, {"q": "eggs", "modality": "vx"}, {"q": "eggs", "from": "nan"}, {"like": "nobody"},
        {"q": "eggs", "to": "-1"}, {"q": "eggs", "cluster": "1; drop table clips"}, {"q": "eggs", "by": "magic"},
        {"q": "eggs\x00"}, {"file": "../../etc/passwd"}, {"q": "eggs", "video": "v" * 1001}, {"q": "???"},
    ],
)  # fmt: skip
def test_wrong_queries_are_one_line(client, params):
    found = client.get("/api/search", params=params)
    assert found.status_code == 400 and "\n" not in found.json()["error"] and found.json()["error"]
    assert "Traceback" not in found.text


def test_suggestions_begin_as_typed(client):
    assert client.get("/api/suggest", params={"q": "gui stri"}).json() == [
        "tune the guitar string by string", "pluck the guitar strings softly",
    ]  # fmt: skip
    assert client.get("/api/suggest", params={"q": '"*) OR ('}).json() == []
    assert client.get("/api/suggest", params={"q": "x" * 5000}).status_code == 200


def test_captions_are_data_and_never_a_page(client):
    clip = client.get("/api/clips", params={"id": "lost/0"})
    assert clip.headers["content-type"] == "application/json" and clip.json()[0]["text"] == SCRIPT
    for page in ("/", "/map", "/clusters"):
        text = client.get(page, params={"q": SCRIPT}).text
        assert "owned" not in text and "<script>" not in text and "onerror" not in text


@pytest.mark.parametrize(
    ("asked", "status", "expected"),
    [("bytes=0-9", 206, (0, 10)), ("bytes=100-", 206, (100, None)), ("bytes=-7", 206, (-7, None))],
)
def test_ranges_of_media(client, folder, asked, status, expected):
    whole = (folder / "media" / "eggs.mp4").read_bytes()
    found = client.get("/media/1", headers={"range": asked})
    assert (found.status_code, found.content) == (status, whole[slice(*expected)])
    assert found.headers["content-range"].endswith(f"/{len(whole)}")
    assert found.headers["content-type"] == "video/mp4"


def test_a_range_behind_the_end_and_whole_media(client, folder):
    whole = (folder / "media" / "eggs.mp4").read_bytes()
    assert client.get("/media/1", headers={"range": f"bytes={len(whole)}-"}).status_code == 416
    assert client.get("/media/1").content == whole
    assert client.get("/media/1").headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize(
    "address",
    [
        "/media/../secret.mp4", "/media/..%2fsecret.mp4", "/media/%2e%2e/secret.mp4", "/media//etc/passwd",
        "/media/0/../../secret.mp4", "/media/-1", "/media/0.5", "/media/1e3", "/media/", "/media", "/static/",
        "/static/../guard.py", "/static/..%2fguard.py", "/static/%2e%2e%2fguard.py", "/static/map.html%00", "/../x",
        "/still/..%2f0", "/api/map?modality=../../x", "/api/codes/..%2fx", "/api/groups/text", "/media/" + "9" * 20,
        "/media/12", "/still/12", "/api/clips?rows=12", "/api/clips?rows=-1", "/api/clips?rows=0;1",
    ],
)  # fmt: skip
def test_no_path_of_a_request_reaches_the_disk(client, address):
    found = client.get(address)
    assert found.status_code in (400, 404, 405), found.status_code
    assert b"secret" not in found.content and b"import" not in found.content


def test_media_that_are_gone_leave_their_caption(client):
    clip = client.get("/api/clips", params={"id": "lost/1"}).json()[0]
    assert clip["media"] is False and clip["text"]
    assert client.get(f"/media/{clip['row']}").status_code == 404
    assert client.get(f"/still/{clip['row']}").status_code == 404


def test_media_that_have_moved_are_found(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "lost.mp4").write_bytes((folder / "media" / "eggs.mp4").read_bytes())
    config = AppConfig(str(folder / "index"), media_root=str(tmp_path / "elsewhere"))
    with opened(config, Index.open(config.index, media_root=config.media_root)) as library:
        client = TestClient(guarded(config, library), base_url="http://localhost")
        assert client.get("/media/9").status_code == 200 and client.get("/media/0").status_code == 404


def test_a_page_among_the_media_is_plain_bytes(tmp_path):
    (tmp_path / "media").mkdir()
    clips = [clip | {"media": str(tmp_path / "media" / "page.html")} for clip in clips_of(None)]
    (tmp_path / "media" / "page.html").write_text("<script>1</script>")
    index = Index.open(write_index(tmp_path / "index", clips))
    with opened(AppConfig("x"), index) as library:
        found = TestClient(guarded(AppConfig("x"), library), base_url="http://localhost").get("/media/0")
    assert found.headers["content-type"] == "application/octet-stream"
    assert found.headers["x-content-type-options"] == "nosniff"


def test_a_still_picture_comes_from_the_middle_of_its_clip(client, tmp_path):
    import av
    from extract.films import read

    found = client.get("/still/1")
    assert found.headers["content-type"] == "image/jpeg"
    (tmp_path / "still.jpg").write_bytes(found.content)
    with av.open(str(tmp_path / "still.jpg")) as container:
        assert read(next(container.decode(video=0)).to_ndarray(format="rgb24")) == 60
    assert client.get("/still/1").content == found.content


def upload(client, content: bytes, **headers):
    return client.post("/api/upload", content=content, headers=headers)


def test_a_sound_is_a_query(client, index, tmp_path):
    path = write(tmp_path / "tone.mp4", Film(seconds=3.0, rate=10, sound=Sound(seconds=3.0)))
    sent = upload(client, path.read_bytes()).json()
    assert sent["sound"] == pytest.approx(3.0, abs=0.2) and sent["picture"] == pytest.approx(3.0, abs=0.2)
    found = search(client, file=sent["file"], use="a", k="4")["clips"]
    assert [clip["id"] for clip in found] == index.search(audio=str(path), k=4)["id"].tolist()
    both = search(client, file=sent["file"], use="a", q="guitar", k="4")["clips"]
    assert [clip["id"] for clip in both] == index.search("guitar", audio=str(path), k=4)["id"].tolist()
    without = client.get("/api/search", params={"file": sent["file"], "use": "v"})
    assert without.status_code == 400 and "lightning extract" in without.json()["error"]


@pytest.mark.parametrize("content", [b"no sound at all", b"", b"\x00" * 1000])
def test_a_file_that_is_no_sound_is_a_notice(client, content):
    found = upload(client, content)
    assert found.status_code == 400 and len(found.json()["error"].splitlines()) == 1
    assert "/tmp" not in found.json()["error"]


def test_an_upload_that_is_too_large_is_refused_by_what_it_says_and_by_what_it_is(client):
    assert upload(client, b"x" * 1_000_001).status_code == 413

    def parts():
        for _ in range(11):
            yield b"x" * 100_000

    found = client.post("/api/upload", content=parts())
    assert found.status_code == 413 and "1 MB" in found.json()["error"]


def test_an_upload_of_another_site_is_refused(client):
    assert upload(client, b"x", **{"sec-fetch-site": "cross-site"}).status_code == 403
    assert upload(client, b"x", origin="http://evil.example").status_code == 403


def test_the_map_has_a_point_for_each_clip(client):
    points = np.frombuffer(client.get("/api/map", params={"modality": "va"}).content, "<f4").reshape(-1, 2)
    codes = np.frombuffer(client.get("/api/codes/cluster").content, "<i4")
    assert points.shape == (12, 2) and np.abs(points).max() == pytest.approx(1.0)
    middles = np.stack([points[codes == code].mean(axis=0) for code in range(3)])
    nearest = np.linalg.norm(points[:, None] - middles, axis=2).argmin(axis=1)
    assert (nearest == codes).all()
    lost = np.frombuffer(client.get("/api/map", params={"modality": "a"}).content, "<f4").reshape(-1, 2)[9:]
    assert np.isnan(lost).all()
    assert client.get("/api/map", params={"modality": ""}).status_code == 400


def test_a_map_of_fewer_clips_is_left_aside_and_the_page_says_so(tmp_path):
    index = Index.open(write_index(tmp_path / "index", clips_of(None)))
    np.save(tmp_path / "index" / "map_va.npy", np.zeros((11, 2), np.float32))
    np.save(tmp_path / "index" / "map_a.npy", np.tile(np.float32([[1, 2]]), (12, 1)) * np.arange(12)[:, None])
    with opened(AppConfig("x"), index) as library:
        client = TestClient(guarded(AppConfig("x"), library), base_url="http://localhost")
        found = client.get("/api/map", params={"modality": "va"})
        points = np.frombuffer(found.content, "<f4").reshape(-1, 2)
        assert np.array_equal(points, principal_points(index.vectors, ["fused"]))
        assert "Clips were added" in found.headers["x-notice"]
        found = client.get("/api/map", params={"modality": "a"})
        assert "x-notice" not in found.headers and np.frombuffer(found.content, "<f4")[:2].tolist() == [-0.5, -1]


def test_stills_that_are_kept_stand_for_videos_that_are_gone(tmp_path):
    media = write_films(tmp_path / "media")
    index = Index.open(write_index(tmp_path / "index", clips_of(media)))
    told = keep_stills(index)
    assert "stills of 9 of 12 clips" in told and "lost.mp4: expected the video of lost/0, found no file" in told
    kept = (tmp_path / "index" / STILLS).read_bytes()
    assert "stills of 9 of 12 clips" in keep_stills(index) and (tmp_path / "index" / STILLS).read_bytes() == kept
    for path in media.iterdir():
        path.unlink()
    with opened(AppConfig("x"), index) as library:
        client = TestClient(guarded(AppConfig("x"), library), base_url="http://localhost")
        clips = client.get("/api/clips", params={"rows": "1,9"}).json()
        assert [(clip["media"], clip["still"]) for clip in clips] == [(False, True), (False, False)]
        assert client.get("/still/1").content[:2] == b"\xff\xd8" and client.get("/still/9").status_code == 404
    (tmp_path / "index" / STILLS).write_bytes(b"no table at all")
    with pytest.raises(InputError, match=r"stills\.sqlite: expected pictures of clips, found .*; delete the file"):
        keep_stills(index)


def test_groups_are_named_by_their_captions(client):
    groups = client.get("/api/groups/cluster").json()
    assert [group["size"] for group in groups] == [6, 3, 3]
    assert groups[0]["label"].startswith("eggs") and groups[2]["label"].startswith("plank")
    assert {group["label"] for group in client.get("/api/groups/video").json()} == {"eggs", "guitar", "plank", "lost"}
    assert client.get("/api/groups/topic").json() == []


def test_the_page_of_clusters(client):
    first = client.get("/api/clusters").json()[0]
    assert (first["code"], first["size"], first["agreement"]) == (0, 6, 1.0)
    assert set(first["nearest"]) == {0, 1, 2, 9, 10, 11}


def test_several_ask_at_once(client):
    found: list[list[str]] = []

    def ask() -> None:
        found.append([clip["id"] for clip in search(client, q="eggs", k="3")["clips"]])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and all(each == found[0] for each in found)


def test_an_index_without_captions_and_clusters(tmp_path):
    clips = [clip | {"text": None, "cluster": None} for clip in clips_of(None)]
    index = Index.open(write_index(tmp_path / "index", clips))
    with opened(AppConfig("x"), index) as library:
        client = TestClient(guarded(AppConfig("x"), library), base_url="http://localhost")
        assert client.get("/api/clusters").json() == []
        assert client.get("/api/suggest", params={"q": "eggs"}).json() == []
        assert len(search(client)["clips"]) == 12
        assert client.get("/api/about").json()["clips"] == 12


def test_columns_of_the_user_are_shown(tmp_path):
    clips = [clip | {"camera": "left"} for clip in clips_of(None)]
    index = Index.open(write_index(tmp_path / "index", clips, {"camera": "TEXT"}))
    with opened(AppConfig("x"), index) as library:
        client = TestClient(guarded(AppConfig("x"), library), base_url="http://localhost")
        assert search(client)["clips"][0]["own"] == {"camera": "left"}
        assert json.dumps(search(client, q=SCRIPT[:100], by="words"))
