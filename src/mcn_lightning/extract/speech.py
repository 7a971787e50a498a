"""Speech recognition, for videos without captions: Whisper by faster-whisper, with the times of words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mcn_lightning.errors import InputError, first_line
from mcn_lightning.extract.captions import CaptionCleaning, VideoCaptions
from mcn_lightning.extract.captions.rows import cleaned_captions
from mcn_lightning.extract.captions.transcripts import rows_of_segments
from mcn_lightning.extract.decode import decode_video
from mcn_lightning.extract.writing import placing
from mcn_lightning.files import read_json
from mcn_lightning.options.config import Options
from mcn_lightning.options.ranges import PositiveInt

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

SUFFIX = "_speech.json"
"""Of the file with what was recognised, after the id of the video."""
SAMPLE_RATE = 16_000
"""Of Whisper, in Hz."""
BLOCK = 300.0
"""Seconds of sound that are recognised at once. faster-whisper needs 0.8 MB for each, so long videos are cut."""
SEARCHED = 30.0
"""Seconds at the end of a block in which the quietest place is cut."""

Transcript = dict[str, Any]
"""``language``, ``segments`` as Whisper writes them, and the ``options`` that they were recognised with."""


@dataclass(frozen=True)
class SpeechConfig(Options, option="--speech"):
    """How speech is recognised.

    Args:
        model: name of a Whisper model of faster-whisper (``tiny.en`` to ``large-v3``, ``turbo``), a repository of the
            Hugging Face Hub, or a folder with one in CTranslate2's format.
        language: code of the spoken language, as in ``en``; ``None`` recognises it for each video.
        words: find the times of words, too.
        vad_filter: leave out what has no voice, before recognition. Whisper invents words in silence and music.
        beam_size: hypotheses that are followed.
        device: where the model runs.
        compute_type: number format of CTranslate2, such as ``int8`` or ``float16``; ``default`` is the model's own.
    """

    model: str = "small"
    language: str | None = "en"
    words: bool = True
    vad_filter: bool = True
    beam_size: PositiveInt = 5
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compute_type: str = "default"

    def recorded(self) -> dict[str, object]:
        """Return the options on which the result depends. They are kept with it."""
        return {name: value for name, value in vars(self).items() if name != "device"}


class SpeechRecognizer:
    """Recognises speech. The model is loaded when it is first needed.

    Args:
        config: model and options.
        gpu: number of the GPU, if it runs on one.
    """

    def __init__(self, config: SpeechConfig, gpu: int = 0) -> None:
        self.config, self.gpu = config, gpu

    def load(self) -> None:
        """Load the model now, so that what is missing is named before long work.

        Raises:
            InputError: see ``model``.
        """
        _ = self.model

    @cached_property
    def model(self) -> WhisperModel:
        """The model.

        Raises:
            InputError: if faster-whisper is not installed, the model is not at hand or cannot run, or it does not know
                the language.
        """
        from mcn_lightning.extract.encoders.weights import import_package

        faster_whisper = import_package("faster_whisper", "speech recognition", "asr")
        config, option = self.config, self.config.option
        folder = self._folder()
        try:
            model = faster_whisper.WhisperModel(
                folder, device=config.device, device_index=self.gpu, compute_type=config.compute_type
            )
        except (RuntimeError, ValueError) as error:
            wanted = f"a CTranslate2 model for {config.device} with compute type {config.compute_type}"
            raise InputError(f"{option}: expected {wanted}, found {config.model} ({first_line(error)})") from None
        if config.language is not None and config.language not in model.supported_languages:
            wanted = f"a language of the model {config.model} ({', '.join(model.supported_languages)})"
            raise InputError(f"{option}.language: expected {wanted}, found {config.language}")
        return model

    def _folder(self) -> str:
        """Return the folder of the model. It is downloaded if it is not in the cache."""
        from faster_whisper import available_models, download_model

        name, option = self.config.model, f"{self.config.option}.model"
        if Path(name).is_dir():
            return name
        if "/" not in name and name not in available_models():
            raise InputError(f"{option}: expected a folder, or one of {', '.join(available_models())}, found {name}")
        from mcn_lightning.extract.encoders.weights import without_logs

        try:
            with without_logs():
                return str(download_model(name))
        except (OSError, ValueError) as error:
            wanted, found = "a model on this machine or a network to fetch it", f"neither ({first_line(error)})"
            advice = f"fetch it elsewhere: faster_whisper.download_model('{name}')"
            raise InputError(f"{option} {name}: expected {wanted}, found {found}; {advice}") from None

    def captions(self, video: Path, stored: Path, cleaning: CaptionCleaning | None = None) -> VideoCaptions:
        """Return what is spoken in a video, as captions.

        Args:
            video: the file. Without sound it has no captions.
            stored: where what was recognised is kept. It is used again if it is there, with the same options.
            cleaning: what is taken out.

        Raises:
            InputError: if the video or the kept file cannot be read, or the model is not at hand.
        """
        if (transcript := self._stored(stored)) is None:
            transcript = self.recognize(video)
            with placing(stored) as partial:
                partial.write_text(json.dumps(transcript, ensure_ascii=False) + "\n", encoding="utf-8")
        return cleaned_captions(rows_of_segments(transcript["segments"]), stored, cleaning or CaptionCleaning())

    def _stored(self, path: Path) -> Transcript | None:
        """Return what was recognised before, with the same options."""
        if not path.exists():
            return None
        found = read_json(path, "recognised speech")
        if not isinstance(found, Mapping) or not isinstance(found.get("segments"), list):
            raise InputError(f"{path}: expected recognised speech with segments, found none; delete the file")
        # with other options it is recognised again
        return dict(found) if found.get("options") == self.config.recorded() else None

    def recognize(self, video: Path) -> Transcript:
        """Return what is spoken in a video, with times from the start of its container.

        Raises:
            InputError: if the video cannot be read, or the model is not at hand or cannot run.
        """
        sink = SpeechSink(self)
        try:
            decode_video(video, [], sink)
            return sink.close()
        except RuntimeError as error:  # CUDA's libraries are first missed here
            where = f"{self.config.model} to run on {self.config.device}"
            raise InputError(f"{video}: expected {where}, found {first_line(error)}; try --speech.device cpu") from None


class SpeechSink:
    """Takes the sound of one video in pieces, and recognises it in blocks that end where it is quiet.

    Args:
        recognizer: with the model.
    """

    sample_rate = SAMPLE_RATE

    def __init__(self, recognizer: SpeechRecognizer) -> None:
        self.recognizer = recognizer
        self._language = recognizer.config.language
        self._segments: list[dict[str, object]] = []
        self._waiting: list[np.ndarray] = []
        self._count = 0  # samples that wait
        self._done = 0  # samples that were recognised

    def take(self, samples: np.ndarray) -> None:
        """Take the next samples ``(n,)`` float32."""
        self._waiting.append(samples)
        self._count += len(samples)
        while self._count >= round(BLOCK * SAMPLE_RATE):
            self._recognize(quietest(np.concatenate(self._waiting)[: round(BLOCK * SAMPLE_RATE)]))

    def close(self) -> Transcript:
        """Recognise the rest, and return all that was spoken. Takes no more sound."""
        if self._count:
            self._recognize(self._count)
        return {
            "language": self._language,
            "options": self.recognizer.config.recorded(),
            "segments": self._segments,
        }

    def _recognize(self, count: int) -> None:
        """Recognise the first samples of those that wait."""
        import ctranslate2

        sound, config = np.concatenate(self._waiting), self.recognizer.config
        self._waiting, self._count = [sound[count:]], len(sound) - count
        # hypotheses are sampled where the best one is doubtful: the same sound shall give the same words
        ctranslate2.set_random_seed(0)
        segments, info = self.recognizer.model.transcribe(
            sound[:count],
            language=self._language,
            beam_size=config.beam_size,
            word_timestamps=config.words,
            vad_filter=config.vad_filter,
        )
        found = [_segment(segment, self._done / SAMPLE_RATE) for segment in segments]
        if found:  # a block of silence tells no language
            self._language = info.language
        self._segments += found
        self._done += count


def quietest(sound: np.ndarray) -> int:
    """Return the sample in the middle of the quietest half second of the last 30 s of a sound ``(n,)``."""
    step = SAMPLE_RATE // 10
    steps = min(round(SEARCHED * 10), len(sound) // step)
    power = np.square(sound[len(sound) - steps * step :].reshape(steps, step)).mean(axis=1)
    # five tenths of a second: a shorter pause may lie within a word
    first = int(np.convolve(power, np.ones(5), mode="valid").argmin())
    return len(sound) - steps * step + round((first + 2.5) * step)


def _segment(segment: Any, begin: float) -> dict[str, object]:
    """Return a segment as Whisper writes it to JSON, ``begin`` seconds later."""
    found = {"start": _shifted(segment.start, begin), "end": _shifted(segment.end, begin), "text": segment.text}
    if segment.words is None:
        return found
    words = [
        {
            "word": word.word,
            "start": _shifted(word.start, begin),
            "end": _shifted(word.end, begin),
            "probability": round(float(word.probability), 3),
        }
        for word in segment.words
    ]
    return {**found, "words": words}


def _shifted(time: float, begin: float) -> float:
    return round(float(time) + begin, 3)
