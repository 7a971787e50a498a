"""MiningYouTube: the released files, frame-wise files, and what bad ones get."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mcn_lightning.benchmarks.localization.annotations import Segment, check_length
from mcn_lightning.benchmarks.localization.class_list import (
    ENDINGS,
    SPELLINGS,
    ClassMatch,
    class_of,
    read_classes,
    read_lengths,
    without_background,
)
from mcn_lightning.benchmarks.localization.mining_youtube_files import read_mining_youtube
from mcn_lightning.errors import InputError

FRAME_RATE = 30000 / 1001


@pytest.fixture
def release(annotations) -> Path:
    return annotations / "mining_youtube"


@pytest.fixture
def classes(release) -> tuple[str, ...]:
    return read_classes(release / "mapping_without_meta.txt")


def names_in(release: Path) -> Counter[str]:
    """The annotated names, found in another way than the reader's: the lines that follow a line of times."""
    text = "\n".join(path.read_text(encoding="utf-8-sig") for path in (release / "annotations").iterdir())
    return Counter(re.findall(r"-->.*\n(\S*)", text))


def test_both_class_lists_hold_the_same_512_classes_and_the_background(release, classes):
    dictionary = read_classes(release / "alignment_example" / "weakYouTube_dict.txt")
    assert len(classes) == len(dictionary) == 513 and set(classes) == set(dictionary) and classes != dictionary
    assert classes[:3] == ("chop_it", "cut_it", "slice_it") and classes[-1] == dictionary[-1] == "background"


def test_every_one_of_the_5132_names_has_a_class(release, classes):
    names = names_in(release)
    rules: Counter[str] = Counter()
    for name, count in names.items():
        match = class_of(name, classes)
        assert match is not None and match.name in classes, name
        rules[match.rule] += count
    assert rules == {
        "as it stands": 3898,
        "ending": 897,
        "spelling": 179,
        "first two words": 139,
        "ending and first two words": 17,
        "ending and spelling": 1,
        "first two words and spelling": 1,
    }


def test_no_name_has_two_classes(release, classes):
    for name in names_in(release):
        if name in classes:
            continue
        words = [SPELLINGS.get(word, word) for word in name.split("_")[:2]]
        options = [
            {word, *(word[: -len(ending)] + instead for ending, instead in ENDINGS if word.endswith(ending))}
            for word in words
        ]
        found = {f"{verb}_{thing}" for verb in options[0] for thing in options[1]} & set(classes)
        assert found == {class_of(name, classes).name}


@pytest.mark.parametrize(
    ("name", "found", "rule"),
    [
        ("tilt_pan", "tilt_pan", "as it stands"),
        ("add_topp", "add_topp", "as it stands"),
        ("crack_eggs", "crack_egg", "ending"),
        ("add_blueberries", "add_blueberrie", "ending"),
        ("add_tomatoes", "add_tomato", "ending"),
        ("add_chilies", "add_chili", "ending"),
        ("press_it", "pres_it", "ending"),
        ("add_filling", "add_fill", "ending"),
        ("add_toppings", "add_topp", "ending"),
        ("using_spatula", "use_spatula", "ending"),
        ("scrambled_eggs", "scramble_egg", "ending"),
        ("mix_them", "mix_it", "spelling"),
        ("fold_omellete", "fold_omelette", "spelling"),
        ("toss_them", "tos_it", "ending and spelling"),
        ("add_sauce_soy", "add_sauce", "first two words"),
        ("add_garlic_ginger_mushroom", "add_garlic", "first two words"),
        ("pour_egg_whites", "pour_egg", "first two words"),
        ("add_leaf_loose", "add_leave", "first two words and spelling"),
        ("using_paper_towel", "use_paper", "ending and first two words"),
    ],
)
def test_how_names_are_found(classes, name, found, rule):
    assert class_of(name, classes) == ClassMatch(found, rule)


@pytest.mark.parametrize("name", ["paint_wall", "add", "add_", "", "eggs_crack", "crack", "s_s", "ing_ing"])
def test_what_is_no_class_is_not_found(classes, name):
    assert class_of(name, classes) is None


