"""Captions in every form: each word once, at its time; what is damaged is named and costs nothing else."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from extract.caption_files import found, rows, video
from mcn_lightning.extract.captions import find_captions

LINES = [
    [(0.0, "mix"), (0.5, "the"), (1.0, "flour")],
    [(1.51, "okay")],
    [(2.51, "mix"), (3.0, "the"), (3.5, "flour")],
    [(9.0, "salt"), (9.5, "&"), (9.7, "pepper")],
]
ENDS = [1.5, 2.5, 4.0, 10.0]


def expected(ends):
    texts = [" ".join(word for _, word in line) for line in LINES]
    return [(line[0][0], end, text) for line, end, text in zip(LINES, ends, texts, strict=True)]


def expected_words(ends):
    for line, end in zip(LINES, ends, strict=True):
        begins = [*(begin for begin, _ in line), end]
        yield tuple((first, last, word) for (first, last), (_, word) in zip(pairwise(begins), line, strict=True))


def clock(seconds):
    return f"00:00:{int(seconds):02}.{round(seconds * 1000) % 1000:03}"


def rolling_vtt():
    """The lines as YouTube writes them: each below the one before, held for 10 ms, then above the next one."""
    cues, before = [], " "
    for line, end in zip(LINES, ENDS, strict=True):
        words = [word.replace("&", "&amp;") for _, word in line]
        timed = words[0] + "".join(
            f"<{clock(begin)}><c> {word}</c>" for (begin, _), word in zip(line[1:], words[1:], strict=True)
        )
        plain = " ".join(words)
        cues.append(f"{clock(line[0][0])} --> {clock(end)} align:start position:0%\n{before}\n{timed}\n")
        cues.append(f"{clock(end)} --> {clock(end + 0.01)} align:start position:0%\n{plain}\n \n")
        before = plain
    return "WEBVTT\nKind: captions\nLanguage: en\n\n" + "\n".join(cues)


def json3():
    """The same in YouTube's json3: a line stays while the next one is spoken, and an event breaks the line."""
    events = [{"tStartMs": 0, "dDurationMs": 12000, "id": 1, "wpWinPosId": 1, "wsWinStyleId": 1}]
    for line in LINES:
        start = round(line[0][0] * 1000)
        segments = [{"utf8": line[0][1], "acAsrConf": 0}]
        segments += [{"utf8": f" {word}", "tOffsetMs": round(begin * 1000) - start} for begin, word in line[1:]]
        events.append({"tStartMs": start, "dDurationMs": 2000, "wWinId": 1, "segs": segments})
        events.append({"tStartMs": start + 900, "dDurationMs": 9, "wWinId": 1, "aAppend": 1, "segs": [{"utf8": "\n"}]})
    return {"wireMagic": "pb3", "events": events}


@pytest.mark.parametrize(
    ("name", "content", "ends"),
    [
        ("show.en.vtt", rolling_vtt(), ENDS),
        ("show.en.json3", json3(), [1.51, 2.51, 4.51, 11.0]),
        ("show.json", json3(), [1.51, 2.51, 4.51, 11.0]),
    ],
)
def test_automatic_captions_of_youtube(tmp_path, name, content, ends):
    captions = found(tmp_path, name, content)
    assert rows(captions) == expected(ends)
    assert [caption.words for caption in captions.captions] == list(expected_words(ends))
    assert captions.problems == () and captions.dropped == {}


def test_json3_of_written_captions_keeps_their_ends_and_has_no_word_times(tmp_path):
    events = [
        {"tStartMs": 1000, "dDurationMs": 3000, "segs": [{"utf8": "one\ntwo"}]},
        {"tStartMs": 2000, "dDurationMs": 3000, "segs": [{"utf8": "three"}]},
    ]
    captions = found(tmp_path, "show.json3", {"events": events})
    assert rows(captions) == [(1.0, 4.0, "one two"), (2.0, 5.0, "three")]
    assert "words" not in captions.entry()


def test_parts_of_json3_without_a_time_belong_to_the_word_before(tmp_path):
    segments = [{"utf8": "New"}, {"utf8": " York"}, {"utf8": " it", "tOffsetMs": 500}, {"utf8": "'s", "tOffsetMs": 700}]
    captions = found(tmp_path, "show.json3", {"events": [{"tStartMs": 0, "dDurationMs": 1000, "segs": segments}]})
    assert captions.captions[0].text == "New York it's"
    assert captions.captions[0].words == ((0.0, 0.5, "New York"), (0.5, 1.0, "it's"))


def spoken(word, start=None, end=None, space=""):
    times = {} if start is None else {"start": start, "end": end}
    return {"word": space + word, **times, "score": 0.9}


SEGMENT = {"start": 1.0, "end": 3.0, "text": " In 2014 it was."}
WORDS = (("In", 1.0, 1.2), ("2014", 1.2, 2.0), ("it", 2.0, 2.5), ("was.", 2.5, 3.0))


def whisper():
    words = [spoken(word, start, end, " ") for word, start, end in WORDS]
    return {"text": "all", "segments": [{"id": 0, "seek": 0, **SEGMENT, "words": words}], "language": "en"}


