"""``lightning export``: a folder that others load, its card, and the hub."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from hub_server import TOKEN, HubServer
from huggingface_hub import constants
from launch import refusal, run, write_video_text
from safetensors.torch import save

import mcn_lightning as mcn
from mcn_lightning.commands.export.folder import name_encoder
from mcn_lightning.data.text import TextConfig
from mcn_lightning.inference.inputs import without_places
from mcn_lightning.inference.words import StoredWords

FILES = ["README.md", "config.json", "model.safetensors", "words.safetensors"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny):
    """The folder of a tiny run: six steps, evaluated twice."""
    folder = tmp_path_factory.mktemp("trained")
    run("fit", "--config", write_video_text(folder, tiny))
    return folder / "run" / "version_0"


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    output = tmp_path_factory.mktemp("exported") / "model"
    run("export", trained, "--output", output, "--license", "cc-by-4.0")
    return output


@pytest.fixture(scope="module")
def sentence(tiny):
    captions = json.loads((tiny / "captions.json").read_text())
    return next(iter(captions.values()))["text"][0]


def test_what_is_exported_embeds_as_the_run_does(trained, exported, sentence):
    assert sorted(path.name for path in exported.iterdir()) == FILES
    model, shared = mcn.load(trained), mcn.load(exported)
    assert not shared.training and shared.network_config == model.network_config
    assert shared.clustering.has_centroids
    state = model.state_dict()
    for name, value in shared.state_dict().items():
        assert ".queue." in name or torch.equal(value, state[name]), name
    assert torch.equal(shared.embed_text(sentence), model.embed_text(sentence))


def test_it_needs_no_file_of_the_run(exported, sentence, tmp_path):
    shutil.copytree(exported, tmp_path / "moved")
    words = (tmp_path / "moved" / "config.json").read_text()
    assert str(exported.parents[1]) not in words and '"source": "word_vectors.txt"' in words
    embedded = mcn.load(tmp_path / "moved").embed_text([sentence, sentence])
    assert embedded.shape == (2, 16) and torch.isfinite(embedded).all()


def test_every_word_of_the_captions_has_its_vector(exported, tiny):
    captions = json.loads((tiny / "captions.json").read_text()).values()
    words = {word for entry in captions for text in entry["text"] for word in text.split()}
    known = StoredWords(mcn.load(exported).inputs.text, exported / "words.safetensors").vocabulary
    assert words & {line.split()[0] for line in (tiny / "word_vectors.txt").read_text().splitlines()} <= set(known)


def test_the_same_run_gives_the_same_bytes(trained, exported, tmp_path):
    run("export", trained / "checkpoints" / "last.ckpt", "--output", tmp_path / "model", "--license", "cc-by-4.0")
    for name in FILES:
        assert (tmp_path / "model" / name).read_bytes() == (exported / name).read_bytes(), name


def test_the_card_tells_results_data_and_licence(trained, exported):
    card = (exported / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "cc-by-4.0" and head["library_name"] == "mcn-lightning"
    with open(trained / "metrics.csv", newline="") as file:
        evaluated = [row for row in csv.DictReader(file) if row["val/t->v/R@10"]]
    assert f"| val/t->v/R@10 | {float(evaluated[-1]['val/t->v/R@10']):.1f} |" in card
    record = json.loads((trained / "run.json").read_text())
    assert record["commit"] in card and "- Steps: 6." in card and "@inproceedings" in card
    assert "- Visual stream `_2d`: 8 numbers, 1 rows a second." in card
    assert "Text: `word_vectors` of `word_vectors.txt`" in card and 'mcn.load("FOLDER/model")' in card


def test_an_earlier_checkpoint_tells_its_own_results(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    later = dict.fromkeys(rows[0], "") | {"step": "6", "epoch": "2", "val/t->v/R@10": "99.0"}
    with open(tmp_path / "run" / "metrics.csv", "a", newline="") as file:
        csv.DictWriter(file, list(rows[0])).writerow(later)
    run("export", tmp_path / "run", "--output", tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "99.0" not in card and "license" not in yaml.safe_load(card.split("---")[1])
    assert "No licence was given" in card


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


def test_a_model_goes_to_the_hub_and_comes_from_it(trained, hub, sentence, tmp_path, monkeypatch, capsys):
    run("export", trained, "--output", tmp_path / "model", "--push", "me/narrated", "--private", "true")
    assert f"{hub.url}/me/narrated" in capsys.readouterr().out
    assert b'mcn.load("me/narrated")' in hub.files["me/narrated"]["README.md"]
    assert sorted(hub.files["me/narrated"]) == FILES and hub.private == {"me/narrated": True}
    assert all((tmp_path / "model" / name).read_bytes() == data for name, data in hub.files["me/narrated"].items())
    wanted = mcn.load(tmp_path / "model").embed_text(sentence)
    monkeypatch.chdir(tmp_path)
    assert torch.equal(mcn.load("me/narrated").embed_text(sentence), wanted)
    hub.server.shutdown()  # without a connection the copy on this machine serves
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(mcn.load("me/narrated").embed_text(sentence), wanted)


def test_the_methods_of_the_hub_write_and_read_the_same_files(exported, hub, sentence, tmp_path):
    model = mcn.load(exported)
    model.save_pretrained(tmp_path / "saved")
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == FILES
    for name in {*FILES} - {"README.md"}:
        assert (tmp_path / "saved" / name).read_bytes() == (exported / name).read_bytes()
    model.push_to_hub("me/narrated", private=True)
    assert sorted(hub.files["me/narrated"]) == FILES and hub.private == {"me/narrated": True}
    assert b'mcn.load("me/narrated")' in hub.files["me/narrated"]["README.md"]
    wanted = model.embed_text(sentence)
    for place in (tmp_path / "saved", "me/narrated"):
        again = mcn.Model.from_pretrained(place)
        assert not again.training and torch.equal(again.embed_text(sentence), wanted)


def test_what_the_hub_refuses_is_one_line_and_the_folder_stays(trained, hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "another")
    said = refusal(capsys, "export", trained, "--output", tmp_path / "model", "--push", "me/narrated")
    assert "--push me/narrated: expected a hub that takes the model, found" in said and "is written" in said
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == FILES
    with pytest.raises(
        mcn.InputError, match=r"me/other: expected a file, a folder, or a model .* found none of this name"
    ):
        mcn.load("me/other")


def test_without_network_and_copy_the_message_says_how_to_fetch():
    with pytest.raises(mcn.InputError, match=r"me/never: expected .* fetch it once with `hf download`"):
        mcn.load("me/never")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--license", "cc by"), "--license: expected an SPDX name such as cc-by-4.0, found 'cc by'"),
        (("--push", "narrated"), "--push: expected user/name, found 'narrated'"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(trained, tmp_path, capsys, words, said):
    assert said in refusal(capsys, "export", trained, "--output", tmp_path / "model", *words)
    assert not (tmp_path / "model").exists()


def test_wrong_places_are_refused(trained, tmp_path, capsys):
    assert "RUN nowhere: expected the folder of a run" in refusal(
        capsys, "export", "nowhere", "--output", tmp_path / "m"
    )
    assert "found a run; give another folder" in refusal(capsys, "export", trained, "--output", trained)
    (tmp_path / "file").touch()
    assert "found a file; give another folder" in refusal(capsys, "export", trained, "--output", tmp_path / "file")
    assert "found other files; give another folder" in refusal(capsys, "export", trained, "--output", tmp_path)
    (tmp_path / "empty").mkdir()
    assert "with a checkpoint, found none" in refusal(capsys, "export", tmp_path / "empty", "--output", tmp_path / "m")


def test_a_sentence_encoder_is_named_as_others_find_it(trained, tmp_path, capsys):
    inputs = replace(mcn.load(trained).inputs, text=TextConfig(kind="tokens", source=str(tmp_path), dim=8))
    assert name_encoder(inputs, None) == inputs
    assert f"others do not have the sentence encoder of this run, {tmp_path}; give" in capsys.readouterr().err
    named = name_encoder(inputs, "sentence-transformers/all-MiniLM-L6-v2")
    assert without_places(named).text.source == "sentence-transformers/all-MiniLM-L6-v2"
    assert without_places(name_encoder(named, None)) == without_places(named) and not capsys.readouterr().err
    said = refusal(capsys, "export", trained, "--output", tmp_path / "m", "--text_encoder", "a/b")
    assert "--text_encoder: expected a run with a sentence encoder, found one without; leave it out" in said


def test_captions_that_are_gone_are_said(trained, tmp_path, capsys):
    run_folder = tmp_path / "run"
    shutil.copytree(trained, run_folder)
    options = yaml.safe_load((run_folder / "config.yaml").read_text())
    root = Path(options["data"]["root"])
    (tmp_path / "data").mkdir()
    shutil.copy(root / "word_vectors.txt", tmp_path / "data")
    options["data"]["root"] = str(tmp_path / "data")
    (run_folder / "config.yaml").write_text(yaml.safe_dump(options))
    run("export", run_folder, "--output", tmp_path / "model")
    assert "warning: the captions of the run cannot be read" in capsys.readouterr().err
    assert (tmp_path / "model" / "words.safetensors").is_file()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", b"{}", "expected the options of a shared model, found something else"),
        ("config.json", b'{"format": 9, "mcn_lightning": "7.0", "model": {}, "inputs": null}', "install that version"),
        ("model.safetensors", b"\0" * 20, "expected the weights of a model, found"),
        (
            "model.safetensors",
            save({"network.other": torch.zeros(1)}),
            "the weights of its config.json, found",
        ),
        ("words.safetensors", b"\0" * 20, "expected stored word vectors, found"),
    ],
)
def test_a_damaged_folder_is_one_line(exported, sentence, tmp_path, name, content, said):
    shutil.copytree(exported, tmp_path / "model")
    (tmp_path / "model" / name).write_bytes(content)
    with pytest.raises(mcn.InputError, match=said):
        mcn.load(tmp_path / "model").embed_text(sentence)