def test_all_250_videos(release, classes):
    found = read_mining_youtube(release / "annotations", release / "mapping_without_meta.txt")
    steps = found.tasks["mining_youtube"]
    assert len(steps) == 512 and steps[:2] == ("chop it", "cut it") and "background" not in steps
    assert len(found.videos) == 250 and found.left_out == {"annotations of length 0": 3}
    assert found.adjusted["annotations cut at the start of the next one"] == 3
    assert sum(count for what, count in found.adjusted.items() if what.startswith("class names")) == 5132 - 3898
    assert sum(len(video.segments) for video in found.videos) == 5132 - 3
    seen: Counter[str] = Counter()
    for video in found.videos:
        assert video.task == "mining_youtube" and video.truth is None
        ends = [0.0, *(segment.end for segment in video.segments)]
        assert all(end <= segment.start < segment.end for end, segment in zip(ends, video.segments, strict=False))
        seen.update(classes[segment.step] for segment in video.segments)
    expected = Counter()
    for name, count in names_in(release).items():
        expected[class_of(name, classes).name] += count
    assert sum((expected - seen).values()) == 3 and not seen - expected


def test_a_list_of_videos(release):
    mapping = release / "mapping_without_meta.txt"
    found = read_mining_youtube(release / "annotations", mapping, release / "videos_val.txt")
    assert [video.id for video in found.videos] == (release / "videos_val.txt").read_text().split()
    assert len(read_mining_youtube(release / "annotations", mapping, release / "videos_test.txt").videos) == 249


def test_the_frame_wise_example_agrees_with_the_times_at_29_97_frames_a_second(release, classes):
    mapping, example = release / "mapping_without_meta.txt", release / "alignment_example"
    (frame_wise,) = read_mining_youtube(example / "gt", mapping, frame_rate=FRAME_RATE).videos
    videos = read_mining_youtube(release / "annotations", mapping).videos
    timed = next(video for video in videos if video.id == frame_wise.id == "-1okAudsnAc")
    assert len(frame_wise.segments) == 5  # the example stops there
    for one, other in zip(frame_wise.segments, timed.segments, strict=False):
        assert one.step == other.step
        assert abs(one.end - other.end) * FRAME_RATE < 0.5  # frames are counted from 1: first ones are one earlier
        assert abs(one.start - other.start) * FRAME_RATE - 1 < 0.5
    assert frame_wise.segments[0].item == "lines 2256 to 2503"
    assert check_length(timed, 384)[1] == {}
    transcript = (example / "grammar" / "-1okAudsnAc.grammar").read_text().split()
    steps = without_background(classes)
    assert transcript[::2] == ["background"] * 5
    assert [steps.index(name) for name in transcript[1::2]] == [segment.step for segment in frame_wise.segments]
    lengths = read_lengths(example / "weakYouTube_length.txt", classes)
    assert lengths.shape == (513,) and (lengths == 150).all()


def srt(*items: tuple[str, str, str]) -> str:
    return "\n\n".join(f"{n}\n{start} --> {end}\n{name}" for n, (start, end, name) in enumerate(items, 1)) + "\n"


GOOD = srt(("00:00:01,000", "00:00:02,500", "cut_it"), ("01:02:03,004", "01:02:05,000", "crack_eggs"))


def write(folder: Path, srt: str | None = GOOD, gt: str | None = None, classes: str = "0 cut_it\n1 crack_egg") -> list:
    (folder / "annotations").mkdir()
    for suffix, text in ((".srt", srt), (".gt", gt)):
        if text is not None:
            (folder / "annotations" / f"abc{suffix}").write_text(text, encoding="utf-8")
    (folder / "classes.txt").write_text(classes)
    return [folder / "annotations", folder / "classes.txt"]


@pytest.mark.parametrize(
    "text", [GOOD, "\ufeff" + GOOD, GOOD.replace("\n", "\r\n"), "\n" + GOOD.replace(",", ".") + "\n\n"]
)
def test_times(tmp_path, text):
    (video,) = read_mining_youtube(*write(tmp_path, text)).videos
    assert video.segments == (Segment(0, 1.0, 2.5), Segment(1, 3723.004, 3725.0))
    assert [segment.item for segment in video.segments] == ["annotation 1", "annotation 2"] and video.id == "abc"


def test_small_overlaps_are_cut_and_length_0_is_left_out(tmp_path):
    items = [("00:00:01,000", "00:00:02,500", "cut_it"), ("00:00:02,000", "00:00:02,000", "cut_it")]
    files = write(tmp_path, srt(*items, ("00:00:02,100", "00:00:04,000", "cut_it")))
    found = read_mining_youtube(*files)
    assert found.videos[0].segments == (Segment(0, 1.0, 2.1), Segment(0, 2.1, 4.0))
    assert found.left_out == {"annotations of length 0": 1}
    assert found.adjusted == {"annotations cut at the start of the next one": 1}
    with pytest.raises(InputError, match=r"annotation 3: expected a start no more than 0.2 s before .*, found 2.100"):
        read_mining_youtube(*files, overlap=0.2)


