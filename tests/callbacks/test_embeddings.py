"""What ``predict`` writes: tensors, what each row is, and which checkpoint made them, in a place that stays."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from launch import write_video_text
from processes import python
from safetensors.torch import load_file

from mcn_lightning.commands.fit import main


def write_config(folder: Path, root: Path, **data: Any) -> Path:
    return write_video_text(folder, root, data=data)


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory) -> tuple[Path, Path]:
    """Return the options of a run of two epochs, and its last checkpoint."""
    folder = tmp_path_factory.mktemp("trained")
    config = write_config(folder, tiny)
    main(["fit", "--config", str(config)])
    return config, folder / "run" / "version_0" / "checkpoints" / "last.ckpt"


@pytest.fixture
def words(trained) -> list[str]:
    config, checkpoint = trained
    return ["predict", "--config", str(config), "--ckpt_path", str(checkpoint)]


def predict(
    words: list[str], *more: object, name: str = "", folder: Path
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return what is said of the clips, and the tensors."""
    path = folder / (name or "e.safetensors")
    main([*words, *([] if name else ["--embeddings.path", str(path)]), *map(str, more)])
    return json.loads(path.with_suffix(".json").read_text()), load_file(path)


def videos_of(root: Path, split: str) -> list[str]:
    return [Path(line).name for line in (root / f"{split}.csv").read_text().split()[1:]]


def expected(root: Path, split: str, name: str = "test") -> list[dict[str, Any]]:
    """Return what is to be said of every caption of a split, but for its cluster and its known words."""
    captions = json.loads((root / "captions.json").read_text())
    return [
        {"id": f"{video}:{number}", "split": name, "video": video, "start": start, "end": end, "text": text}
        for video in videos_of(root, split)
        for number, (start, end, text) in enumerate(
            zip(captions[video]["start"], captions[video]["end"], captions[video]["text"], strict=True)
        )
    ]


def plain(clips: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in clip.items() if name not in ("cluster", "known_words")} for clip in clips]


def test_each_row_is_a_clip_and_the_checkpoint_is_named(words, trained, tiny, capsys):
    run = trained[1].parents[1]
    about, tensors = predict(words, name="embeddings.safetensors", folder=run)
    assert plain(about["clips"]) == expected(tiny, "val")
    assert {name: tuple(value.shape) for name, value in tensors.items()} == {
        "video": (10, 16), "text": (10, 16), "cluster": (10,), "centroids": (4, 16)
    }  # fmt: skip
    assert [clip["cluster"] for clip in about["clips"]] == tensors["cluster"].tolist()
    mean = (tensors["video"] + tensors["text"]) / 2
    nearest = (torch.nn.functional.normalize(mean) @ torch.nn.functional.normalize(tensors["centroids"]).T).argmax(1)
    assert nearest.tolist() == tensors["cluster"].tolist()
    assert about["checkpoint"] == {"path": str(trained[1]), "step": 6, "epochs": 2} and about["weights"] is None
    assert about["tensors"] == "embeddings.safetensors" and all(clip["known_words"] > 0 for clip in about["clips"])
    assert f"-> {run / 'embeddings.safetensors'} and embeddings.json" in capsys.readouterr().out
    before = {path.name for path in run.parent.iterdir()}
    main(words)
    assert {path.name for path in run.parent.iterdir()} == before == {"version_0"}  # no folder for each time


@pytest.mark.parametrize(
    ("split", "names"), [("train", ["train"]), ("val", ["val"]), ("test", ["test"]), ("all", ["train", "val"])]
)
def test_splits_have_every_caption_as_in_evaluation(split, names, words, trained, tiny):
    name = "embeddings.safetensors" if split == "test" else f"embeddings_{split}.safetensors"
    about, tensors = predict(words, "--split", split, name=name, folder=trained[1].parents[1])
    lists = {"train": "train", "val": "val", "test": "val"}
    assert plain(about["clips"]) == [clip for each in names for clip in expected(tiny, lists[each], each)]
    assert (
        len(tensors["text"])
        == len(about["clips"])
        == 30 * ("train" in names) + 10 * ("train" not in names or len(names) > 1)
    )


def test_training_videos_have_the_embeddings_that_evaluation_gives_them(words, tmp_path):
    train, one = predict(words, "--split", "train", folder=tmp_path)
    test, two = predict(words, "--data.test_csv", "train.csv", folder=tmp_path)
    assert plain(train["clips"]) == [clip | {"split": "train"} for clip in plain(test["clips"])]
    for name in one:
        assert torch.equal(one[name], two[name])


def test_shards_say_the_same(words, trained, tiny, tmp_path):
    config = str(trained[0])
    main(["prepare", "--config", config, "--pack.output", str(tmp_path / "shards"), "--data.clips.min_time", "0"])
    plainly, rows = predict(words, "--split", "all", "--data.clips.min_time", 0, folder=tmp_path)
    packed, others = predict(
        words, "--split", "all", "--data.clips.min_time", 0, "--data.shards", tmp_path / "shards", folder=tmp_path
    )
    assert packed["clips"] == plainly["clips"]
    for name in rows:
        assert torch.equal(rows[name], others[name])
    main(["prepare", "--config", config, "--pack.output", str(tmp_path / "grown"), "--data.clips.min_time", "9"])
    grown, _ = predict(
        words, "--split", "train", "--data.clips.min_time", 9, "--data.shards", tmp_path / "grown", folder=tmp_path
    )
    spans = [clip["end"] - clip["start"] for clip in grown["clips"]]  # the clips are those that were packed
    assert min(spans) >= 9 and any(len(clip["text"]) > len(other["text"])
                                   for clip, other in zip(grown["clips"], plainly["clips"], strict=False))  # fmt: skip


