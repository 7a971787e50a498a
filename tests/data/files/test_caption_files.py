"""Captions in every form that people have: read to the same values, or named with the way out, once."""

from __future__ import annotations

import csv
import io
import json
import pickle
import re
import shutil
import zipfile

import numpy as np
import pytest

from data.sharding import narrated, opened, same
from mcn_lightning.batch import BadVideo
from mcn_lightning.data.captions import read_captions
from mcn_lightning.data.files.caption_files import caption_files, seconds_of
from mcn_lightning.data.files.subtitles import read_subtitles
from mcn_lightning.data.shards.job import PackConfig
from mcn_lightning.errors import InputError

SPOKEN = {
    "aaaaaaaaaaa": [(0.0, 2.5, "mix the flour"), (61.5, 65.0, "it's <b> & done")],
    "b-b_b.bbbbb": [(3601.25, 3604.0, "eat, slowly")],
}


def clock(seconds, mark="."):
    whole, part = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}{mark}{part:03d}"


def escaped(text):
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def vtt(captions):
    cues = [f"{clock(start)} --> {clock(end)} align:start\n{escaped(text)}\n" for start, end, text in captions]
    return "WEBVTT\nKind: captions\n\nNOTE made\nby hand\n\n" + "\n".join(cues)


def srt(captions):
    cues = enumerate(captions, 1)
    return "\n".join(f"{n}\n{clock(s, ',')} --> {clock(e, ',')}\n{escaped(text)}\n" for n, (s, e, text) in cues)


def columns(captions):
    return {name: [row[place] for row in captions] for place, name in enumerate(("start", "end", "text"))}


def youcook2(spoken):
    database = {
        video: {
            "duration": 4000.0,
            "subset": "training",
            "recipe_type": "101",
            "annotations": [{"segment": [s, e], "id": n, "sentence": text} for n, (s, e, text) in enumerate(captions)],
        }
        for video, captions in spoken.items()
    }
    return json.dumps({"database": database})


def coot(spoken):
    entries = {
        video: {"data_key": video, "duration_sec": 4000.0, "split": "train",
                "segments": [{"text": text, "start_sec": s, "stop_sec": e} for s, e, text in captions]}
        for video, captions in spoken.items()
    }  # fmt: skip
    return json.dumps(entries)


def activitynet(spoken):
    entries = {
        video: {"duration": 9.0, "timestamps": [[s, e] for s, e, _ in captions], "sentences": [t for *_, t in captions]}
        for video, captions in spoken.items()
    }
    return json.dumps(entries)


def table(header, mark=",", times=float):
    """Return what writes a CSV file whose columns are video, start, end and text, later captions first."""

    def write(spoken):
        text = io.StringIO()
        writer = csv.writer(text, delimiter=mark, lineterminator="\n")
        writer.writerow(header)
        for video, captions in spoken.items():
            for start, end, words in reversed(captions):
                writer.writerow([video, times(start), times(end), words])
        return text.getvalue()

    return write


def youcook_csv(spoken):
    lines = ["end,start,task,text,video_id"]
    lines += [f'{e},{s},226,"{text}",{video}' for video, captions in spoken.items() for s, e, text in captions]
    return "\r\n".join(lines) + "\r\n\r\n"


FILES = {
    "own.json": lambda spoken: json.dumps({video: columns(captions) for video, captions in spoken.items()}),
    "youcookii_annotations_trainval.json": youcook2,
    "coot.json": coot,
    "activitynet.json": activitynet,
    "validation_youcook.csv": youcook_csv,
    "tabs.tsv": table(("video", "start", "end", "caption"), "\t"),
    "semicolons.csv": table(("VIDEO_ID", "start_time", "end_time", "Sentence"), ";"),
    "clock.csv": table(("video", "start", "end", "text"), ",", clock),
    "rows.json": lambda spoken: json.dumps(
        [{"video_id": v, "start": s, "end": e, "text": t} for v, rows in spoken.items() for s, e, t in rows]
    ),
}


def check(found, spoken=SPOKEN):
    for video, captions in spoken.items():
        assert found[video].dropped == {}
        assert found[video].start.tolist() == [start for start, _, _ in captions]
        assert found[video].end.tolist() == [end for _, end, _ in captions]
        assert list(found[video].text) == [text for *_, text in captions]


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_form_is_read(tmp_path, name):
    (tmp_path / name).write_text(FILES[name](SPOKEN))
    found = read_captions(tmp_path / name, [*SPOKEN, "ccccccccccc"])
    check(found)
    assert isinstance(found["ccccccccccc"], BadVideo) and "found none" in found["ccccccccccc"].reason