def test_an_annotation_that_ends_before_it_starts_is_left_out_and_counted(tmp_path):
    back = ("00:00:09,000", "00:00:02,000", "cut_it")
    files = write(tmp_path, srt(("00:00:01,000", "00:00:02,500", "cut_it"), back, LATE))
    found = read_mining_youtube(*files)
    assert found.videos[0].segments == (Segment(0, 1.0, 2.5), Segment(0, 3.0, 6.0))
    assert found.left_out == {"annotations that end before they start": 1} and found.adjusted == {}
    (files[0] / "abc.srt").write_text(srt(back))
    assert read_mining_youtube(*files).left_out["videos of which no annotation is left"] == 1


def test_an_unknown_class_is_left_out_where_that_is_asked_for(tmp_path):
    files = write(tmp_path, GOOD.replace("cut_it", "paint_wall"))
    found = read_mining_youtube(*files, unknown="leave_out")
    assert found.videos[0].segments == (Segment(1, 3723.004, 3725.0),)
    assert found.left_out == {"annotations of an unknown class": 1}
    files[1].write_text("fly")
    found = read_mining_youtube(*files, unknown="leave_out")
    assert found.videos == ()
    assert found.left_out == {"annotations of an unknown class": 2, "videos of which no annotation is left": 1}


@pytest.mark.parametrize(
    "listed", ["cut_it\ncrack_egg\nbackground \n", "background\ncut_it\n\ncrack_egg", "1 crack_egg\n0 cut_it"]
)
def test_the_background_is_no_step_wherever_it_is_listed(tmp_path, listed):
    text = "background\nbackground\ncut_it\ncut_it\ncrack_egg\nbackground\ncut_it\n\n"
    files = write(tmp_path, None, text, listed)
    found = read_mining_youtube(*files, frame_rate=2)
    assert found.tasks == {"mining_youtube": ("cut it", "crack egg")}
    assert found.videos[0].segments == (Segment(0, 1, 2), Segment(1, 2, 2.5), Segment(0, 3, 3.5))
    assert found.truth_matrix(found.videos[0], 4).astype(int).tolist() == [[0, 0], [1, 0], [0, 1], [1, 0]]
    names = read_classes(files[1])
    (tmp_path / "lengths.txt").write_text("\n".join("2.5" if name == "background" else "40" for name in names))
    lengths = read_lengths(tmp_path / "lengths.txt", names)
    assert lengths.dtype == np.float64 and lengths.tolist() == [40, 40, 2.5][: len(names)]