def test_pickles_and_windows(words, trained, tiny, tmp_path):
    clips = [{"id": f"c{n}", "caption": "a b", "2d": np.ones((2, 8), np.float32) * n} for n in (1, 2)]
    captions = json.loads((tiny / "captions.json").read_text())
    text = captions[videos_of(tiny, "val")[0]]["text"][0]
    clips[1]["caption"] = text
    (tmp_path / "clips.pkl").write_bytes(pickle.dumps(clips))
    about, _ = predict(words, "--data.test_csv", tmp_path / "clips.pkl", folder=tmp_path)
    assert plain(about["clips"]) == [
        {"id": f"c{n}:0", "split": "test", "video": f"c{n}", "start": None, "end": None, "text": said}
        for n, said in ((1, "a b"), (2, text))
    ]
    windows = (
        "--data.modalities", '["video", "audio"]', "--data.clips.kind", "windows",
        "--data.audio.num_frames", "96", "--model.network.audio_widths", "[4, 4, 4, 8]",
    )  # fmt: skip
    main(["predict", "--config", str(trained[0]), *windows, "--embeddings.path", str(tmp_path / "w.npz")])
    found = json.loads((tmp_path / "w.json").read_text())["clips"]
    assert found[0] == {
        "id": f"{videos_of(tiny, 'val')[0]}:0", "split": "test", "video": videos_of(tiny, "val")[0], "start": 0.0,
        "end": 5.0, "text": None,
    }  # fmt: skip


def test_npz_is_npz_and_other_endings_are_refused(words, tmp_path):
    main([*words, "--embeddings.path", str(tmp_path / "e.npz")])
    with np.load(tmp_path / "e.npz") as found:
        assert {name: found[name].shape for name in found.files} == {
            "video": (10, 16), "text": (10, 16), "cluster": (10,), "centroids": (4, 16)
        }  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        main([*words, "--embeddings.path", "e.csv"])
    assert "--embeddings.path: expected a name that ends in .safetensors or .npz, found e.csv" in str(stop.value.code)


def test_a_text_without_known_words_is_named_and_has_no_embedding(words, tiny, tmp_path, capsys):
    root = shutil.copytree(tiny, tmp_path / "data")
    captions = json.loads((root / "captions.json").read_text())
    video = videos_of(root, "val")[0]
    captions[video]["text"][1] = "Qwxyz!"
    (root / "captions.json").write_text(json.dumps(captions))
    about, tensors = predict(words, "--data.root", root, folder=tmp_path)
    assert [clip["id"] for clip in about["clips"] if clip["known_words"] == 0] == [f"{video}:1"]
    assert tensors["text"][1].abs().sum() == 0 and (tensors["text"].norm(dim=1) == 0).sum() == 1
    assert (
        f"1 texts have no known word, and zeros in place of a text embedding: {video}:1 ('Qwxyz!')"
        in capsys.readouterr().out
    )


def test_a_bad_training_video_is_left_out_and_named(words, tiny, tmp_path):
    root = shutil.copytree(tiny, tmp_path / "data")
    video = videos_of(root, "train")[2]
    next(root.rglob(f"{video}_2d.npz")).unlink()
    share = ("--data.max_bad_share", "0.2")
    about, tensors = predict(words, "--data.root", root, "--split", "train", *share, folder=tmp_path)
    assert [each["video"] for each in about["skipped"]] == [video]
    assert len(tensors["text"]) == len(about["clips"]) == 25
    with pytest.raises(SystemExit, match=r"more than --data\.max_bad_share 0\.1 allows"):
        main([*words, "--data.root", str(root), "--split", "train", "--data.max_bad_share", "0.1"])


def test_a_place_that_cannot_be_written_is_told_before_anything_is_computed(words, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stop:
        main([*words, "--embeddings.path", str(tmp_path / "file" / "e.npz")])
    said = str(stop.value.code)
    assert "expected to write the embeddings, found " in said and "ckpt_path last" not in said


def test_without_a_checkpoint_the_folder_is_fixed_too(trained, tmp_path, tiny):
    config = write_config(tmp_path, tiny)
    for _ in range(2):
        main(["predict", "--config", str(config)])
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["predict"]
    about = json.loads((tmp_path / "run" / "predict" / "embeddings.json").read_text())
    assert about["checkpoint"] is None and about["weights"] is None and len(about["clips"]) == 10
    main(["predict", "--config", str(config), "--model.weights", str(trained[1])])
    about = json.loads((tmp_path / "run" / "predict" / "embeddings.json").read_text())
    assert about["weights"] == str(trained[1])


def test_two_processes_write_what_one_does(words, tmp_path):
    one, rows = predict(words, "--split", "all", folder=tmp_path)
    more = ["--split", "all", "--trainer.devices", "2", "--embeddings.path", str(tmp_path / "two.safetensors")]
    done = python("-m", "mcn_lightning", *words, *more)
    assert done.returncode == 0, done.stderr[-3000:]
    two = json.loads((tmp_path / "two.json").read_text())
    assert two["clips"] == one["clips"]
    for name, value in load_file(tmp_path / "two.safetensors").items():
        torch.testing.assert_close(value, rows[name])
