"""The table and the curves of runs, from their folders and from a stand-in for wandb."""

from __future__ import annotations

import csv
import json
import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from mcn_lightning.commands.fit import main
from mcn_lightning.commands.results import collect, columns, group_runs, results_table
from mcn_lightning.errors import InputError

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
RECORD = {
    "commit": "0123456789abcdef", "changed": False, "command": "lightning fit", "hardware": "2 x GPU", "processes": 2,
    "started": "2026-11-24T12:00:00", "hours": 1.0, "memory_gb": 3.25, "finished": True, "versions": {},
}  # fmt: skip
HEAD = "step,epoch,val/t->v/R@10,val/nmi,train/loss"


def write(folder, *rows, options=None, record=None, head=HEAD):
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("\n".join([head, *rows]) + "\n")
    if options is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(options))
    if record is not None:
        (folder / "run.json").write_text(json.dumps(RECORD | record))


def options(seed, weight=1.0, **more):
    return {
        "seed_everything": seed,
        "data": {"num_workers": seed},
        "model": {"loss": {"cluster_weight": weight}, "optimizer": {"lr": 0.1}},
        "trainer": {"max_epochs": 3, "logger": {"init_args": {"version": seed}}},
    } | more


@pytest.fixture
def runs(tmp_path):
    root = tmp_path / "runs"
    write(root / "none" / "version_0", "1,0,,,3.0", "2,0,50.0,0.5,", "3,1,,,2.0", "4,2,60.0,0.7,",
          options=options(0), record={})  # fmt: skip
    write(root / "none" / "17", "4,2,62.0,0.8,2.5", options=options(1), record={"hours": 2.0, "changed": True})
    write(root / "sinkhorn" / "version_0", "4,2,70.0,,1.0", options=options(0))
    return root


def table(*words, capsys):
    main(["results", *map(str, words)])
    return capsys.readouterr().out.splitlines()


def rows(folder, metrics=("val/t->v/R@10",)):
    return results_table(group_runs(collect([str(folder)])), metrics).splitlines()[2:]


def test_a_row_a_recipe_with_mean_and_spread(runs, capsys, tmp_path):
    words = "--metrics", '["val/t->v/R@10", "val/nmi"]'
    assert table(runs, *words, "--csv", tmp_path / "a.csv", capsys=capsys) == [
        "| run | options | runs | seeds | val/t->v/R@10 | val/nmi | commit | hardware | hours | memory GB |",
        "|---|---|---|---|---|---|---|---|---|---|",
        "| none |  | 2 | 0, 1 | 61.0 ± 1.4 | 0.750 ± 0.071 | 0123456; 0123456 + changes | 2 x GPU, 2 processes | 1.50 "
        "| 3.2 |",
        "| sinkhorn |  | 1 | 0 | 70.0 |  |  |  |  |  |",
    ]
    none, sinkhorn = csv.DictReader((tmp_path / "a.csv").open())
    assert (none["run"], none["seeds"], none["val/t->v/R@10"], none["hours"]) == ("none", "0 1", "61.0", "1.5")
    assert float(none["val/t->v/R@10 sd"]) == pytest.approx(2**0.5)
    assert (sinkhorn["val/nmi"], sinkhorn["val/t->v/R@10 sd"], sinkhorn["commit"]) == ("", "", "")
    one = table(runs / "none" / "17", *words, capsys=capsys)
    assert len(one) == 3 and one[2].startswith("| none |  | 1 | 1 | 62.0 |")
    again = table(runs, runs / "none", runs / "none" / "17", *words, capsys=capsys)  # each once
    assert [line.split(" | ")[2] for line in again[2:]] == ["2", "1"]


def test_rows_are_told_apart_by_the_options_that_differ(tmp_path):
    for number, (seed, weight) in enumerate([(0, 1.0), (1, 1.0), (0, 0.5), (0, 0.0)]):
        write(tmp_path / "a" / f"version_{number}", "9,2,50.0,,1.0", options=options(seed, weight))
    assert [line[:38] for line in rows(tmp_path)] == [
        "| a | cluster_weight 0.0 | 1 | 0 | 50.", "| a | cluster_weight 0.5 | 1 | 0 | 50.",
        "| a | cluster_weight 1.0 | 2 | 0, 1 | ",
    ]  # fmt: skip
    other = options(0, 0.5)
    other["model"] = other["model"] | {"head": {"lr": 2}} | {f"x{number}": 1 for number in range(6)}
    for name in "bcdefg":
        write(tmp_path / name / "version_0", "9,2,50.0,,1.0", options=options(0))
    write(tmp_path / "z" / "version_0", "9,2,50.0,,1.0", options=other)
    cells = {tuple(line.split(" | ")[:2]) for line in rows(tmp_path)}
    assert ("| b", "") in cells and ("| a", "cluster_weight 0.0") in cells
    assert ("| z", "head.lr 2, x0 1, x1 1, x2 1, 4 more") in cells