FOLDERS = {
    ".vtt": vtt,
    ".en.vtt": vtt,
    ".srt": srt,
    ".json": lambda captions: json.dumps(columns(captions)),
    "whisper.json": lambda captions: json.dumps(
        {"text": "all", "segments": [{"id": 0, "start": s, "end": e, "text": t} for s, e, t in captions]}
    ),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_with_a_file_for_each_video_is_read(tmp_path, kind):
    for number, (video, captions) in enumerate(SPOKEN.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / f"{video}{kind.removeprefix('whisper')}").write_text(FOLDERS[kind](captions))
    check(read_captions(tmp_path, SPOKEN))


def test_one_subtitle_file_is_one_video(tmp_path):
    (tmp_path / "aaaaaaaaaaa.en.vtt").write_text(vtt(SPOKEN["aaaaaaaaaaa"]))
    check(read_captions(tmp_path / "aaaaaaaaaaa.en.vtt", ["aaaaaaaaaaa"]), {"aaaaaaaaaaa": SPOKEN["aaaaaaaaaaa"]})


def test_of_several_files_of_a_video_the_plain_and_the_english_one_come_first(tmp_path):
    for name in ("a.de.vtt", "a.en.vtt", "b.de.srt", "b.en-US.srt", "c.fr.vtt", "c.vtt", "c.srt", "d.txt"):
        (tmp_path / name).write_text("")
    found = {video: path.name for video, path in caption_files(tmp_path).items()}
    assert found == {"a": "a.en.vtt", "b": "b.en-US.srt", "c": "c.vtt"}


def test_one_bad_file_in_a_folder_is_one_bad_video(tmp_path):
    (tmp_path / "good.srt").write_text(srt(SPOKEN["aaaaaaaaaaa"]))
    (tmp_path / "latin.srt").write_bytes("1\n00:00:01,000 --> 00:00:02,000\ncafé\n".encode("latin-1"))
    (tmp_path / "empty.vtt").write_text("WEBVTT\n")
    (tmp_path / "times.vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.000\n\n")
    found = read_captions(tmp_path, ["good", "latin", "empty", "times", "none"])
    assert len(found["good"]) == 2
    for name, part in (
        ("latin", "Latin-1"),
        ("empty", "lines of times"),
        ("times", "times and words"),
        ("none", "none"),
    ):
        assert isinstance(found[name], BadVideo) and part in found[name].reason, name


MSRVTT = {"info": {}, "videos": [{"video_id": "video0"}], "sentences": [{"video_id": "video0", "caption": "a"}]}
REFUSED = {
    "MSRVTT_data.json": (json.dumps(MSRVTT), "MSR-VTT's list of sentences: its clips are read as a pickle"),
    "LSMDC16_annos_training.csv": (
        "1_Cast_Away_00.04.57\t00.04.57.000\t00.05.01.000\t00.04.56.000\t00.05.02.000\tSomeone walks.\n",
        "LSMDC's list of clips: they are read as a pickle",
    ),
    "msrvtt_test.csv": (
        "key,vid_key,video_id,sentence\nret0,msr9770,video9770,a person\n",
        "no column for start and end in the header 'key,vid_key,video_id,sentence'; clips without times are read as",
    ),
    "train.csv": ("path\nfood/a\n", "no column for video and start and end and text in the header 'path'"),
    "lines.json": ('{"id": "a"}\n{"id": "b"}\n', "one JSON object a line"),
    "whisper.json": (json.dumps({"text": "a", "segments": [{"start": 0, "text": "a"}]}), "captions of one video: name"),
    "coco.json": (json.dumps({"images": [], "annotations": [{"image_id": "v", "caption": "a"}]}), "as in COCO's form"),
    "one.json": (json.dumps(columns([(0.0, 1.0, "a")])), "the captions of one video: name it <video id>.json"),
    "clips.pickle": (pickle.dumps([{"id": "a", "caption": "b"}]), "a pickle of clips, as those of YouCook2"),
    "captions.h5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file: "),
    "captions.hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file: "),
    "captions.json.gz": (b"\x1f\x8b\x08" + bytes(30), "a gzip file: unpack it"),
    "empty": (None, "expected files <video id>.vtt, .srt or .json, found none"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_known_form_without_captions_of_videos_is_named_once(tmp_path, name):
    content, part = REFUSED[name]
    path = tmp_path / name
    if content is None:
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_captions(path, ["a", "b"])
    assert str(caught.value).startswith(f"{path}: expected ") and part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_zip_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "raw_caption.zip", "w") as archive:
        archive.writestr("raw_caption.json", "{}")
    with pytest.raises(InputError, match="found a zip file: unpack it"):
        read_captions(tmp_path / "raw_caption.zip", ["a"])


