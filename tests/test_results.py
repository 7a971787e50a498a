"""The table of results from logged runs."""

from __future__ import annotations

import pytest
import yaml

from mcn_lightning.cli import main
from mcn_lightning.data.batch import InputError
from mcn_lightning.results import last_values, results_table


def write(folder, *rows):
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("\n".join(["step,val/t->v/R@10,val/nmi,train/loss", *rows]) + "\n")


@pytest.fixture
def runs(tmp_path):
    write(tmp_path / "none" / "version_0", "1,,,3.0", "2,50.0,0.5,", "3,,,2.0", "4,60.0,0.7,")
    write(tmp_path / "none" / "version_1", "4,62.0,0.8,")
    write(tmp_path / "sinkhorn" / "version_0", "4,70.0,,1.0")
    return tmp_path


def test_a_row_a_recipe_with_mean_and_spread(runs, capsys):
    main(["table", "--runs", f'["{runs}"]', "--metrics", '["val/t->v/R@10", "val/nmi"]'])
    assert capsys.readouterr().out.splitlines() == [
        "| run | runs | val/t->v/R@10 | val/nmi |",
        "|---|---|---|---|",
        "| none | 2 | 61.0 ± 1.4 | 0.750 ± 0.071 |",
        "| sinkhorn | 1 | 70.0 |  |",
    ]
    assert last_values(runs / "none" / "version_0" / "metrics.csv")["train/loss"] == 2.0
    assert "| none | 2 | 61.0" in results_table([str(runs / "none")], ["val/t->v/R@10"])


def test_what_is_not_there_is_named(runs, tmp_path):
    with pytest.raises(InputError, match=r"--metrics: expected some of val/nmi, val/t->v/R@10, found val/R@3"):
        results_table([str(runs)], ["val/R@3"])
    with pytest.raises(InputError, match=r"--runs: .* found no version_\*/metrics.csv"):
        results_table([str(tmp_path / "none" / "version_0")], ["val/nmi"])
    (runs / "none" / "version_1" / "metrics.csv").write_text("step,val/nmi\n1,high\n")
    with pytest.raises(InputError, match="expected the metrics of a run"):
        results_table([str(runs)], ["val/nmi"])


def test_a_run_that_was_continued_counts_once(tmp_path):
    def version(number, seed, *rows, name="a", **more):
        write(tmp_path / name / f"version_{number}", *rows)
        options = {"seed_everything": seed, "trainer": {"max_epochs": 3}, **more}
        (tmp_path / name / f"version_{number}" / "config.yaml").write_text(yaml.safe_dump(options))

    version(0, 1, "5,40.0,,1.0")  # killed, and continued in version 10
    version(10, 1, "9,60.0,,1.0", ckpt_path="last")
    version(2, 2, "9,70.0,,1.0")
    assert results_table([str(tmp_path)], ["val/t->v/R@10"]).splitlines()[2:] == ["| a | 2 | 65.0 ± 7.1 |"]
    for number, seed in enumerate((0, False, False, None, None)):  # seeds that were drawn, and one that is 0
        version(number, seed, "9,50.0,,1.0", name="drawn")
    version(5, 0, "9,50.0,,1.0", name="drawn", data={"batch_size": 2})  # another run
    table = results_table([str(tmp_path)], ["val/t->v/R@10"]).splitlines()
    assert table[3] == "| drawn | 6 | 50.0 ± 0.0 |"
    metrics = tmp_path / "a" / "version_2" / "metrics.csv"
    metrics.write_text("step,epoch,val/t->v/R@10\n9,1,70.0\n")
    table = results_table([str(tmp_path)], ["val/t->v/R@10"]).splitlines()
    assert table[-1] == f"logged less than trainer.max_epochs: {metrics.parent}"
    (metrics.parent / "config.yaml").write_text("a: [")
    with pytest.raises(InputError, match="expected the options of a run"):
        results_table([str(tmp_path)], ["val/t->v/R@10"])