def test_labels_take_as_many_options_as_tell_rows_apart(tmp_path):
    for number in (0, 1):
        model = {f"a{letter}": number + ord(letter) for letter in "bcdef"} | {"z": number}
        write(tmp_path / "a" / f"version_{number}", "9,2,50.0,,1.0", options=options(0, model=model))
    assert [line.split(" | ")[1] for line in rows(tmp_path)] == [
        "ab 98, ac 99, ad 100, ae 101, 2 more", "ab 99, ac 100, ad 101, ae 102, 2 more",
    ]  # fmt: skip


def test_a_wrong_metric_is_answered_with_the_closest_ones(tmp_path, capsys):
    run = tmp_path / "a"
    run.mkdir()
    names = [f"val/{direction}/R@{k}" for direction in ("t->va", "t->v", "t->a", "v->a") for k in (1, 5, 10)]
    (run / "metrics.csv").write_text(f"epoch,step,{','.join(names)}\n0,1{',1.0' * len(names)}\n")
    with pytest.raises(SystemExit) as stop:
        table(run, "--metrics", "[val/t->va/R10]", capsys=capsys)
    line = str(stop.value.code)
    assert "such as val/t->va/R@10, val/t->va/R@1, val/t->v/R@10, val/t->a/R@10, found val/t->va/R10; " in line
    assert "the first line of a run's metrics.csv lists all" in line


def test_what_is_not_there_is_named(runs, tmp_path, capsys):
    for words, part in (
        ((runs, "--metrics", "[val/R@3]"), "expected logged metrics, such as val/t->v/R@10, val/nmi, found"),
        ((tmp_path / "gone",), f"RUN {tmp_path / 'gone'}: expected the folder of runs, found no metrics.csv"),
        (
            (runs, "--metrics", "[val/nmi]", "--csv", tmp_path / "no" / "a.csv"),
            "expected to write there, found no such",
        ),
        ((runs, "--metrics", "[val/nmi]", "--plot", "a.jpg"), "--plot a.jpg: expected a name ending in .png or .svg"),
        ((runs, "--metircs", "[val/nmi]"), "--metircs"),
        (("wandb:project",), "RUN wandb:project: expected wandb:entity/project"),
    ):
        with pytest.raises(SystemExit) as stop:
            table(*words, capsys=capsys)
        assert str(stop.value.code).startswith("error: ") and part in str(stop.value.code)
        assert "\n" not in str(stop.value.code)


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("run.json", "{", "the record of a run"),
        ("run.json", "[1]", "the record of a run"),
        ("run.json", '{"hours": "two"}', "the record of a run"),
        ("metrics.csv", "step,val/nmi\n1,high\n", "the metrics of a run"),
        ("metrics.csv", "", "the metrics of a run"),
        ("config.yaml", "a: [", "the options of a run"),
        ("config.yaml", "trainer: 5", "the options of a run"),
        ("config.yaml", "seed_everything: abc", "the options of a run"),
    ],
)
def test_a_run_that_cannot_be_read_is_told_and_left_out(runs, capsys, name, text, what):
    path = runs / "none" / "17" / name
    path.write_text(text)
    main(["results", str(runs), "--metrics", "[val/nmi]"])
    shown = capsys.readouterr()
    assert shown.out.splitlines()[2].startswith("| none |  | 1 | 0 | 0.700 |")
    assert shown.err.startswith(f"warning: {path}: expected {what}") and shown.err.endswith("; the run is left out\n")
    with pytest.raises(
        InputError, match=f"{name}: expected {what}, found (something else|a damaged file|an empty file|no whole JSON)"
    ) as told:
        collect([str(path.parent)])  # nothing else to show
    assert "\n" not in str(told.value)