FIRST = ("00:00:01,000", "00:00:04,500", "cut_it")
LATE = ("00:00:03,000", "00:00:06,000", "cut_it")
EARLY = ("00:00:00,000", "00:00:00,500", "cut_it")
UNKNOWN = ("00:00:05,000", "00:00:06,000", "dye_it")
BLOCK = "expected a number, a line of times and a class, and a blank line after them"
TIMES = "abc.srt: annotation 1: expected times as 00:01:02,345 --> 00:01:06,789"
ONCE = "classes.txt: line 2: expected each class once, numbered from 0 to 1"
EITHER = "annotations: expected annotations <id>.srt or <id>.gt"
LEAVE = "correct it, or leave such annotations out (unknown: leave_out)"
BAD = {
    "unknown": ({"srt": srt(FIRST, UNKNOWN)}, "abc.srt: annotation 2: expected a class of ", f"'dye_it': {LEAVE}"),
    "overlap": (
        {"srt": srt(FIRST, LATE)},
        "abc.srt: annotation 2: expected a start no more than 1 s before the end of annotation 1, 4.500 s",
        "found 3.000 to 6.000 s: correct the times",
    ),
    "order": ({"srt": srt(FIRST, EARLY)}, "abc.srt: annotation 2: expected a start no", "found 0.000 to 0.500 s"),
    "same start": ({"srt": srt(FIRST, FIRST)}, "abc.srt: annotation 2: expected a start no", "found 1.000 to 4.500 s"),
    "no times": ({"srt": "1\nsoon\ncut_it"}, TIMES, "found 'soon'"),
    "70 seconds": ({"srt": srt(("00:00:70,000", "00:01:20,000", "cut_it"))}, TIMES, "found '00:00:70,000 --> "),
    "a minus": ({"srt": srt(("-00:00:10,000", "00:01:20,000", "cut_it"))}, TIMES, "found '-00:00:10,000 --> "),
    "two lines": ({"srt": GOOD + "\n3\n00:00:01,000 -->"}, f"abc.srt: line 9: {BLOCK}", "found '3 / 00:00:01,000 -->'"),
    "no number": ({"srt": "one\n" + GOOD[2:]}, f"abc.srt: line 1: {BLOCK}", "found 'one / 00:00:01,000 -->"),
    "nothing": ({"srt": "\n"}, "abc.srt: expected at least one annotation", "found none"),
    "neither": ({"srt": None}, EITHER, "found neither"),
    "both": ({"gt": "cut_it"}, EITHER, "found both: keep one kind"),
    "a blank line": (
        {"srt": None, "gt": "cut_it\n\ncut_it"},
        "abc.gt: expected one class for each frame",
        "found a blank line 2",
    ),
    "no line": ({"srt": None, "gt": "\n"}, "abc.gt: expected one class for each frame", "found no line"),
    "unknown in frames": (
        {"srt": None, "gt": "cut_it\ndye_it"},
        "abc.gt: lines 2 to 2: expected a class of ",
        f"found 'dye_it': {LEAVE}",
    ),
    "no classes": ({"classes": "\n"}, "classes.txt: expected one class a line", "found none"),
    "a class twice": (
        {"classes": "cut_it\nfly\ncut_it"},
        "classes.txt: line 3: expected each class once",
        "found 'cut_it'",
    ),
    "a number twice": ({"classes": "0 cut_it\n0 fly"}, ONCE, "found '0 fly'"),
    "a gap": ({"classes": "0 cut_it\n2 fly"}, ONCE, "found '2 fly'"),
    "two forms": (
        {"classes": "0 cut_it\nfly"},
        "classes.txt: line 2: expected a number and a class, as in line 1",
        "found 'fly'",
    ),
    "words": ({"classes": "cut it\nfly high"}, "classes.txt: line 1: expected a number and a class", "found 'cut it'"),
    "three words": (
        {"classes": "fly\ncut it up"},
        "classes.txt: line 2: expected one class, as in line 1",
        "found 'cut it up'",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_refused_in_one_line(tmp_path, kind):
    files, expected, found = BAD[kind]
    with pytest.raises(InputError) as caught:
        read_mining_youtube(*write(tmp_path, **files), frame_rate=25)
    message = str(caught.value)
    assert message.startswith(str(tmp_path)) and "\n" not in message
    assert expected in message and found in message.partition("expected")[2]


def test_files_that_are_missing_or_do_not_fit_are_refused(tmp_path):
    annotations, classes = write(tmp_path, None, "cut_it")
    for rate in (None, 0, -1, float("nan")):
        with pytest.raises(InputError, match=rf"annotations: expected a frame rate for its .gt files, found {rate}:"):
            read_mining_youtube(annotations, classes, frame_rate=rate)
    with pytest.raises(InputError, match=r"absent: expected a folder of annotations <id>.srt or <id>.gt, found none"):
        read_mining_youtube(tmp_path / "absent", classes)
    with pytest.raises(InputError, match=r"absent.txt: expected a list of classes, found no file"):
        read_mining_youtube(annotations, tmp_path / "absent.txt")
    videos = tmp_path / "videos.txt"
    for text, part in [
        ("abc\nxyz", r"line 2: expected a video with an annotation in .*annotations, found xyz: remove the line"),
        ("abc\n\nabc", r"line 3: expected each video once, found abc in line 1 too: remove the line"),
        ("\n", r"expected one video id a line, found none"),
    ]:
        videos.write_text(text)
        with pytest.raises(InputError, match=rf"videos.txt: {part}"):
            read_mining_youtube(annotations, classes, videos, frame_rate=25)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (None, r"expected one mean length a class, found no file"),
        ("5\n6\n7", r"expected 2 lengths, one a class, found 3"),
        ("5\nlong", r"line 2: expected the mean length of background in frames, found 'long'"),
        ("\n0\n5", r"line 2: expected the mean length of cut_it in frames, found '0'"),
        ("5\n-1", r"line 2: expected the mean length of background in frames, found '-1'"),
        ("5\ninf", r"line 2: expected the mean length of background in frames, found 'inf'"),
        ("5\nnan", r"line 2: expected the mean length of background in frames, found 'nan'"),
    ],
)
def test_bad_lengths(tmp_path, text, part):
    if text is not None:
        (tmp_path / "lengths.txt").write_text(text)
    with pytest.raises(InputError, match=rf"lengths.txt: {part}"):
        read_lengths(tmp_path / "lengths.txt", ["cut_it", "background"])