def whisperx():
    words = [spoken(word, *(() if word.isdecimal() else (start, end))) for word, start, end in WORDS]
    return {"segments": [{**SEGMENT, "words": words, "speaker": "SPEAKER_00"}], "word_segments": words}


@pytest.mark.parametrize("content", [whisper(), whisperx(), [whisperx()["segments"][0]]])
def test_segments_of_whisper_and_whisperx(tmp_path, content):
    captions = found(tmp_path, "show.json", content)
    assert rows(captions) == [(1.0, 3.0, "In 2014 it was.")]
    # WhisperX gives no time to a number: it has the time between its neighbours
    assert captions.captions[0].words == tuple((start, end, word) for word, start, end in WORDS)
    assert captions.entry()["words"] == [[[start, end, word] for word, start, end in WORDS]]


def test_several_words_without_times_share_the_time_between_their_neighbours(tmp_path):
    words = [spoken("1"), spoken("2"), spoken("so", 2.0, 2.2), spoken("3"), spoken("4")]
    captions = found(tmp_path, "show.json", {"segments": [{**SEGMENT, "text": "1 2 so 3 4", "words": words}]})
    times = [(1.0, 1.5), (1.5, 2.0), (2.0, 2.2), (2.2, 2.6), (2.6, 3.0)]
    assert [word[:2] for word in captions.captions[0].words] == times


@pytest.mark.parametrize(
    "content",
    [
        {"start": [0.0, 2.0], "end": [1.0, 3.0], "text": ["one", "two"]},
        {"show": {"start": [0.0, 2.0], "end": [1.0, 3.0], "text": ["one", "two"]}},
        {"timestamps": [[0.0, 1.0], [2.0, 3.0]], "sentences": ["one", "two"]},
        [{"start": 2.0, "end": 3.0, "caption": "two"}, {"start": 0.0, "end": 1.0, "caption": "one"}],
    ],
)
def test_plain_json(tmp_path, content):
    assert rows(found(tmp_path, "show.json", content)) == [(0.0, 1.0, "one"), (2.0, 3.0, "two")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("show.csv", 'Start,End,Text\n0,1.5,"one, two"\n00:00:02.5,0:04,&amp; three\n'),
        ("show.en.tsv", "topic\tbegin\tend_time\tsentence\nx\t0\t1.5\tone, two\ny\t2.5\t4\t& three\n"),
        ("show.csv", "end;start;caption\n1,5;0;one, two\n4;2,5;& three\n"),
    ],
)
def test_a_table_of_one_video(tmp_path, name, content):
    captions = found(tmp_path, name, content)
    assert rows(captions) == [(0.0, 1.5, "one, two"), (2.5, 4.0, "& three")] and captions.problems == ()


def test_a_damaged_line_of_a_table_is_named_and_a_table_of_something_else_is_none(tmp_path):
    captions = found(tmp_path, "show.csv", "start,end,text\nsoon,1,a\n1,2,b\n3,2,c\n4,5\n")
    assert rows(captions) == [(1.0, 2.0, "b")]
    assert [problem.partition(", ")[2] for problem in captions.problems] == [
        "line 2: expected start and end in seconds, found 'soon' and 1.0; this caption is left out",
        "line 4: expected a start of at least 0 s and an end after it, found 3 s and 2 s; this caption is left out",
    ]
    captions = found(tmp_path, "show.csv", "frame,label\n1,dog\n")
    assert not captions and captions.problems == (
        f"{tmp_path / 'show.csv'}: expected the columns start, end and text, found frame, label; name them in line 1",
    )


def test_plain_subtitles(tmp_path):
    content = "1\n00:00:00,000 --> 00:00:01,000\n<i>one</i>\n\n2\n00:00:02,000 --> 00:00:03,000\ntwo\n&amp; three\n"
    assert rows(found(tmp_path, "show.srt", content)) == [(0.0, 1.0, "one"), (2.0, 3.0, "two & three")]


ASS = """[Script Info]
ScriptType: v4.00+

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Dialogue: 0,0:00:00.00,0:00:01.00,Default,,0,0,0,,{\\an8}one
Comment: 0,0:00:01.00,0:00:02.50,Default,,0,0,0,,note
Dialogue: 0,0:00:02.00,0:00:03.00,Default,,0,0,0,,two,\\N{\\i1}three{\\i0}
"""
SAMI = "<SAMI><BODY><SYNC Start=0><P>one<SYNC Start=1000><P>&nbsp;<SYNC Start=2000><P>two,<br>three"
SAMI += "<SYNC Start=3000><P>&nbsp;</BODY></SAMI>"
TTML = """<tt xmlns="http://www.w3.org/ns/ttml"><body><div><p begin="00:00:00.000" end="00:00:01.000">one</p>
<p begin="00:00:02.000" end="00:00:03.000">two,<br/>three</p></div></body></tt>"""


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("show.ass", ASS),
        ("show.sub", "{1}{1}25\n{0}{25}one\n{50}{75}two,|three\n"),
        ("show.smi", SAMI),
        ("show.ttml", TTML),
    ],
)
def test_forms_of_pysubs2(tmp_path, name, content):
    pytest.importorskip("pysubs2")
    captions = found(tmp_path, name, content)
    starts_and_texts = [(caption.start, caption.text) for caption in captions.captions]
    assert starts_and_texts == [(0.0, "one"), (2.0, "two, three")]
    if name != "show.smi":  # it has no ends: pysubs2 guesses them
        assert [caption.end for caption in captions.captions] == [1.0, 3.0]