ROLLING = """WEBVTT
Kind: captions
Language: en

00:00:00.000 --> 00:00:01.500 align:start position:0%
 
mix<00:00:00.500><c> the</c><00:00:01.000><c> flour</c>

00:00:01.500 --> 00:00:01.510 align:start position:0%
mix the flour
 

00:00:01.510 --> 00:00:02.500 align:start position:0%
mix the flour
okay

00:00:02.500 --> 00:00:02.510 align:start position:0%
okay
 

00:00:02.510 --> 00:00:04.000 align:start position:0%
okay
mix<00:00:03.000><c> the</c><00:00:03.500><c> flour</c>

00:00:04.000 --> 00:00:04.010 align:start position:0%
mix the flour
 

00:00:09.000 --> 00:00:10.000 align:start position:0%
mix the flour
salt<00:00:09.500><c> &amp;</c><00:00:09.700><c> pepper</c>
"""
LINES = [
    (0.0, 1.5, "mix the flour"),
    (1.51, 2.5, "okay"),
    (2.51, 4.0, "mix the flour"),
    (9.0, 10.0, "salt & pepper"),
]


def test_rolling_lines_come_once_also_one_that_is_said_again():
    assert read_subtitles(ROLLING) == LINES
    without_blanks = "\n".join(line.rstrip() for line in ROLLING.split("\n"))
    assert read_subtitles(without_blanks) == LINES


def test_rolling_lines_without_word_times_come_once():
    plain = re.sub(r"<[^>]*>", "", ROLLING)
    assert read_subtitles(plain) == LINES


ECHO = [("", "no"), ("no", "no"), ("no", "yes"), ("yes", "no")]
"""What rolls: the line above, and the new one."""


@pytest.mark.parametrize("held", [True, False])
def test_what_is_said_twice_in_a_short_file_of_rolling_lines_stays_twice(held):
    spoken, cues = [], []
    for number, (above, new) in enumerate(ECHO):
        spoken.append((float(number), number + 0.99, new))
        cues.append((float(number), number + 0.99, f"{above}\n{new}".strip()))
        if held:
            cues.append((number + 0.99, number + 1.0, new))
    for write in (srt, vtt):
        assert read_subtitles(write(cues)) == spoken
        after_a_pause = [*cues, (9.0, 10.0, "no")]
        assert read_subtitles(write(after_a_pause)) == [*spoken, (9.0, 10.0, "no")]


@pytest.mark.parametrize("count", [2, 3, 7])
def test_short_subtitles_that_do_not_roll_keep_what_is_said_twice(count):
    texts = ["stop", "stop", "one", "two", "three", "four", "five"][:count]
    spoken = [(float(n), n + 1.0, text) for n, text in enumerate(texts)]
    assert read_subtitles(srt(spoken)) == spoken and read_subtitles(vtt(spoken)) == spoken
    timed = vtt(spoken) + "\n00:00:20.000 --> 00:00:21.000\ngo<00:00:20.500><c> on</c>\n"
    assert read_subtitles(timed) == [*spoken, (20.0, 21.0, "go on")]


def test_signs_between_words_are_no_tags():
    text = "00:00.000 --> 00:01.000\nif 5 < 6 and 7 > 2 then\n\n00:01.000 --> 00:02.000\na <b>bold</b> 1<2 &lt;i&gt;"
    assert [said for *_, said in read_subtitles(text)] == ["if 5 < 6 and 7 > 2 then", "a bold 1<2 <i>"]


def test_subtitles_that_do_not_roll_keep_what_is_said_twice():
    spoken = [
        (float(n), n + 1.0, text) for n, text in enumerate(["one", "stop", "stop", "two", "three", "four", "five"])
    ]
    assert read_subtitles(srt(spoken)) == spoken and read_subtitles(vtt(spoken)) == spoken


