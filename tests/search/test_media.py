"""Queries by sound, picture and video files, over films that ``lightning extract`` read."""

from __future__ import annotations

import json
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from launch import refusal, run

pytest.importorskip("av", reason="the extra `extract` is not installed")

from extract.making import write_captions, write_video

import mcn_lightning as mcn
from mcn_lightning.extract.job import extract
from mcn_lightning.extract.options import EncodedStream, ExtractConfig

STREAMS = (EncodedStream("colour", "extract.making.Colours", 2.0),)


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """Six films of 6 seconds, the last without sound, extracted and trained on for a few steps."""
    folder = tmp_path_factory.mktemp("films")
    for number in range(6):
        path = folder / "videos" / f"film_{number}.mp4"
        path.parent.mkdir(exist_ok=True)
        write_video(path, 6.0, seed=number, sound=number != 5)
        write_captions(path.with_suffix(".srt"), (0.0, 2.0, f"one word{number}"), (2.5, 4.5, f"two word{number}"))
    words = sorted({"one", "two", *(f"word{number}" for number in range(6))})
    numbers = np.random.default_rng(0).standard_normal((len(words), 8))
    lines = [f"{word} {' '.join(f'{value:.4f}' for value in row)}" for word, row in zip(words, numbers, strict=True)]
    (folder / "words.txt").write_text(f"{len(words)} 8\n" + "\n".join(lines) + "\n")
    extract(ExtractConfig(str(folder / "videos"), str(folder / "data"), streams=STREAMS, workers=2, val_share=0.0,
                          test_share=0.0, text=str(folder / "words.txt")))  # fmt: skip
    options = yaml.safe_load((folder / "data" / "data.yaml").read_text())
    options["data"] |= {"audio": {"num_frames": 96}, "batch_size": 3, "clips": {"n_pair": 2, "min_time": 1.0}}
    options["model"]["network"] |= {"embedding_dim": 16, "audio_widths": [4, 4, 4, 8], "dropout": 0.0}
    options["model"]["clustering"] = {"num_clusters": 2, "queue_rows": 8}
    options["trainer"] |= {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}
    options["trainer"]["logger"]["init_args"]["save_dir"] = str(folder / "runs")
    (folder / "run.yaml").write_text(yaml.safe_dump(options))
    run("fit", "--config", folder / "run.yaml")
    run("index", "--ckpt_path", folder / "runs" / "data" / "version_0", "--config", folder / "run.yaml", "--output",
        folder / "index", "--clips", "both", "--window", 2)  # fmt: skip
    return folder


@pytest.fixture
def index(films) -> mcn.Index:
    """The index of the films."""
    return mcn.Index.open(films / "index")


def test_a_file_has_the_embeddings_of_its_clips(films, index):
    film = films / "videos" / "film_2.mp4"
    clip = next(clip for clip in index.clips.take(range(len(index))) if clip["id"] == "film_2:1")
    assert (clip["start"], clip["end"], clip["media"]) == (2.5, 4.5, str(film))
    for model in (index.model, mcn.load(films / "runs" / "data" / "version_0")):
        found = model.embed_video(film, 2.5, 4.5)
        torch.testing.assert_close(found, index.embedding("film_2:1", "v"), rtol=2e-3, atol=1e-3)
        # a clip has 96 frames of its sound at most; the whole sound is read, as its maximum is 0 dB
        found = model.embed_audio(film, start=2.5, end=3.46)
        torch.testing.assert_close(found, index.embedding("film_2:1", "a"), rtol=2e-2, atol=1e-2)


def test_the_command_finds_what_a_part_of_a_film_is_like(films, index, capsys):
    film = films / "videos" / "film_3.mp4"
    for option, modality in (("video", "v"), ("audio", "a")):
        words = (f"--{option}", film, "--modality", modality, "--start", 0, "--end", 2, "--k", 30, "--format", "json")
        run("search", films / "index", *words)
        found = {each["id"]: each["score"] for each in json.loads(capsys.readouterr().out)}
        rows = index.vectors.rows([option], [index.clips.row_of(name) for name in found])
        # its own clip is as near as any can be: embeddings have length 1
        assert found["film_3:0"] == pytest.approx(1.0, abs=2e-2 if option == "audio" else 2e-3)
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(found)), rtol=1e-3, atol=1e-3)
    run("search", films / "index", "one", "--video", film, "--k", 2)
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_picture_and_a_sound_file_are_queries(films, index, tmp_path):
    from PIL import Image

    Image.fromarray(np.full((64, 64, 3), 200, np.uint8)).save(tmp_path / "grey.png")
    found = index.model.embed_video(tmp_path / "grey.png")
    rows = torch.full((1, 48), 200 / 255).half()
    torch.testing.assert_close(found, index.model.embed_video(rows), rtol=1e-2, atol=1e-2)
    samples = (8_000 * np.sin(np.arange(16_000) * 0.2)).astype(np.int16)
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples.tobytes())
    tone = index.model.embed_audio(tmp_path / "tone.wav")
    torch.testing.assert_close(tone, index.model.embed_audio(samples / 32_768, 16_000), rtol=1e-3, atol=1e-3)
    twice = np.repeat(samples[None], 2, axis=0)
    torch.testing.assert_close(index.model.embed_audio(twice, 16_000), tone, rtol=1e-3, atol=1e-3)


def test_files_that_are_none_are_one_line(films, capsys, tmp_path):
    (tmp_path / "noise.wav").write_bytes(b"RIFF no sound at all")
    silent = films / "videos" / "film_5.mp4"
    for words, said in (
        (("--audio", tmp_path / "noise.wav"), "noise.wav: expected sound"),
        (("--audio", silent), "film_5.mp4: expected sound, found none that can be read"),
        (("--video", tmp_path / "noise.wav"), "noise.wav: expected"),
        (("--video", tmp_path / "nowhere.mp4"), "nowhere.mp4: expected a file, found none"),
        (("--video", silent, "--start", 50), "expected a start before an end within its 6.0 s, found 50 to the end"),
        (
            ("--video", silent, "--start", 3, "--end", 2),
            "expected a start before an end within its 6.0 s, found 3 to 2",
        ),
    ):
        said_of = refusal(capsys, "search", films / "index", *words)
        assert said in said_of and "Traceback" not in said_of


def test_media_that_have_moved_are_found_below_a_folder(films, tmp_path):
    clip = "film_1:0"
    assert mcn.Index.open(films / "index").media(clip) == films / "videos" / "film_1.mp4"
    moved = shutil.copytree(films / "videos", tmp_path / "elsewhere" / "videos")
    index = mcn.Index.open(films / "index", media_root=tmp_path / "elsewhere")
    assert index.media(clip) == moved / "film_1.mp4"
    assert index.search(like=clip, k=1)["media"][0].startswith(str(moved))
    with pytest.raises(mcn.InputError, match="nothing: expected the folder of the videos, found none"):
        mcn.Index.open(films / "index", media_root=tmp_path / "nothing")
    (tmp_path / "nothing").mkdir()
    lost = mcn.Index.open(films / "index", media_root=tmp_path / "nothing")
    with pytest.raises(
        mcn.InputError, match="expected the video of film_1:0, found no file; give its folder with --media"
    ):
        lost.media(clip)
