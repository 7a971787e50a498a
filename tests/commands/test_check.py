"""``lightning check`` reads every video once and tells whether training could start; the recipe for own data."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pytest
import yaml
from launch import CONFIGS, NETWORK, refusal, run

from mcn_lightning.data.checks.inspection import _union
from mcn_lightning.data.sources.synthetic import SyntheticConfig, write_synthetic


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("check") / "data"
    write_synthetic(folder, SyntheticConfig(videos=8, held_out=3, seconds=30.0, topics=3, widths=(8, 8), word_dim=8))
    return folder


@pytest.fixture
def root(generated, tmp_path):
    return shutil.copytree(generated, tmp_path / "data")


def words(root, **more):
    """The recipe for one's own data, on tiny data."""
    tiny = {
        "data": {
            "root": str(root), "streams": [{"suffix": "_2d", "rate": 1.0, "width": 8}],
            "batch_size": 4, "num_workers": 0,
            "text": {"source": "word_vectors.txt", "dim": 8}, "audio": {"num_frames": 96}, **more,
        },
        "model": {"network": NETWORK, "clustering": {"num_clusters": 4, "queue_rows": 16}},
    }  # fmt: skip
    path = root.parent / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny))
    return "--config", CONFIGS / "own.yaml", "--config", path


def files(root, index=0):
    video = sorted((root / "features" / "train").iterdir())[index]
    return video / f"{video.name}_2d.npz", video / f"{video.name}_spec.npz"


def test_good_data_are_described_and_may_train(root, capsys):
    run("check", *words(root))
    shown = capsys.readouterr().out.splitlines()
    train = shown[: shown.index("val: val.csv: 3 of 3 videos can be used, 0.03 h")]
    captions = json.loads((root / "captions.json").read_text())
    listed = (root / "train.csv").read_text()
    spoken = {name: entry for name, entry in captions.items() if name in listed}
    seconds = [e - s for entry in spoken.values() for s, e in zip(entry["start"], entry["end"], strict=True)]
    assert train[0] == "train: train.csv: 8 of 8 videos can be used, 0.07 h"
    assert train[1] == "  _2d       30.0 to 30.0 s, 30.0 s on average"
    assert train[2] == "  _spec     30.0 to 30.0 s, 30.0 s on average"
    assert train[3].startswith(f"  clips     {len(seconds)} of {min(max(s, 3.0) for s in seconds):.1f} to ")
    assert train[4] == f"  captions  cover {100 * sum(seconds) / 240:.0f} % of the videos"
    assert train[5].startswith("  sound     mean -") and "peak 0.0 dB, 0.0 % of the frames silent" in train[5]
    assert len(train) == 6
    assert sum("100.0 % of" in line and "0 of" in line for line in shown) == 2
    assert shown[-1] == "training can start"


def test_silence_is_measured_in_frames(root, capsys):
    for index in range(8):
        path = files(root, index)[1]
        with np.load(path) as archive:
            frames = archive["arr_0"].copy()
        frames[:, 1500:] = -80.0
        frames[0, 0] = 0.0
        np.savez(path, arr_0=frames)
    run("check", *words(root, audio={"num_frames": 600}))
    sound = next(line for line in capsys.readouterr().out.splitlines() if "sound" in line)
    share = float(sound.split("peak")[1].split(",")[1].split("%")[0])
    assert 45 < share < 55


def test_bad_videos_are_named_and_end_with_one_line(root, capsys):
    files(root)[0].unlink()
    path = files(root, 1)[0]
    path.write_bytes(path.read_bytes()[:-20])
    message = refusal(capsys, "check", *words(root))
    assert "found 2 of 8; first synthetic_00000: " in message and "found no file, nor synthetic_00000_2d.npy" in message
    run("check", *words(root, max_bad_share=0.5))
    shown = capsys.readouterr().out
    assert "train: train.csv: 6 of 8 videos can be used" in shown and "training can start" in shown
    assert "  skipped   synthetic_00000: " in shown and "  skipped   synthetic_00001: " in shown


def test_a_bad_held_out_video_stops_training_as_it_would(root, capsys):
    video = next((root / "features" / "val").iterdir())
    (video / f"{video.name}_spec.npz").unlink()
    assert f"found 1 others; {video.name}: " in refusal(capsys, "check", *words(root))


def test_what_the_start_of_a_run_refuses_check_refuses(root, capsys):
    assert "at most the videos there are" in refusal(capsys, "check", *words(root, batch_size=9))
    captions = json.loads((root / "captions.json").read_text())
    for entry in captions.values():
        entry["text"] = ["unheard of"] * len(entry["text"])
    (root / "captions.json").write_text(json.dumps(captions))
    assert "knows none of the 2 words" in refusal(capsys, "check", *words(root))
    assert "expected a folder, found none" in refusal(capsys, "check", *words(root), "--data.root", root / "none")


def test_shards_and_overlaps(root, tmp_path, capsys):
    (root / "val.csv").write_text((root / "val.csv").read_text() + (root / "train.csv").read_text().split()[1] + "\n")
    run("prepare", *words(root), "--pack.output", tmp_path / "shards")
    capsys.readouterr()
    run("check", *words(root), "--data.shards", tmp_path / "shards")
    shown = capsys.readouterr().out
    assert "train: train.csv: 8 of 8 videos can be used, 0.07 h" in shown and "  _2d " in shown
    assert "have 1 of 4 videos in common: synthetic_00000" in shown and "training can start" in shown


def test_pickles(root, capsys):
    rng = np.random.default_rng(0)
    for split, count in {"train": 9, "val": 4}.items():
        clips = [
            {"id": f"{split}{n}", "caption": "topic0word0", "2d": rng.random((1, 8), dtype=np.float32),
             "audio": rng.random((40, 50), dtype=np.float32) - 30}
            for n in range(count)
        ]  # fmt: skip
        (root / f"{split}.pkl").write_bytes(pickle.dumps(clips))
    more = {"train_csv": "train.pkl", "val_csv": "val.pkl", "audio": {"num_frames": 96, "time_shift": 0.0}}
    run("check", *words(root, **more))
    shown = capsys.readouterr().out
    assert "train: train.pkl: 9 of 9 videos can be used\n  sound     mean -29.5 dB, peak -29.0 dB" in shown
    assert "100.0 % of 9 caption words known" in shown and shown.endswith("training can start\n")


def test_covered_seconds_count_once():
    assert _union([(0, 2), (1, 3), (1, 2), (5, 9)], 8.0) == 6.0
    assert _union([], 8.0) == 0.0


@pytest.mark.parametrize("modalities", [["video", "audio", "text"], ["video", "text"]])
def test_the_recipe_for_own_data_trains(root, modalities, capsys):
    options = ("--trainer.max_epochs", 1, "--trainer.check_val_every_n_epoch", 1, "--trainer.accelerator", "cpu")
    place = ("--trainer.logger.init_args.save_dir", root.parent / "runs")
    run("fit", *words(root, modalities=modalities), *options, *place)
    assert "R@10" in capsys.readouterr().out
