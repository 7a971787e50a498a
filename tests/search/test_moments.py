"""One video along its time: the score of a query, and its clips against its captions."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest
from launch import refusal, run
from references.retrieval import scores

import mcn_lightning as mcn
from mcn_lightning.search.explore.moments import compare_captions, sparkline


@pytest.fixture(scope="module")
def both(trained, tmp_path_factory) -> mcn.Index:
    """An index of captions and windows."""
    return trained.index(tmp_path_factory.mktemp("moments") / "both", "--clips", "both", "--window", 5)


def in_time(index: mcn.Index, video: str, kind: str) -> list[dict]:
    clips = [clip for clip in index.clips.take(range(len(index))) if clip["video"] == video and clip["kind"] == kind]
    return sorted(clips, key=lambda clip: (clip["start"], clip["end"]))


@pytest.mark.parametrize(("modality", "names"), [(None, ["fused"]), ("a", ["audio"]), ("vt", ["video", "text"])])
@pytest.mark.parametrize("kind", ["window", "caption"])
def test_the_curve_has_the_dot_product_of_every_clip(kind, modality, names, both, index):
    index = both if kind == "window" else index
    video = index.clips.videos()[1]
    clips = in_time(index, video, kind)
    text = str(in_time(index, video, "caption")[0]["text"])
    found = index.moments(video, text, modality=modality)
    assert len(clips) > 2 and found["id"].tolist() == [clip["id"] for clip in clips]
    assert found["start"].tolist() == [clip["start"] for clip in clips]
    rows = index.vectors.rows(names, [clip["row"] for clip in clips])
    assert found["score"].tolist() == pytest.approx(scores(index.model.embed_text(text), rows)[0], abs=1e-5)


def test_other_kinds_of_query_have_a_curve(index):
    video = index.clips.videos()[0]
    clip = in_time(index, video, "caption")[2]
    found = index.moments(video, like=clip["id"])
    own = index.embedding(clip["id"])
    assert found["score"][found["id"] == clip["id"]].item() == pytest.approx(float(own @ own), rel=1e-4)
    pd.testing.assert_frame_equal(found, index.moments(video, vector=own))


def test_a_video_without_times_is_refused(index, monkeypatch):
    clips = [{**clip, "start": None} for clip in index.clips.of_video(index.clips.videos()[0])]
    monkeypatch.setattr(index.clips, "of_video", lambda video: clips)
    with pytest.raises(mcn.InputError, match="expected clips with times and video or audio, found none"):
        index.moments("any", vector=index.embedding(clips[0]["id"]))


def test_a_curve_of_characters_shows_the_highest_clip_at_each_time():
    frame = pd.DataFrame({"start": [0.0, 1.0, 1.0, 6.0], "end": [2.0, 4.0, 2.0, 8.0], "score": [0.0, 0.5, 1.0, 0.2]})
    assert sparkline(frame, 8) == "▁█▅▅  ▂▂"  # 0, 1, 0.5, 0.5, no clip, no clip, 0.2, 0.2 of 7 steps
    assert sparkline(frame.assign(score=3.0), 4) == "▁▁ ▁"


def test_captions_are_compared_with_the_clips_of_their_video(both):
    video = both.clips.longest_video()
    found = compare_captions(both, video, "v")
    captions, windows = in_time(both, video, "caption"), in_time(both, video, "window")
    assert [each["id"] for each in found.captions] == [each["id"] for each in captions]
    assert [each["id"] for each in found.clips] == [each["id"] for each in windows]
    queries = both.vectors.rows(["text"], [each["row"] for each in captions])
    items = both.vectors.rows(["video"], [each["row"] for each in windows])
    np.testing.assert_allclose(found.scores, scores(queries, items), rtol=1e-4, atol=1e-5)


def test_the_longest_video_has_most_captions(both):
    count = {video: len(in_time(both, video, "caption")) for video in both.clips.videos()}
    assert both.clips.longest_video() == max(count, key=lambda video: count[video])


def test_the_command_prints_a_curve_and_writes_it(made, index, tmp_path, capsys):
    video = index.clips.videos()[0]
    text = str(in_time(index, video, "caption")[1]["text"])
    expected = index.moments(video, text)
    run("search", made, "--moments", video, text, "--k", 3)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{video}, ") and lines[1] == sparkline(expected).rstrip() and len(lines) == 6
    assert lines[3].split()[-1] == expected.loc[expected["score"].idxmax(), "id"]
    run("search", made, text, "--moments", video, "--format", "json")
    assert [each["id"] for each in json.loads(capsys.readouterr().out)] == expected["id"].tolist()
    pytest.importorskip("matplotlib")
    run("search", made, "--moments", video, text, "--format", "csv", "--output", tmp_path / "curve.png")
    found = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert found["score"].tolist() == pytest.approx(expected["score"].tolist(), abs=1e-5)
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"


def test_wrong_moments_are_refused_in_one_line(made, index, capsys):
    video = index.clips.videos()[0]
    for words, message in (
        (("--moments", video), "expected a query, found none"),
        (("--moments", video[:-1], "a"), f"expected the name of a video of this index, found '{video[:-1]}'; did you"),
        (("a", "--moments", video, "b"), "--moments: expected one sentence, found two"),
        (("--moments", video, "two", "words"), '--moments: expected VIDEO "SENTENCE", found 3 words; quote'),
        (("--moments", video, "a", "--merge", "true"), "--moments: expected no --merge with it; leave it out"),
        (("--moments", video, "a", "--words", "a"), "--moments: expected no --words with it"),
        (("--moments", video, "a", "--output", "a.gif"), "--output a.gif: expected a name ending in .png or .svg"),
        (("a", "--per_video", 0), "--per_video: expected a whole number above 0, found 0"),
        (("--moments", video, "xyzzy"), "none known of: xyzzy"),
    ):
        found = refusal(capsys, "search", made, *words)
        assert message in found and "\n" not in found
