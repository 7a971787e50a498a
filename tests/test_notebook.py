"""The project from Python: the lines of its page, the notebooks, what the module brings, and what it refuses."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from unittest.mock import patch

import nbformat
import pytest
import torch
from benchmarks.benchmark_files import STREAMS, WORDS, write, write_word_vectors, youcook2
from forked import Popen
from jupyter_client import launcher
from modules import NETWORK, make_data
from nbclient import NotebookClient
from processes import LIMIT
from pytorch_lightning import Trainer
from references.model import random_released_state_dict

from mcn_lightning import MCNModule, NarratedVideos
from mcn_lightning.batch import ClipBatch
from mcn_lightning.callbacks import CentroidUpdate, RetrievalEvaluation, Throughput
from mcn_lightning.data.clips import ClipConfig
from mcn_lightning.data.files.pooling import VisualStream
from mcn_lightning.data.files.spectrograms import AudioConfig
from mcn_lightning.data.sources.synthetic import SyntheticConfig
from mcn_lightning.data.text import TextConfig
from mcn_lightning.errors import InputError
from mcn_lightning.models import NetworkConfig
from mcn_lightning.runs.resume import Resume

PAGES = Path(__file__).parents[1]
PAGE = "docs/guides/python.md"
SMALL = {"embedding_dim": 16, "audio_widths": [4, 4, 4, 8], "reconstruction_hidden": 8}
OPTIONS = {"clustering": {"num_clusters": 3, "queue_rows": 8}, "optimizer": {"warmup_steps": 0}}
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


def code(page: str, title: str) -> str:
    """Return the first block of Python below a title of a page."""
    found = re.search(rf"^#+ {re.escape(title)}\n.*?^```python\n(.*?)^```", (PAGES / page).read_text(), re.M | re.S)
    assert found, f"{page} has no Python below {title}"
    return found[1]


def make_trainer(root, **options) -> Trainer:
    return Trainer(
        default_root_dir=root, logger=False, **QUIET, **{"max_epochs": 1, "num_sanity_val_steps": 0} | options
    )


def fit(root, module, data, **options) -> Trainer:
    trainer = make_trainer(root, enable_checkpointing=False, **options)
    trainer.fit(module, data)
    return trainer


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> dict:
    """What the names of the page's first lines stand for after they ran in an empty folder."""
    folder = tmp_path_factory.mktemp("notebook")
    names: dict = {"folder": folder}
    lines = code(PAGE, "Train and evaluate")
    smaller = {'"n_pair": 8': '"n_pair": 2', '"videos": 48, "held_out": 6': '"videos": 24, "held_out": 2'}
    for shown, less in smaller.items():
        assert lines.count(shown) == 1
        lines = lines.replace(shown, less)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(lines, names)  # the same lines with fewer videos, and fewer clips of each
    return names


def test_the_first_lines_of_the_page_train_and_evaluate(page):
    model, trainer = page["model"], page["trainer"]
    assert len(code(PAGE, "Train and evaluate").splitlines()) <= 16
    assert model.clustering.has_centroids and model.network_config.video_dim == 64
    assert model.network_config.text_dim == 32 and trainer.global_step == 6
    assert {CentroidUpdate, RetrievalEvaluation, Resume, Throughput} <= {type(each) for each in trainer.callbacks}
    assert 0 <= page["metrics"]["val/t->va/R@10"] <= 100 and "val/nmi" in page["metrics"]
    logged = (page["folder"] / "lightning_logs" / "version_0" / "metrics.csv").read_text()
    assert "clustering/objective" in logged and "val/t->va/R@10" in logged
    assert len(list((page["folder"] / "lightning_logs" / "version_0" / "checkpoints").glob("*.ckpt"))) == 1


def test_the_other_lines_of_the_page_go_on_from_there(page):
    blocks = re.findall(r"^```python\n(.*?)^```", (PAGES / PAGE).read_text(), re.M | re.S)[1:]
    assert len(blocks) == 3
    names = dict(page)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(page["folder"])
        for block in blocks:
            exec(block, names)
    assert names["same"].network_config.embedding_dim == 64
    directions = {name.split("/")[1] for name in names["trainer"].callback_metrics if "R@" in name}
    assert directions == {"t->va", "va->t"} and Path(names["best"].best_model_path).name == "best.ckpt"
    assert 0 <= names["again_metrics"]["val/t->va/R@10"] <= 100


def run_notebook(name: str, folder: Path, **values) -> str:
    """Run a notebook in a folder, some values of its cells replaced; return what its cells show."""
    notebook = nbformat.read(PAGES / "notebooks" / name, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "keep it without outputs"
    for option, value in values.items():
        for cell in notebook.cells:
            cell.source = re.sub(
                rf"^( *{option} ?= ?).*?(,?)$",
                lambda found, v=value: f"{found[1]}{v!r}{found[2]}",
                cell.source,
                flags=re.M,
            )
    patient = dict.fromkeys(("timeout", "startup_timeout", "iopub_timeout"), int(LIMIT))
    place = {"metadata": {"path": str(folder)}}
    with patch.object(launcher, "Popen", Popen):  # the kernel comes from the warm server
        NotebookClient(notebook, **patient, kernel_name="python3", resources=place).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not any(output.output_type == "error" for output in outputs)
    return "\n".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in outputs)


