"""A trained model with what it takes to embed new sentences, sounds and videos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import ModelHubMixin
from torch import Tensor, nn

from mcn_lightning.batch import ClipBatch
from mcn_lightning.benchmarks.files import EvaluationText
from mcn_lightning.data.files.pooling import max_rows
from mcn_lightning.data.files.spectrograms import FRAME_RATE
from mcn_lightning.data.files.word_vectors import first_words
from mcn_lightning.data.text import TextSource, WordVectorText, split_words
from mcn_lightning.data.videos import join_streams, new_tensor, read_sound
from mcn_lightning.errors import InputError
from mcn_lightning.files import replacing
from mcn_lightning.inference.card import CardFacts, model_card
from mcn_lightning.inference.inputs import Inputs
from mcn_lightning.inference.media import MediaEncoders, read_media, spectrogram_of
from mcn_lightning.inference.words import StoredWords
from mcn_lightning.module import MCNModule

Features = np.ndarray | Tensor


class Model(MCNModule, ModelHubMixin):
    """A trained module that embeds new sentences, sounds and videos. ``load`` makes one.

    Its ``inputs`` say how sentences, sounds and pictures become features. They come from the run of the checkpoint, or
    from an index. Without them only `embed_sentences` works. Set them with ``model.inputs = mcn.Inputs(...)``.

    ``save_pretrained``, ``push_to_hub`` and ``from_pretrained`` are those of the Hugging Face hub. They write and read
    the files of ``lightning export``, which adds results and licence to the model card.
    """

    inputs: Inputs | None = None
    _encoders: MediaEncoders | None = None
    _place: str | None = None  # on the hub, while it is uploaded
    _text: tuple[TextSource, nn.Module] | None = None  # where every word is known beforehand

    def embed_text(self, texts: str | Sequence[str]) -> Tensor:
        """Embed N sentences.

        Args:
            texts: the sentences, or one.

        Returns:
            ``(N, D)`` float32 on the device of the model.

        Raises:
            InputError: if there is no sentence, a sentence is empty or has no known word (the message names its words),
                or the model has no text embedding.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        self._needs("text")
        if not texts or not all(sentence.strip() for sentence in texts):
            raise InputError(f"expected a sentence, found {'an empty one' if texts else 'none'}; write one")
        source, embedder = self._text_source(texts)
        rows = [source.indices(sentence) for sentence in texts]
        for sentence, row in zip(texts, rows, strict=True):
            if not row.any():
                words = ", ".join(split_words(sentence)) or sentence
                raise InputError(f"expected a sentence with a known word, found none known of: {words}; reword it")
        words = embedder(torch.from_numpy(np.stack(rows)).to(self.device))
        return self._embed(ClipBatch(ids=tuple(map(str, range(len(rows)))), words=words), "text")

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of a text that the model does not know; none for a sentence encoder.

        Raises:
            InputError: if the model has no text embedding.
        """
        self._needs("text")
        words = list(dict.fromkeys(split_words(text)))
        source = self._text_source([text])[0]
        if not isinstance(source, WordVectorText):
            return []
        lower = source.config.lowercase
        return [word for word in words if (word.lower() if lower else word) not in source.vocabulary]

    def embed_audio(
        self, sound: str | Path | Features, rate: float | None = None, start: float = 0.0, end: float | None = None
    ) -> Tensor:
        """Embed one sound. A sound longer than the clips of training is cut, and the embeddings are averaged.

        Args:
            sound: path of a sound or video file, or samples ``(n,)`` or ``(channels, n)``.
            rate: samples a second, for samples.
            start: first second that counts.
            end: last second that counts; the end of the sound if left out.

        Returns:
            ``(D,)`` float32 on the device of the model.

        Raises:
            InputError: if the file has no sound, the span is empty, or the model has no audio embedding.
        """
        inputs = self._needs("audio")
        if isinstance(sound, str | Path):
            found = read_media(Path(sound), None, inputs.audio.bands).spectrogram
            if found is None:
                raise InputError(f"{sound}: expected sound, found a file without any")
            name = str(sound)
        else:
            if rate is None or rate <= 0:
                raise InputError(f"rate: expected the samples a second of the sound, found {rate}; give it")
            found, name = spectrogram_of(sound, rate, inputs.audio.bands), "the sound"
        return self._of_spectrogram(found, _span(name, start, end, found.shape[1] / FRAME_RATE))

    def embed_video(
        self, video: str | Path | Features | Sequence[Features], start: float = 0.0, end: float | None = None
    ) -> Tensor:
        """Embed the picture of one video, or a still picture.

        Args:
            video: path of a video or picture file; or the rows ``(rows, width)`` of each visual stream.
            start: first second that counts.
            end: last second that counts; the end of the video if left out.

        Returns:
            ``(D,)`` float32 on the device of the model.

        Raises:
            InputError: if the file cannot be read, the features do not fit, the span is empty, or the model has no
                video embedding.
        """
        inputs = self._needs("video")
        if isinstance(video, str | Path):
            media = read_media(Path(video), self.encoders(), None, (start, end))
            _span(str(video), start, end, media.seconds)
            if not all(len(rows) for rows in media.rows):
                raise InputError(f"{video}: expected pictures within the span, found none; check start and end")
            return self._of_rows([rows.amax(dim=0, keepdim=True) for rows in media.rows])
        given = [video] if isinstance(video, np.ndarray | Tensor) else list(video)
        rows = [torch.as_tensor(each) for each in given]
        found = [tuple(each.shape) for each in rows]
        if [shape[1:] for shape in found] != [(stream.width,) for stream in inputs.streams]:
            wanted = ", ".join(f"(rows, {stream.width})" for stream in inputs.streams)
            raise InputError(f"features: expected {wanted}, found {', '.join(map(str, found)) or 'none'}")
        seconds = max(len(each) / stream.rate for each, stream in zip(rows, inputs.streams, strict=True))
        span = _span("features", start, end, seconds)
        return self._of_rows(
            [max_rows(each, [span], stream.rate) for each, stream in zip(rows, inputs.streams, strict=True)]
        )

    def encoders(self) -> MediaEncoders:
        """Return the encoders of the visual streams, loaded at the first call.

        Raises:
            InputError: if the features were not made by ``lightning extract``.
        """
        inputs = self._needs("video")
        if not inputs.encoders:
            found = "others; give the features in place of the file, or --like a clip"
            raise InputError(f"video: expected features that lightning extract made, found {found}")
        if self._encoders is None:
            self._encoders = MediaEncoders(inputs.encoders, self.device)
        return self._encoders

    def _save_pretrained(self, save_directory: Path) -> None:
        from mcn_lightning.inference.shared import CARD, write_shared  # which makes models

        write_shared(save_directory, self)
        if not (card := save_directory / CARD).exists():
            facts = CardFacts(save_directory.name, self._place or f"FOLDER/{save_directory.name}")
            with replacing(card) as partial:
                partial.write_text(model_card(self, facts), encoding="utf-8")

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the model, with a new model card; see ``huggingface_hub.ModelHubMixin``.

        Args:
            repo_id: such as ``user/name``.
            **options: of the mixin: private, token, branch, commit_message and others.
        """
        self._place = repo_id
        try:
            return super().push_to_hub(repo_id, **options)
        finally:
            self._place = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Model:
        """Load what ``save_pretrained``, ``push_to_hub`` or ``lightning export`` wrote.

        Args:
            pretrained_model_name_or_path: the folder, or the name on the hub.
            **options: of ``huggingface_hub.snapshot_download``: revision, token, cache_dir and others.

        Raises:
            InputError: if there is no such model, or a file is missing or damaged.
        """
        from mcn_lightning.inference.hub import fetch
        from mcn_lightning.inference.shared import read_shared

        folder = Path(pretrained_model_name_or_path)
        return read_shared(folder if folder.is_dir() else fetch(str(pretrained_model_name_or_path), **options))

    def _needs(self, modality: str) -> Inputs:
        """Return the inputs.

        Raises:
            InputError: if there are none, or the network has no embedding of the modality.
        """
        names = self.network_config.embeddings
        if modality not in names:
            raise InputError(f"expected a model with an embedding of {modality}, found {', '.join(names)}")
        if self.inputs is None:
            raise InputError("expected config.yaml of the model's run, found none; load its folder or set model.inputs")
        return self.inputs

    def _text_source(self, texts: Sequence[str]) -> tuple[TextSource, nn.Module]:
        """Return what turns texts into indices, and indices into vectors."""
        inputs = self._needs("text")
        if self._text is not None:
            return self._text
        if inputs.words is not None:
            source: TextSource = StoredWords(inputs.text, inputs.words)
        else:
            path = Path(inputs.text.source)
            # with some known words: a sentence without any is refused here, by the words that it has
            known = first_words(path, 50) if inputs.text.kind == "word_vectors" and path.is_file() else []
            source = EvaluationText(inputs.text, path, [*texts, *known]).source
        found = source, source.embedder().to(self.device)
        # of a file of word vectors only the words of these texts were read
        if inputs.words is not None or inputs.text.kind != "word_vectors":
            self._text = found
        return found

    def _of_rows(self, rows: Sequence[Tensor]) -> Tensor:
        """Embed the maxima of one clip, ``(1, width)`` for each stream."""
        joined = join_streams(rows, new_tensor)
        widths = tuple(each.shape[1] for each in rows)
        return self._embed(ClipBatch(ids=("query",), video=joined, video_widths=widths), "video")[0]

    def _of_spectrogram(self, found: Tensor, span: tuple[float, float]) -> Tensor:
        """Embed a span of a spectrogram ``(bands, T)``, window by window."""
        config, (start, end) = self._needs("audio").audio, span
        length = config.num_frames / FRAME_RATE
        # windows as long as the clips of training; a rest below half a window is left out
        count = max(round((end - start) / length), 1)
        spans = [(start + k * length, min(start + (k + 1) * length, end)) for k in range(count)]
        sound = read_sound(found.T, spans, config, new_tensor)
        batch = ClipBatch(
            ids=tuple(map(str, range(count))), frames=sound.frames, frame_start=sound.start, audio_frames=sound.length,
            num_frames=config.num_frames, pad_value=config.pad_value,
        )  # fmt: skip
        return self._embed(batch, "audio").mean(dim=0)

    def _embed(self, batch: ClipBatch, name: str) -> Tensor:
        """Return an embedding ``(B, D)`` in evaluation mode."""
        training = self.training  # dropout would change the embeddings
        try:
            self.eval()
            with torch.no_grad():
                return self(batch.to(self.device)).embeddings()[name].float()
        finally:
            self.train(training)


def _span(name: str, start: float, end: float | None, seconds: float) -> tuple[float, float]:
    """Return start and end.

    Raises:
        InputError: if there is nothing between them.
    """
    last = seconds if end is None else min(end, seconds)
    if not 0 <= start < last:
        found = f"{start:g} to {'the end' if end is None else f'{end:g}'}"
        raise InputError(f"{name}: expected a start before an end within its {seconds:.1f} s, found {found}")
    return start, last