def test_a_last_line_that_breaks_off_does_not_count(tmp_path, capsys):
    write(tmp_path / "a" / "version_0", "4,2,62.0,0.8,2.5", options=options(0))
    with (tmp_path / "a" / "version_0" / "metrics.csv").open("a") as file:
        file.write("5,2,7")  # of 71.5
    assert rows(tmp_path)[0].startswith("| a |  | 1 | 0 | 62.0 |")
    assert "metrics.csv: the last line breaks off and is left out" in capsys.readouterr().err


def test_the_starts_of_a_run_are_one_run(tmp_path):
    starts = [{"commit": "1234567a", "hardware": "GPU", "hours": 2.0}, {"commit": "0123456b", "hardware": "2 x GPU"}]
    write(tmp_path / "a" / "version_0", "1,0,,,3.0", "2,0,30.0,0.5,2.0", "4,1,40.0,,1.0", options=options(0),
          record={"hours": 3.0, "starts": starts})  # fmt: skip
    write(tmp_path / "a" / "version_1", "6,2,70.0,,1.0", options=options(1), record={"commit": "1234567a"})
    (run, _) = collect([str(tmp_path)])
    assert run.curve("train/loss") == [(1.0, 3.0), (2.0, 2.0), (4.0, 1.0)] and run.last["val/nmi"] == 0.5
    (line,) = rows(tmp_path)
    assert line.split(" | ")[2:7] == [
        "2",
        "0, 1",
        "55.0 ± 21.2",
        "1234567; 0123456",
        "GPU; 2 x GPU; 2 x GPU, 2 processes",
    ]


def test_older_runs_of_several_folders_are_a_run_each(tmp_path, capsys):
    began = {"started": "2026-11-24T12:00:00"}
    write(tmp_path / "a" / "version_0", "1,0,30.0,,3.0", options=options(0), record=began | {"finished": False})
    write(tmp_path / "a" / "version_1", "2,1,40.0,,2.0", options=options(0), record=began)
    (line,) = table(tmp_path, "--metrics", "[val/t->v/R@10]", capsys=capsys)[2:]  # of a seed the one that finished
    assert line.startswith("| a |  | 1 | 0 | 40.0 |") and len(collect([str(tmp_path)])) == 2
    (alone,) = collect([str(tmp_path / "a" / "version_1")])
    assert alone.curve("train/loss") == [(2.0, 2.0)] and alone.name == "a"


def test_the_folder_of_a_run_from_inside(tmp_path, monkeypatch):
    write(tmp_path / "a" / "version_0", "4,2,62.0,0.8,2.5", options=options(0))
    write(tmp_path / "a" / "version_1", "4,2,63.0,0.8,2.5", options=options(1))
    monkeypatch.chdir(tmp_path / "a" / "version_1")
    assert rows(".")[0].startswith("| a |  | 1 | 1 | 63.0 |")


def test_a_seed_counts_once(tmp_path, capsys):
    for place, value in (("one", 50.0), ("two", 51.0)):
        one = options(0)
        one["trainer"]["logger"]["init_args"] |= {"name": "demo"}
        write(tmp_path / place / "version_0", f"9,2,{value},,1.0", options=one, record={"started": place})
    lines = table(tmp_path, "--metrics", "[val/t->v/R@10]", capsys=capsys)
    assert lines[2].startswith("| demo |  | 1 | 0 | 51.0 |")
    assert lines[-1] == f"left out, a seed that counts already: {tmp_path}/one/version_0"


def test_jobs_with_other_seeds_are_one_row(tmp_path):
    for seed in (0, 1):
        one = options(seed, run_folder=f"runs/slurm-{seed}")
        one["trainer"]["logger"]["init_args"] |= {"name": "demo", "save_dir": f"runs/slurm-{seed}"}
        write(tmp_path / f"slurm-{seed}" / "demo" / "version_0", f"9,2,5{seed}.0,,1.0", options=one)
    assert [line.split(" | ")[:4] for line in rows(tmp_path)] == [["| demo", "", "2", "0, 1"]]


def test_a_run_that_was_continued_counts_once(tmp_path):
    killed = {"finished": False}
    write(tmp_path / "a" / "version_0", "5,1,40.0,,1.0", options=options(1), record=killed)  # continued in version 10
    write(tmp_path / "a" / "version_10", "9,2,60.0,,1.0", options=options(1, ckpt_path="last"))
    write(tmp_path / "a" / "version_2", "9,2,70.0,,1.0", options=options(2))
    assert "| a |  | 2 | 1, 2 | 65.0 ± 7.1 |" in rows(tmp_path)[0]
    for number, seed in enumerate((0, False, False, None, None)):  # seeds that were drawn, and one that is 0
        write(tmp_path / "drawn" / f"version_{number}", "9,2,50.0,,1.0", options=options(0, seed_everything=seed))
    assert "| drawn |  | 5 | 0 | 50.0 ± 0.0 |" in rows(tmp_path)[1]