def test_pysubs2_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pysubs2", None)
    (problem,) = found(tmp_path, "show.ass", ASS).problems
    assert "show.ass: expected the package pysubs2 to read .ass files" in problem
    assert problem.endswith("found none; pip install 'mcn-lightning[extract]'")


# --- what is damaged -------------------------------------------------------------------------------------------------


def test_a_damaged_line_of_times_is_named_and_its_words_join_no_other_caption(tmp_path):
    content = """WEBVTT

00:00.000 --> 00:01.000
one

00:01.000 -> 00:02.000
lost

NOTE no --> times

00:0x.000 --> 00:03.000
lost too

name
00:05.000 --> 00:04.000
backwards

00:06.000 --> 00:07.000
last
12:30 - 1:00 lunch
"""
    captions = found(tmp_path, "show.vtt", content)
    assert rows(captions) == [(0.0, 1.0, "one"), (6.0, 7.0, "last 12:30 - 1:00 lunch")]
    assert [problem.partition(": ")[0] for problem in captions.problems] == [
        f"{tmp_path / 'show.vtt'}, line {number}" for number in (6, 11, 15)
    ]
    assert "expected lines of times such as" in captions.problems[0]
    assert "found 00:01.000 -> 00:02.000" in captions.problems[0]


@pytest.mark.parametrize(
    "line",
    ["00:00:01,0 -> 00:00:02,0", "00:00:01 --> 00:00:02", "0:01.5 - 0:02.5", "0:01.5 -- 0:02.5", "1:00 → 1:02"],
)
def test_lines_that_are_meant_as_times_are_told_from_words(tmp_path, line):
    captions = found(tmp_path, "show.srt", f"1\n00:00:00,000 --> 00:00:01,000\none\n\n2\n{line}\ntwo\n")
    assert rows(captions) == [(0.0, 1.0, "one")]
    assert len(captions.problems) == 1 and ", line 6: expected lines of times such as" in captions.problems[0]


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("show.ass", ASS + "Dialogue: 0,0:00:0x.00,0:00:05.00,Default,,0,0,0,,bad\n", 9),
        ("show.sub", "{1}{1}25\n{0}{25}one\n50}{75}bad\n{50}{75}two, three", 3),
    ],
)
def test_a_damaged_line_costs_its_caption_alone(tmp_path, name, content, line):
    pytest.importorskip("pysubs2")
    captions = found(tmp_path, name, content)
    assert [caption.text for caption in captions.captions] == ["one", "two, three"]
    assert captions.problems[0].startswith(f"{tmp_path / name}, line {line}: expected the times of a caption, found ")


def test_a_damaged_caption_in_json_is_named_by_its_number(tmp_path):
    segments = [
        {"start": 0, "end": 1, "text": "one"},
        {"start": None, "end": 2, "text": "two"},
        {"start": 3, "end": 2, "text": "three"},
        "four",
        {"start": 4, "end": 5, "text": None},
        {"start": -1, "end": 5, "text": "six"},
    ]
    captions = found(tmp_path, "show.json", {"segments": segments})
    assert rows(captions) == [(0.0, 1.0, "one")]
    assert [re.match(r"(.*), caption (\d):", problem)[2] for problem in captions.problems] == ["2", "3", "4", "5", "6"]
    assert "found None and 2" in captions.problems[0] and "found 3 s and 2 s" in captions.problems[1]


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("show.vtt", "WEBVTT\n", "expected subtitles with lines of times such as 00:01:02.345"),
        ("show.srt", b"1\n00:00:01,000 --> 00:00:02,000\ncaf\xe9\n", "Latin-1"),
        ("show.json", "{\n  1\n}", "no whole JSON (Expecting property name enclosed in double quotes: line 2 column 3"),
        ("show.json", "{}", "expected the columns start, end and text"),
        ("show.json3", "3", "expected the captions of a video, found 3"),
        ("show.json3", "{}", "expected the columns start, end and text"),
        ("show.sub", "{0}{25}one\n", "line 1: expected the frame rate of MicroDVD subtitles"),
        ("show.ttml", "<tt><bo", "expected ttml subtitles, found unclosed token: line 1, column 4"),
        ("show.ass", "[Script Info]\n", "expected ass subtitles, found no captions"),
    ],
)
def test_a_file_that_is_not_understood_is_named_in_one_line(tmp_path, name, content, part):
    pytest.importorskip("pysubs2")
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    captions = find_captions(video(tmp_path), "show")
    assert not captions
    (problem,) = captions.problems
    assert problem.startswith(str(tmp_path / name)) and part in problem and "\n" not in problem
