"""Files of options that are wrong: one line, which names the file, before anything is built."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from mcn_lightning.commands.configs import resolve_configs
from mcn_lightning.commands.fit import fit_options
from mcn_lightning.commands.main import COMMANDS, main

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NOT_SET", raising=False)
    return tmp_path


def refusal(*words: object) -> str:
    """Return the one line that a command ends with."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    line = str(stop.value.code)
    assert line.startswith("error: ") and "\n" not in line
    return line.removeprefix("error: ")


UNREADABLE = {
    "Latin-1": (b"data:\n  root: caf\xe9\n", ": expected options in YAML, as text in UTF-8, found byte 0xe9"),
    "binary": (b"\x00\x01\x02\x03", ": expected options in YAML, as text in UTF-8, found binary data"),
    "empty": (b"", ": expected options in YAML, as in `data: {root: DATA}`, found an empty file"),
    "comment alone": (b"# later\n", ": expected options in YAML, as in `data: {root: DATA}`, found an empty file"),
    "tab": (b"data:\n\troot: x\n", ", line 2: expected spaces before an option, found a tab"),
    "tab further in": (b"data:\n  root: x\n\tseed: 1\n", ", line 3: expected spaces before an option, found a tab"),
    "list": (b"- data\n- model\n", ": expected options in YAML, as in `data: {root: DATA}`, found a list"),
    "text": (b"data\n", ": expected options in YAML, as in `data: {root: DATA}`, found text without an option"),
    "open bracket": (b"data: {root: x\n", ", line 2: expected options in YAML, found a mistake"),
    "number in place of a group": (b"seed_everything: 1\ndata: 3\n", ", line 2: expected options in data, found 3"),
    "group without options": (b"model:\n", ", line 1: expected options in model, found none"),
    "twice at the top": (b"data: {root: x}\nmodel: {}\ndata: {root: y}\n",
                         ", line 3: expected each option once, found data again after line 1"),
    "twice inside": (b"model:\n  loss:\n    kind: a\n    weight: 1\n    kind: b\n",
                     ", line 5: expected each option once, found model.loss.kind again after line 3"),
    "twice in a list": (b"data:\n  streams:\n  - {suffix: a, rate: 1}\n  - {suffix: b, suffix: c}\n",
                        ", line 4: expected each option once, found data.streams[1].suffix again in the same line"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "part"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_file_that_holds_no_options_is_named(content, part, folder):
    Path("mine.yaml").write_bytes(content)
    assert refusal("fit", "--config", "demo", "--config", "mine.yaml").startswith("mine.yaml" + part)
    assert refusal("fit", "--config=mine.yaml").startswith("mine.yaml" + part)


def test_anchors_merges_and_byte_order_marks_are_no_mistakes(folder):
    Path("mine.yaml").write_bytes(b"\xef\xbb\xbfdata: &a {root: x}\nmodel: {<<: *a, root: y}\nother: [*a, *a]\n")
    assert resolve_configs(["--config", "mine.yaml"]) == ["--config", "mine.yaml"]


def test_an_option_twice_is_refused_wherever_options_are_given(folder):
    Path("data.yaml").write_text("root: x\nroot: y\n")
    Path("mine.yaml").write_text("data: data.yaml\n")
    part = "data.yaml, line 2: expected each option once, found root again after line 1"
    assert refusal("fit", "--data", "data.yaml").startswith(part)
    assert refusal("fit", "--config", "mine.yaml").startswith(part)
    assert refusal("fit", "--data", "{root: x, root: y}").startswith("--data, line 1: expected each option once")
    assert "found [0].suffix again" in refusal("fit", "--data.streams=[{suffix: a, suffix: b}]")
    assert refusal("synthetic", "--config", "data.yaml").startswith(part)


WRONG = {
    "unknown option": ("data: {bach_size: 3}", "--data.bach_size: no such option; did you mean --data.batch_size"),
    "unknown group": ("dta: {batch_size: 3}", "--dta.batch_size: no such option; did you mean --data.batch_size"),
    "unknown option in a stream": ("data: {streams: [{sufix: a}]}", "--data.streams: Option 'sufix' is not accepted"),
    "unknown option of a callback": (
        "trainer: {callbacks: [{class_path: RetrievalBenchmark, init_args: {nam: x}}]}",
        "--trainer.callbacks: mcn_lightning.benchmarks.RetrievalBenchmark: expected an argument of this class, "
        "found nam",
    ),
    "unknown class": ("trainer: {callbacks: [{class_path: Nope}]}", "--trainer.callbacks: expected a class of your"),
    "wrong type": ("data: {batch_size: many}", "--data.batch_size: expected a whole number, found many"),
    "unset variable": (
        'data: {root: "${oc.env:NOT_SET}"}',
        "--data.root: expected the environment variable NOT_SET, found none; set it, or give a default",
    ),
    "unset variable of a class": (
        'trainer: {logger: {class_path: CSVLogger, init_args: {save_dir: "${oc.env:NOT_SET}"}}}',
        "--trainer.logger.init_args.save_dir: expected the environment variable NOT_SET, found none",
    ),
    "unknown key": ('data: {root: "${no.such.key}"}', "--data.root: expected another option in ${no.such.key}, found"),
    "unknown resolver": ('data: {root: "${upper:x}"}', "--data.root: expected an interpolation that can be resolved"),
    "open interpolation": ('data: {root: "${oc.env:"}', "--data.root: expected an interpolation that can be resolved"),
}  # fmt: skip


PRINTED = [WRONG[name][0] for name in ("unknown option", "wrong type", "unset variable")]
"""One of each way in which parsing fails: an option, a value, and an interpolation."""


@pytest.mark.parametrize(("content", "part"), WRONG.values(), ids=WRONG)
def test_a_wrong_option_names_the_file_that_has_it(content, part, folder):
    Path("good.yaml").write_text("data: {batch_size: 8}\n")
    Path("mine.yaml").write_text(content + "\n")
    for more in ([], ["--print_config"]) if content in PRINTED else ([],):
        line = refusal("fit", "--config", "demo", "--config", "mine.yaml", "--config", "good.yaml", *more)
        assert line.startswith("mine.yaml: " + part)


def test_a_wrong_option_of_the_command_line_names_no_file(folder):
    Path("good.yaml").write_text("data: {batch_size: 8}\n")
    words = ("fit", "--config", "good.yaml")
    assert refusal(*words, "--data.batch_size", "many").startswith("--data.batch_size: expected")
    assert refusal(*words, "--data.root", "${oc.env:NOT_SET}").startswith("--data.root: expected the environment")
    line = refusal(*words, "--data.captions", "${data.root}/c.json")
    assert line.startswith("--data.captions: expected another option in ${data.root}, found none of this name; on the ")


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict", "prepare", "check"])
def test_an_option_may_name_another_one_in_every_command(command, folder, capsys):
    Path("mine.yaml").write_text(
        'data: {root: here, batch_size: 6, eval_batch_size: "${data.batch_size}", captions: "${data.root}/c.json"}\n'
        'trainer: {logger: {class_path: CSVLogger, init_args: {save_dir: "${data.root}/${data.streams[0].suffix}"}}}\n'
    )
    with pytest.raises(SystemExit):
        main([command, "--config", "mine.yaml", "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["data"]["captions"], printed["data"]["eval_batch_size"]) == ("here/c.json", 6)
    assert printed["trainer"]["logger"]["init_args"]["save_dir"] == "here/_2d"
    Path("mine.yaml").write_text('data: {captions: "${data.rot}/c.json"}\n')
    assert "${data.rot}, found none of this name" in refusal(command, "--config", "mine.yaml")


def test_a_variable_that_is_set_is_taken(folder, monkeypatch, capsys):
    Path("mine.yaml").write_text('data: {root: "${oc.env:NOT_SET,elsewhere}"}\n')
    with pytest.raises(SystemExit):
        main(["fit", "--config", "mine.yaml", "--print_config"])
    assert "root: elsewhere" in capsys.readouterr().out
    monkeypatch.setenv("NOT_SET", "here")
    with pytest.raises(SystemExit):
        main(["fit", "--config", "mine.yaml", "--print_config"])
    assert "root: here" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "full"),
    [
        (("fit", "--data.batch", 4), "--data.batch_size"),
        (("fit", "--data.batch=4"), "--data.batch_size"),
        (("fit", "--model.clustering.num_cluster", 3), "--model.clustering.num_clusters"),
        (("fit", "--seed", 1), "--seed_everything"),
        (("fit", "--trainer.max_epoch", 1), "--trainer.max_epochs"),
        (("prepare", "--pack.out", "x"), "--pack.output"),
        (("verify", "--shard", "x"), "--shards or --shards_cache"),
        (("results", "runs", "--metric", "x"), "--metrics"),
        (("ablate", "--bas", "demo"), "--base"),
        (("synthetic", "--synthetic.vid", 3), "--synthetic.videos"),
    ],
    ids=str,
)
def test_an_abbreviation_is_refused_with_the_full_name(words, full):
    option = str(words[-2]) if str(words[-2]).startswith("--") else str(words[-1]).partition("=")[0]
    assert refusal(*words) == f"{option}: no such option; did you mean {full}?"


@pytest.mark.parametrize(
    ("option", "value", "part"),
    [
        ("videos", -4, "expected a whole number above 0, found -4"),
        ("held_out", 0, "expected a whole number above 0, found 0"),
        ("topics", 0, "expected a whole number above 0"),
        ("word_dim", -1, "expected a whole number above 0"),
        ("seconds", -1, "expected at least caption_seconds"),
        ("length_spread", 2, "expected a number of at least 0 and below 1"),
        ("widths", "[0, 2]", "expected a whole number above 0, found 0"),
        ("seed", -1, "expected a whole number of at least 0"),
        ("videos", "many", "expected a whole number above 0, found many"),
        ("seconds", "nan", "expected a number, found nan"),
    ],
)
def test_generated_data_that_cannot_be_is_refused_in_one_line(option, value, part, folder):
    line = refusal("synthetic", "--root", folder / "made", f"--synthetic.{option}", value)
    assert line.startswith(f"--synthetic.{option}: {part}") and not (folder / "made").exists()
    line = refusal("fit", "--config", "demo", "--data.root", folder / "made", f"--data.synthetic.{option}", value)
    assert f"--data.synthetic.{option}: {part}" in line or option in line
    assert not (folder / "made").exists()


def test_the_help_lists_every_command_with_one_line(capsys):
    main(["--help"])
    shown = capsys.readouterr().out
    told = {line.split()[0]: line.split(maxsplit=1)[1] for line in shown.splitlines() if line.startswith("  ")}
    assert told == {name: command.summary for name, command in COMMANDS.items()}
    assert set(told) >= {"fit", "validate", "test", "predict", "prepare", "verify", "synthetic", "results", "ablate"}
    assert all(len(line) <= 80 for line in shown.splitlines())


@pytest.mark.parametrize(("words", "start"), [
    (["verfy"], "error: expected a command, found verfy; did you mean verify?"),
    (["train-everything"], "error: expected a command, found train-everything"),
    ([], "error: expected a command, found none"),
])  # fmt: skip
def test_an_unknown_command_is_told_all_commands(words, start):
    with pytest.raises(SystemExit) as stop:
        main(words)
    first, *rest = str(stop.value.code).splitlines()
    assert first == start
    assert [line.split()[0] for line in rest if line.startswith("  ")] == list(COMMANDS)


def test_the_help_of_fit_begins_with_this_project_s_options(capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith("usage: lightning fit [--config RECIPE_OR_FILE]... [options]\n\ntrain a model\n")
    options = ("seed_everything", "model.network.embedding_dim", "model.loss.cluster_weight", "data.root",
               "retrieval.directions", "trainer.accelerator")  # fmt: skip
    places = [shown.index(f"\n  --{option} ") for option in options]
    assert places == sorted(places)
    assert shown.rindex("\n  --data.") < shown.index("\n  --trainer.")


def test_the_program_s_own_words_are_read(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lightning", "--version"])
    main()
    assert capsys.readouterr().out == "mcn-lightning 0.1.0\n"


def test_commands_of_one_process_know_nothing_of_one_another():
    plain = fit_options([])
    changed = fit_options(["--run_folder", "elsewhere", "--model.clustering.kind", "none", "--data.batch_size", "4"])
    assert changed["trainer"]["logger"]["init_args"]["save_dir"] == "elsewhere"
    assert changed["data"]["batch_size"] == 4 != plain["data"]["batch_size"]
    assert fit_options([]) == plain