def test_runs_that_did_not_end_are_left_out_and_named(tmp_path, capsys):
    write(tmp_path / "a" / "version_0", "9,2,60.0,,1.0", options=options(0))
    write(tmp_path / "a" / "version_1", "6,1,20.0,,1.0", options=options(1), record={"finished": False})
    write(tmp_path / "a" / "version_2", "9,2,30.0,,1.0", options=options(2), record={"finished": False})
    write(tmp_path / "a" / "version_3", "6,1,70.0,,1.0", options=options(3), record={})  # something else ended it
    stopped = options(4) | {"trainer": {"max_epochs": 9, "callbacks": [{"class_path": "EarlyStopping"}]}}
    write(tmp_path / "b" / "version_0", "9,2,50.0,,1.0", options=stopped)
    words = tmp_path, "--metrics", '["val/t->v/R@10"]'
    lines = table(*words, capsys=capsys)
    assert "| 2 | 0, 3 | 65.0 ± 7.1 |" in lines[2]
    assert lines[-1] == f"left out, not finished: {tmp_path}/a/version_1, {tmp_path}/a/version_2"
    lines = table(*words, "--unfinished", "true", capsys=capsys)
    assert "| 4 | 0, 1, 2, 3 | 45.0" in lines[2] and lines[-1].startswith("counted though not finished: ")


def stand_in(seed, loss=1.0, **more):
    history = [{"trainer/global_step": 1, "train/loss": 2.0}, {"trainer/global_step": 4, "train/loss": loss}]
    parts = {
        "id": f"id{seed}",
        "config": {"seed_everything": seed, "model": {"loss": {"cluster_weight": 1.0}}, "model.loss.cluster_weight": 2},
        "summary": {"val/t->v/R@10": 60.0 + seed, "_runtime": 1800, "graph": {"_type": "file"}},
        "metadata": {"git": {"commit": "fedcba9876"}, "gpu": "GPU", "gpu_count": 4},
        "state": "finished",
        "scan_history": lambda keys: [row for row in history if keys[0] in row],
    }
    return SimpleNamespace(**parts | more)


class StandInApi:
    """What is used of ``wandb.Api``."""

    found = (stand_in(0), stand_in(2), stand_in(3, state="crashed", metadata=None))

    def __init__(self, timeout):
        pass

    def runs(self, path):
        if path != "someone/mcn":
            raise ValueError(f"Could not find project {path}")
        return iter(self.found)

    def run(self, path):
        return self.found[0]


@pytest.mark.parametrize("form", ["dotted", "nested"])
def test_runs_of_wandb_say_themselves_how_they_ran(monkeypatch, capsys, form):
    import wandb

    told = {name: RECORD[name] for name in ("hardware", "processes", "started", "hours", "memory_gb")}
    told = {"run": told} if form == "nested" else {f"run.{name}": value for name, value in told.items()}
    runs = [
        stand_in(seed, config=stand_in(seed).config | {"run.commit": "0123456789", "run.changed": True},
                 summary=stand_in(seed).summary | told)
        for seed in (0, 1)
    ]  # fmt: skip
    monkeypatch.setattr(wandb, "Api", StandInApi)
    monkeypatch.setattr(StandInApi, "found", runs)
    lines = table("wandb:someone/mcn", "--metrics", '["val/t->v/R@10"]', capsys=capsys)
    assert lines[2:] == ["| mcn |  | 2 | 0, 1 | 60.5 ± 0.7 | 0123456 + changes | 2 x GPU, 2 processes | 1.00 | 3.2 |"]
    (one,) = collect(["wandb:someone/mcn/id0"])
    assert one.last == {"val/t->v/R@10": 60.0} and one.record["started"] == RECORD["started"]