@pytest.mark.slow
def test_the_notebook_of_training_shows_loss_recall_clusters_and_clips(tmp_path):
    shown = run_notebook("train.ipynb", tmp_path, VIDEOS=16, EPOCHS=4, clips={"n_pair": 2, "min_time": 5.0})
    assert "after epoch 4" in shown and "R@10" in shown and "topic" in shown and "score" in shown
    assert (tmp_path / "notebook_runs" / "train" / "version_0" / "metrics.csv").is_file()


@pytest.mark.slow
def test_the_notebook_of_released_weights_evaluates_them(tmp_path):
    write(tmp_path / "clips.pkl", youcook2())
    write_word_vectors(tmp_path / "words.txt", WORDS)
    torch.save(random_released_state_dict(12, video_dim=16, text_dim=8, audio_widths=(4, 4, 6, 8)), tmp_path / "w.pth")
    text = {"source": "words.txt", "dim": 8}
    values = {"WEIGHTS": "w.pth", "ROOT": str(tmp_path), "CLIPS": "clips.pkl", "WORDS": text, "STREAMS": STREAMS}
    shown = run_notebook("released_weights.ipynb", tmp_path, **values, QUERY="topic1word2 topic1word3")
    assert "embedding_dim=12" in shown and "t->va" in shown and "torch.Size([1, 12])" in shown


def test_the_lines_for_the_network_alone_embed_clips(tmp_path, monkeypatch):
    block = re.search(r"^```python notest\n(.*?)^```", (PAGES / PAGE).read_text(), re.M | re.S)[1]
    torch.save(
        random_released_state_dict(12, video_dim=16, text_dim=8, audio_widths=(4, 4, 6, 8)), tmp_path / "e16.pth"
    )
    monkeypatch.chdir(tmp_path)
    given = {"video": torch.rand(3, 16), "audio": -torch.rand(3, 40, 64), "words": torch.rand(3, 5, 8)}
    exec(block, names := dict(given))
    assert names["output"].embeddings()["text"].shape == (3, 12)


def test_predict_gives_ids_embeddings_and_clusters(page):
    text, ids = page["text"], [name for batch in page["batches"] for name in batch["ids"]]
    assert len(ids) == len(set(ids)) == len(text) and text.shape[1] == 128
    assert ids[0].startswith("synthetic_") and ":" in ids[0]


def test_the_table_is_printed_by_fit_and_by_validate(tiny, tmp_path, capsys):
    module, data = MCNModule(SMALL, **OPTIONS), make_data(tiny)
    trainer = fit(tmp_path, module, data)
    assert "after epoch 1" in capsys.readouterr().out
    (metrics,) = trainer.validate(module, data, verbose=False)
    assert "t->va" in capsys.readouterr().out and {"val/t->va/R@1", "val/nmi"} <= set(metrics)


def test_sizes_and_modalities_are_those_of_the_data(tiny, tmp_path):
    module = MCNModule(SMALL, **OPTIONS)
    assert module.network_config.video_dim == 4096
    trainer = make_trainer(tmp_path)
    trainer.fit(module, make_data(tiny))
    config = module.network_config
    assert (config.video_dim, config.audio_bands, config.text_dim) == (16, 40, 8)
    again = MCNModule.load_from_checkpoint(trainer.checkpoint_callback.best_model_path)
    assert again.network_config == config
    for name, value in module.network.state_dict().items():
        assert torch.equal(again.state_dict()[f"network.{name}"], value), name

    two = MCNModule(NetworkConfig(embedding_dim=16), **OPTIONS)
    fit(tmp_path, two, make_data(tiny, modalities=["video", "text"]), fast_dev_run=True)
    assert two.network.audio is None and set(two.network.reconstruction) == {"video", "text"}
    assert tuple(two.hparams["network"]["modalities"]) == ("video", "text")


@pytest.mark.parametrize(
    ("network", "found"),
    [
        ({"video_dim": 24}, r"--model\.network\.video_dim: expected 16, which --data\.streams gives, found 24; leave"),
        ({"text_dim": 300}, r"--model\.network\.text_dim: expected 8, which --data\.text\.dim gives, found 300"),
        ({"audio_bands": 64}, r"audio_bands: expected 40, which --data\.audio\.bands gives, found 64"),
    ],
)
def test_a_chosen_size_that_does_not_fit_is_refused_in_one_line(network, found, tiny, tmp_path):
    with pytest.raises(InputError, match=found) as caught:
        fit(tmp_path, MCNModule(SMALL | network, **OPTIONS), make_data(tiny))
    assert "\n" not in str(caught.value)


def test_sizes_of_modalities_that_the_network_lacks_do_not_matter(tiny, tmp_path):
    module = MCNModule(SMALL | {"modalities": ["video", "audio"], "text_dim": 300}, **OPTIONS)
    fit(tmp_path, module, make_data(tiny), fast_dev_run=True)
    assert module.network.text is None and module.network_config.video_dim == 16