def test_odd_subtitles():
    text = "1\n00:00:01,0 --> 00:00:02,50\n{\\an8}<i>one</i>\ntwo\n"
    text += "2\n00:03.000 --> 00:04.000\n1984\n\nname\n00:05.000 --> 00:06.000\nlast"
    assert read_subtitles(text) == [(1.0, 2.5, "one two"), (3.0, 4.0, "1984"), (5.0, 6.0, "last")]
    assert read_subtitles("") == [] and read_subtitles("WEBVTT\n\nNOTE 00:01.000 --> no time\n") == []


def test_times_of_cells():
    assert [seconds_of(cell) for cell in ("12.5", " 01:02.5", "1:00:00,25")] == [12.5, 62.5, 3600.25]
    assert np.isnan([seconds_of(cell) for cell in ("", "soon", "1:x")]).all()


def test_a_cell_that_is_no_time_and_one_that_is_empty_cost_their_caption(tmp_path):
    (tmp_path / "c.csv").write_text("video,start,end,text\na,0,1,one\na,soon,3,two\na,3,4,\na,4,5\n")
    found = read_captions(tmp_path / "c.csv", ["a"])["a"]
    assert found.text == ("one",)
    assert found.dropped == {"with a time that is no number": 1, "without text": 2}


@pytest.mark.parametrize("name", ["youcook2", "coot", "csv", "vtt", "srt"])
def test_training_and_packing_from_another_form_equal_those_from_our_own(tiny, tmp_path, name):
    root = shutil.copytree(tiny, tmp_path / "copy")
    entries = json.loads((root / "captions.json").read_text())
    spoken = {v: list(zip(e["start"], e["end"], e["text"], strict=True)) for v, e in entries.items()}
    for entry in entries.values():
        del entry["topic"]
    (root / "captions.json").write_text(json.dumps(entries))
    if name in ("vtt", "srt"):
        (root / "said").mkdir()
        for video, captions in spoken.items():
            (root / "said" / f"{video}.{name}").write_text({"vtt": vtt, "srt": srt}[name](captions))
        captions = "said"
    else:
        captions = f"said.{'csv' if name == 'csv' else 'json'}"
        write = {"youcook2": youcook2, "coot": coot, "csv": FILES["validation_youcook.csv"]}[name]
        (root / captions).write_text(write(spoken))
    own, other = opened(root), opened(root, captions=captions)
    narrated(root, captions=captions).pack(PackConfig(str(tmp_path / "shards"), 40_000, processes=1))
    shards = opened(root, captions=captions, shards=str(tmp_path / "shards"))
    for index in range(3):
        same(own.datasets["train"][(0, index)], other.datasets["train"][(0, index)])
        same(own.datasets["train"][(0, index)], shards.datasets["train"][(0, index)])


@pytest.mark.shared
def test_automatic_captions_are_what_was_spoken(shared):
    root = shared / "videos" / "photo_shows"
    truth = json.loads((root / "truth.json").read_text())
    found = read_captions(root, truth)
    words = lambda text: re.sub(r"[^\w' -]", " ", text.lower()).split()  # noqa: E731
    for video, narrations in truth.items():
        starts, ends = found[video].start, found[video].end
        for narration in narrations:
            inside = [n for n in range(len(starts)) if narration["start"] <= starts[n] < narration["end"]]
            assert words(" ".join(found[video].text[n] for n in inside)) == words(narration["spoken"])
            assert starts[inside[0]] == pytest.approx(narration["start"], abs=0.002)
            assert ends[inside[-1]] == pytest.approx(narration["end"], abs=0.002)
        spoken = sum(len(words(narration["spoken"])) for narration in narrations)
        assert sum(len(words(text)) for text in found[video].text) == spoken  # and none of it twice


@pytest.mark.shared
def test_the_published_validation_list_of_youcook2(shared):
    path = shared / "annotations" / "validation_youcook.csv"
    ids = {row["video_id"] for row in csv.DictReader(path.open())}
    found = read_captions(path, ids)
    assert sum(len(captions) for captions in found.values()) == 3350
    assert found["xHr8X2Wpmno"].text[0] == "pick the ends off the verdalago" and found["xHr8X2Wpmno"].start[0] == 47.0
    with pytest.raises(InputError, match=r"hmdb51\.csv: .*no column for start and end and text"):
        read_captions(shared / "annotations" / "hmdb51.csv", ids)