def test_runs_of_a_sweep_of_ablate_make_a_row_a_file(monkeypatch, capsys):
    import wandb

    runs = []
    for file, seed in (("lr", 0), ("lr", 1), ("mms", 0)):
        chosen = {"files": f"[{file}]", "seeds": f"[{seed}]", "trainer.logger.init_args.name": file}
        runs.append(stand_in(seed, id=f"{file}{seed}", config=stand_in(seed).config | chosen))
    monkeypatch.setattr(wandb, "Api", StandInApi)
    monkeypatch.setattr(StandInApi, "found", runs)
    lines = table("wandb:someone/mcn", "--metrics", '["val/t->v/R@10"]', capsys=capsys)
    assert [line.split(" | ")[:4] for line in lines[2:]] == [["| lr", "", "2", "0, 1"], ["| mms", "", "1", "0"]]


def test_runs_of_wandb(monkeypatch, capsys):
    import wandb

    monkeypatch.setattr(wandb, "Api", StandInApi)
    lines = table("wandb:someone/mcn", "--metrics", '["val/t->v/R@10"]', capsys=capsys)
    assert lines[2] == "| mcn |  | 2 | 0, 2 | 61.0 ± 1.4 | fedcba9 | 4 x GPU | 0.50 |  |"
    assert lines[-1] == "left out, not finished: wandb:someone/mcn/id3"
    (one,) = collect(["wandb:someone/mcn/id0"])
    assert one.curve("train/loss") == [(1.0, 2.0), (4.0, 1.0)] and one.options["model"]["loss"]["cluster_weight"] == 2
    with pytest.raises(InputError, match=r"RUN wandb:a/b: .*\(Could not find project a/b\); `wandb login` stores"):
        collect(["wandb:a/b"])

    def no_key(timeout):
        raise wandb.errors.UsageError("No API key configured.\nUse wandb login.")

    monkeypatch.setattr(wandb, "Api", no_key)
    with pytest.raises(InputError, match=r"found none to read \(No API key configured.\)"):
        collect(["wandb:someone/mcn"])


@pytest.mark.parametrize("ending", [".svg", ".png"])
def test_curves_of_loss_and_recall(runs, tmp_path, capsys, ending):
    pytest.importorskip("matplotlib")
    picture = tmp_path / f"curves{ending}"
    table(runs, "--metrics", '["val/nmi", "val/t->v/R@10"]', "--plot", picture, capsys=capsys)
    if ending == ".svg":
        drawn = picture.read_text()
        assert all(f"<!-- {text} -->" in drawn for text in ("none", "sinkhorn", "train/loss", "step"))
    else:
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_curves_need_matplotlib(runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit, match="error: --plot: expected the package matplotlib, found none; pip"):
        main(["results", str(runs), "--metrics", "[val/nmi]", "--plot", "a.svg"])


def test_the_table_of_the_experiments_has_the_form_that_the_command_gives(tmp_path, capsys, monkeypatch):
    text = (EXPERIMENTS.parent / "docs" / "guides" / "sweeps.md").read_text()
    shown = text.split("<!-- results -->")[1].split("<!-- /results -->")[0]
    command = next(line for line in shown.splitlines() if line.startswith("mcn-lightning results "))
    words = shlex.split(command)[1:]
    metrics = yaml.safe_load(words[words.index("--metrics") + 1])
    head = ",".join(["step", "epoch", *metrics])
    for seed in (0, 1):
        for name, weight in (("one", 1.0), ("other", 0.5)):
            write(tmp_path / words[1] / name / f"version_{seed}", "9,2" + ",50.0" * len(metrics),
                  options=options(seed, weight), record={}, head=head)  # fmt: skip
    monkeypatch.chdir(tmp_path)
    made = table(*words[1:], capsys=capsys)
    there = [line for line in shown.splitlines() if line.startswith("|")]
    assert there[:2] == made[:2] and made[0] == "| " + " | ".join(columns(metrics)) + " |"
    assert len(there) > 2
    form = [r".+", r".*", r"\d+", r"[\d, ]*", *([r"([\d.]+( ± [\d.]+)?)?"] * len(metrics)),
            r"(\w{7}( \+ changes)?)?", r".*", r"[\d.]*", r"[\d.]*"]  # fmt: skip
    filled = [*form[:-4], r"\w{7}( \+ changes)?", r".+", r"[\d.]+", r"[\d.]+"]  # those of the page have a record
    for line in there[2:]:
        cells = [cell.strip() for cell in line[1:-1].split("|")]
        assert all(re.fullmatch(*pair) for pair in zip(filled, cells, strict=True)), line
    for line in made[2:]:
        cells = [cell.strip() for cell in line[1:-1].split("|")]
        assert len(cells) == len(form)
        assert all(re.fullmatch(*pair) for pair in zip(form, cells, strict=True)), line