def test_a_trained_network_is_never_built_anew(tiny, tmp_path):
    module = MCNModule(SMALL, **OPTIONS)
    fit(tmp_path, module, make_data(tiny))
    network = module.network
    fit(tmp_path, module, make_data(tiny))  # the cell is run once more
    assert module.network is network
    half = [{"suffix": "_2d", "rate": 1.0, "width": 8}]
    other = NarratedVideos(str(tiny), streams=half, text={"source": "word_vectors.txt", "dim": 8}, num_workers=0)
    with pytest.raises(InputError, match=r"video_dim: expected 8, which --data\.streams gives, found 16"):
        make_trainer(tmp_path).validate(module, other)
    loaded = MCNModule(NetworkConfig(embedding_dim=16, audio_widths=(4, 4, 4, 8)), **OPTIONS)
    loaded.load_state_dict(loaded.state_dict())
    with pytest.raises(InputError, match="video_dim: expected 16"):
        fit(tmp_path, loaded, make_data(tiny))


def test_callbacks_that_the_user_gives_win(tiny, tmp_path):
    class Mine(CentroidUpdate):
        pass

    mine, retrieval = Mine(every_n_steps=2), RetrievalEvaluation(["t->v"])
    trainer = fit(tmp_path, MCNModule(NETWORK, **OPTIONS), make_data(tiny), callbacks=[mine, retrieval])
    assert [each for each in trainer.callbacks if isinstance(each, CentroidUpdate)] == [mine]
    assert [each for each in trainer.callbacks if isinstance(each, RetrievalEvaluation)] == [retrieval]
    assert {name.split("/")[1] for name in trainer.callback_metrics if "R@" in name} == {"t->v"}
    assert not any(isinstance(each, Throughput) for each in trainer.callbacks)  # no logger
    without = fit(tmp_path, MCNModule(NETWORK, clustering={"kind": "none"}), make_data(tiny), fast_dev_run=True)
    assert not any(isinstance(each, CentroidUpdate) for each in without.callbacks)


def test_options_may_be_dicts(tiny):
    plain = NarratedVideos(
        str(tiny), streams=[{"suffix": "_2d", "width": 8}], audio={"num_frames": 96}, text={"dim": 8},
        clips={"n_pair": 4}, synthetic={"videos": 2, "widths": (8, 8)},
    )  # fmt: skip
    assert plain.layout.streams == (VisualStream("_2d", 1.0, 8),) and plain.layout.audio == AudioConfig(num_frames=96)
    assert (plain.text_config, plain.clip_config) == (TextConfig(dim=8), ClipConfig(n_pair=4))
    assert plain.synthetic == SyntheticConfig(videos=2, widths=(8, 8))
    module = MCNModule(SMALL, loss={"contrastive": {"kind": "info_nce"}, "cluster_weight": 0.5}, **OPTIONS)
    assert (module.loss_config.contrastive.kind, module.loss_config.cluster_weight) == ("info_nce", 0.5)


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: MCNModule({"embeding_dim": 16}), r"--model\.network\.embeding_dim: expected an option of "
         r"NetworkConfig, found no such one; did you mean embedding_dim\?"),
        (lambda: MCNModule("big"), r"--model\.network: expected NetworkConfig or a dict of its options, found 'big'"),
        (lambda: MCNModule(SMALL, loss={"cluster": {"temprature": 1}}), r"--model\.loss\.cluster\.temprature: .* "
         r"did you mean temperature\?"),
        (lambda: MCNModule(SMALL | {"dropout": "x"}), r"--model\.network\.dropout: expected a number .*, found x"),
        (lambda: NarratedVideos("x", streams={"suffix": "_2d"}), r"--data\.streams: expected a list of streams"),
        (lambda: NarratedVideos("x", streams=[{"sufix": "_2d"}]), r"--data\.streams\.sufix: .* did you mean suffix\?"),
        (lambda: NarratedVideos("x", audio=40), r"--data\.audio: expected AudioConfig or a dict .*, found 40"),
    ],
)  # fmt: skip
def test_wrong_options_are_one_line(make, found):
    with pytest.raises(InputError, match=found) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_inputs_of_another_shape_name_the_option():
    module = MCNModule(NETWORK)
    for given, option in (
        ({"video": torch.ones(2, 5)}, "video_dim: expected video of 16 values, found the shape (2, 5)"),
        ({"audio": torch.zeros(2, 64, 96)}, "audio_bands: expected audio of 40 values, found the shape (2, 64, 96)"),
        ({"words": torch.ones(2, 3, 300)}, "text_dim: expected text of 8 values, found the shape (2, 3, 300)"),
    ):
        with pytest.raises(ValueError, match=r"^--model\.network\." + re.escape(option)):
            module(ClipBatch(ids=("a", "b"), **given))


def test_training_in_another_thread_takes_no_signals(tiny, tmp_path):
    errors = []

    def train():
        try:
            fit(tmp_path, MCNModule(NETWORK, **OPTIONS), make_data(tiny), max_epochs=1)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert not errors
