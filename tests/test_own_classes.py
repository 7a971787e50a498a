"""Classes in a file of one's own: the examples of docs/extending, run as the pages say."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
import yaml
from launch import environment
from modules import NETWORK as SMALL
from modules import make_data, make_trainer
from processes import python
from processes import run as run_processes

from mcn_lightning.clustering import MEAN, ClusteringConfig, Step, make_clustering
from mcn_lightning.commands.main import main
from mcn_lightning.distributed import Presence, rank, row_counts
from mcn_lightning.errors import InputError
from mcn_lightning.losses import ContrastiveConfig, make_contrastive
from mcn_lightning.models import MCN, NetworkConfig
from mcn_lightning.module import MCNModule
from mcn_lightning.training.checks import check_targets

PAGES = Path(__file__).parents[1] / "docs" / "extending"
DOORS = {
    "loss": ("my_loss", "contrastive.bias"),
    "clustering": ("my_clustering", "clustering.prototypes"),
    "network": ("my_audio", "network.audio.network.layers.0.weight"),
}
"""The file that each page names, and a weight or buffer that the class brings."""


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (PAGES / f"{page}.md").read_text(), re.DOTALL)


@pytest.fixture
def importable(tmp_path, monkeypatch):
    """A folder to run in, whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name, _ in DOORS.values():
        sys.modules.pop(name, None)


def write(folder: Path, page: str, tiny: Path) -> list[str]:
    """Write the page's files and options that make a run tiny; return the words of a run."""
    (folder / f"{DOORS[page][0]}.py").write_text(blocks(page, "python")[0])
    (folder / "mine.yaml").write_text(blocks(page, "yaml")[0])
    options = {
        "data": {
            "root": str(tiny), "text": {"dim": 8}, "audio": {"num_frames": 96}, "clips": {"n_pair": 4},
            "streams": [{"suffix": "_2d", "rate": 1.0, "width": 8}, {"suffix": "_3d", "rate": 1.5, "width": 8}],
            "synthetic": None, "batch_size": 3, "eval_batch_size": 2, "num_workers": 0,
        },
        "model": {"network": {"embedding_dim": 16, "audio_widths": [4, 4, 4, 8]},
                  "clustering": {"num_clusters": 4, "queue_rows": 16}, "optimizer": {"schedule": "constant"}},
        "centroids": {"every_n_steps": 1},
        "trainer": {"max_epochs": 2, "limit_val_batches": 0, "enable_progress_bar": False},
    }  # fmt: skip
    (folder / "tiny.yaml").write_text(yaml.safe_dump(options))
    return ["--config", "demo", "--config", "tiny.yaml", "--config", "mine.yaml"]


@pytest.mark.parametrize("page", DOORS)
def test_the_class_of_a_page_trains_resumes_and_is_evaluated(page, tiny, importable, capsys):
    folder, words = importable, write(importable, page, tiny)
    command = shlex.split(blocks(page, "sh")[0].splitlines()[0])
    assert command[:2] == ["lightning", "fit"] and command[2:] == ["--config", "demo", "--config", "mine.yaml"]
    whole = [Path(sys.executable).with_name("lightning"), "fit", *words, "--run_folder", "whole"]
    done = python(*whole, cwd=folder, env=environment(folder))
    assert done.returncode == 0, done.stderr[-2000:]
    last = folder / "whole" / "checkpoints" / "last.ckpt"
    (last,) = folder.glob("whole/**/last.ckpt")
    saved = torch.load(last, weights_only=True)
    assert DOORS[page][1] in saved["state_dict"] and f"class_path: {DOORS[page][0]}." in str(
        saved["hyper_parameters"]
    ).replace("'", "")

    main(["fit", *words, "--run_folder", "part", "--trainer.max_epochs", "1"])
    (first,) = folder.glob("part/**/last.ckpt")
    main(["fit", *words, "--run_folder", "part", "--ckpt_path", str(first)])
    resumed = torch.load(sorted(folder.glob("part/**/last*.ckpt"), key=lambda path: path.stat().st_mtime)[-1],
                         weights_only=True)  # fmt: skip
    assert resumed["global_step"] == saved["global_step"] == 4
    for name, value in saved["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], value), name

    capsys.readouterr()
    main(["validate", *words, "--ckpt_path", str(last), "--trainer.limit_val_batches", "1.0"])
    assert "R@1" in capsys.readouterr().out
    again = MCNModule.load_from_checkpoint(last, weights_only=True)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in saved["state_dict"].items()
               if name in again.state_dict())  # fmt: skip

    (folder / f"{DOORS[page][0]}.py").unlink()
    sys.modules.pop(DOORS[page][0])
    with pytest.raises(
        InputError, match=rf"class_path: expected a subclass .*No module named '{DOORS[page][0]}'"
    ) as no:
        MCNModule.load_from_checkpoint(last, weights_only=True)
    assert "\n" not in str(no.value)


def own_loss(**options):
    """Return the loss of the page; the other processes have no file of it."""
    module = type(sys)("my_loss")
    sys.modules["my_loss"] = module
    exec(blocks("loss", "python")[0], module.__dict__)
    own = {"class_path": "my_loss.SigLIP", "init_args": {"bias": -3.0}}
    return make_contrastive(ContrastiveConfig(**own, temperature=0.2, learn_temperature=True, **options))


def embeddings(rows: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(rows, 5, generator=generator, dtype=torch.float64) for name in ("video", "audio", "text")}


def siglip(x, y, scale, bias):
    """Zhai et al. (2023), algorithm 1, a pair at a time."""
    total = 0.0
    for i in range(len(x)):
        for j in range(len(y)):
            logit = scale * torch.dot(x[i] / x[i].norm(), y[j] / y[j].norm()) + bias
            total = total - torch.log(1 / (1 + torch.exp(-logit if i == j else logit)))
    return total / len(x)


def test_the_loss_of_the_page_equals_the_formula():
    loss, found = own_loss(pairs=["t-v"], text_video_weight=0.5), embeddings()
    x, y = (found[name].clone().requires_grad_() for name in ("text", "video"))
    term = loss({**found, "text": x, "video": y})["text_video"]
    term.backward()
    slow_x, slow_y = (value.detach().clone().requires_grad_() for value in (x, y))
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-3.0, dtype=torch.float64, requires_grad=True)
    expected = 0.5 * siglip(slow_x, slow_y, scale, bias)
    expected.backward()
    torch.testing.assert_close(term, expected, rtol=1e-6, atol=1e-7)  # the bias is float32
    torch.testing.assert_close(x.grad, slow_x.grad, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(y.grad, slow_y.grad, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(loss.bias.grad.double(), bias.grad, rtol=1e-5, atol=1e-7)


def parts_of_the_loss(counts):
    """Return the terms of a process, and the sums over processes of the gradients that it finds."""
    from mcn_lightning.distributed import sum_all

    loss, first = own_loss(), sum(counts[: rank()])
    own = {name: value[first : first + counts[rank()]].requires_grad_() for name, value in embeddings().items()}
    table = torch.ones(len(own["video"]), 3, dtype=torch.bool)
    table[:1, 1] = False  # the first clip of each process has no sound
    from mcn_lightning.distributed import gather_integers

    present = Presence(tuple(own), table, gather_integers(Presence.histogram(table), "cpu"), "cpu")
    terms = loss(own, row_counts(len(table), "cpu"), present=present)
    sum(terms.values()).backward()
    gradients = {name: value.grad for name, value in own.items()}
    return {name: value.detach() for name, value in terms.items()}, gradients, sum_all(loss.bias.grad)


def test_an_untiled_loss_on_two_processes_is_that_of_one():
    two = run_processes(parts_of_the_loss, [2, 4])
    loss, whole = own_loss(), {name: value.requires_grad_() for name, value in embeddings().items()}
    table = torch.ones(6, 3, dtype=torch.bool)
    table[[0, 2], 1] = False
    terms = loss(whole, [6], present=Presence(tuple(whole), table, [Presence.histogram(table)], "cpu"))
    sum(terms.values()).backward()
    for found, _, bias in two:
        torch.testing.assert_close(found, {name: value.detach() for name, value in terms.items()})
        torch.testing.assert_close(bias, loss.bias.grad)
    for name, value in whole.items():
        torch.testing.assert_close(torch.cat([gradients[name] for _, gradients, _ in two]), value.grad)


def own_clustering():
    module = type(sys)("my_clustering")
    sys.modules["my_clustering"] = module
    exec(blocks("clustering", "python")[0], module.__dict__)
    own = {"class_path": "my_clustering.MovingPrototypes", "init_args": {"momentum": 0.5}}
    return make_clustering(ClusteringConfig(**own, num_clusters=3), 5, ("video", "text"))


def push(counts):
    clustering, first = own_clustering(), sum(counts[: rank()])
    rows = embeddings()["video"][first : first + counts[rank()]].float()
    clustering.push({MEAN: rows}, Step(row_counts(len(rows), "cpu")))
    return clustering.prototypes


def test_the_clustering_of_the_page_moves_prototypes_alike_on_all_processes():
    before, rows = own_clustering().prototypes, embeddings()["video"].float()
    (alone,) = run_processes(push, [6], world=1)
    for prototypes in run_processes(push, [2, 4]):
        torch.testing.assert_close(prototypes, alone)
    unit = rows / rows.norm(dim=1, keepdim=True)
    nearest = [max(range(3), key=lambda k: float(row @ before[k])) for row in unit]
    for k in range(3):
        members = [row for row, label in zip(unit, nearest, strict=True) if label == k]
        moved = before[k]
        if members:
            mean = torch.stack(members).sum(dim=0)
            moved = 0.5 * before[k] + 0.5 * mean / mean.norm()
            moved = moved / moved.norm()
        torch.testing.assert_close(alone[k], moved)


def test_the_network_of_the_page_gives_its_width_and_steps(importable):
    (importable / "my_audio.py").write_text(blocks("network", "python")[0])
    sys.path.append(str(importable))
    own = {"class_path": "my_audio.SmallCNN", "init_args": {"width": 12}}
    config = NetworkConfig(embedding_dim=8, video_dim=4, text_dim=3, reconstruction_hidden=5)
    network = MCN(MCNModule(vars(config) | {"audio_network": own}, clustering={"kind": "none"}).network_config).eval()
    assert network.audio.network(torch.zeros(2, 40, 97)).shape == (2, 12, 25)
    output = network(audio=torch.randn(3, 40, 97), audio_frames=torch.tensor([97, 8, 1]))
    assert output.audio.shape == (3, 8) and output.targets["audio"].shape == output.reconstructions["audio"].shape == (
        3,
        12,
    )
    assert network.empty_output(torch.device("cpu")).targets["audio"].shape == (0, 12)


REFUSED = {
    "no module": ("--model.loss.contrastive.class_path no_such.Loss", "No module named 'no_such'"),
    "no class": ("--model.loss.contrastive my_loss.Other", "has no attribute 'Other'"),
    "of another kind": ("--model.clustering my_loss.SigLIP", "expected a subclass of mcn_lightning.clustering"),
    "misspelt argument": (
        "--model.loss.contrastive my_loss.SigLIP --model.loss.contrastive.init_args.bais 1",
        "init_args.bais: expected an argument of SigLIP (bias), found no such one; did you mean bias?",
    ),
    "wrong value": ("--model.loss.contrastive my_loss.SigLIP --model.loss.contrastive.init_args.bias x", "a number"),
    "kind and class": (
        "--model.loss.contrastive my_loss.SigLIP --model.loss.contrastive.kind info_nce", "kind: expected no class_path"
    ),
    "arguments alone": ("--model.clustering.init_args.momentum 1", "expected class_path beside it"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "part"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_with_a_class_is_one_line(words, part, tiny, importable):
    options = write(importable, "loss", tiny)[:4]
    with pytest.raises(SystemExit) as stop:
        main(["fit", *options, *words.split()])
    line = str(stop.value.code)
    assert line.startswith("error: --model.") and part in line and "\n" not in line


@pytest.fixture
def own(monkeypatch):
    """Make classes of one's own from their text, importable as ``mine.NAME``."""

    def make(text: str) -> None:
        module = type(sys)("mine")
        head = "import torch\nfrom torch import nn\nfrom mcn_lightning.clustering import *\nfrom mcn_lightning.losses "
        head += "import *\nfrom mcn_lightning.models import *\nfrom mcn_lightning.clustering import MEAN, Target\n"
        exec(head + text, module.__dict__)
        monkeypatch.setitem(sys.modules, "mine", module)

    return make


NETWORK = """
class Net(AudioNetwork):
    width, stride = 6, {stride}
    def __init__(self, bands):
        super().__init__(bands)
        self.layers = nn.Sequential(nn.Conv1d(bands, 6, 3, 4, 1), nn.BatchNorm1d(6), nn.Dropout(0.5))
        {more}
    def forward(self, spectrogram):
        return self.layers(spectrogram)
"""
SHAPE = r"mine\.Net: expected features \(2, 6, {}\) of a spectrogram \(2, 40, 997\), .* found \(2, 6, 250\)"


def network(**options):
    sizes = {"embedding_dim": 8, "video_dim": 4, "text_dim": 3, "reconstruction_hidden": 5}
    given = sizes | {"audio_network": {"class_path": "mine.Net"}} | options
    return MCNModule(given, clustering={"kind": "none"}).network


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (NETWORK.format(stride=8, more=""), SHAPE.format(125)),
        (NETWORK.format(stride=4, more="self.width = 5"), SHAPE.format(250).replace("6", "5", 1)),
        (NETWORK.format(stride=4, more="self.width = None"), r"mine\.Net: expected a whole number .* as its width"),
        (NETWORK.format(stride=0, more=""), r"mine\.Net: expected a whole number of at least 1 as its stride, found 0"),
        ("class Net(AudioNetwork):\n    width = 6", "expected Net to have the method forward, found none; write it"),
        (
            "class Net(AudioNetwork):\n    def __init__(self): ...\n    def forward(self, x): ...",
            r"expected Net\.__init__\(self, bands, \.\.\.\), found Net\(\) \(too many positional arguments\)",
        ),
        (
            "class Net(AudioNetwork):\n    def __init__(self, width=64): ...\n    def forward(self, x): ...",
            r"expected Net\.__init__\(self, bands, \.\.\.\), found Net\(width=64\) \(width would get the bands\)",
        ),
    ],
)
def test_a_network_gives_the_width_and_steps_that_it_says(own, text, found):
    own(text)
    with pytest.raises(InputError, match=rf"^--model\.network\.audio_network: {found}") as error:
        network()
    assert "\n" not in str(error.value)


def test_the_trial_of_a_network_changes_neither_random_numbers_nor_state(own, monkeypatch):
    own(NETWORK.format(stride=4, more=""))
    torch.manual_seed(3)
    tried, after = network(), torch.rand(3)
    assert tried.audio.network.layers[1].num_batches_tracked == 0
    assert all(layer.training for layer in tried.audio.modules())
    monkeypatch.setattr("mcn_lightning.models.branches.check_features", lambda *args: None)
    torch.manual_seed(3)
    untried = network()
    assert torch.equal(after, torch.rand(3))
    for name, value in untried.state_dict().items():
        assert torch.equal(value, tried.state_dict()[name]), name


@pytest.mark.parametrize(
    ("kind", "text", "found"),
    [
        ("loss", "class Own(ContrastiveLoss): ...", "Own to have the method of_similarity or of_pair, found none"),
        ("clustering", "class Own(Clustering): ...", "Own to have the methods assignments and targets, found none"),
        (
            "clustering",
            "class Own(Clustering):\n    def targets(self): ...\n    def assignments(self): ...\n"
            "    def __init__(self, config): ...",
            r"Own\.__init__\(self, config, dim, names, \.\.\.\), found Own\(config\) \(too many positional",
        ),
        (
            "loss",
            "class Own(ContrastiveLoss):\n    def of_pair(self): ...\n    def __init__(self): ...",
            r"Own\.__init__\(self, config, \.\.\.\), found Own\(\)",
        ),
    ],
)
def test_a_class_that_lacks_a_method_or_its_first_arguments_is_one_line(own, kind, text, found):
    own(text)
    with pytest.raises(InputError, match=rf"^--model\.\S+: expected {found}") as error:
        if kind == "loss":
            make_contrastive(ContrastiveConfig(class_path="mine.Own"))
        else:
            make_clustering(ClusteringConfig(class_path="mine.Own"), 5, ("video", "text"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("value", "found"),
    [("similarity.diagonal()", r"shape \(6,\)"), ("similarity.mean()[None]", r"shape \(1,\)"), ("0.5", "float")],
)
def test_a_loss_that_is_no_scalar_is_one_line(own, value, found):
    own(f"class Own(ContrastiveLoss):\n    def of_similarity(self, similarity):\n        return {value}")
    loss = make_contrastive(ContrastiveConfig(class_path="mine.Own"))
    with pytest.raises(InputError, match=rf"^--model\.loss\.contrastive: expected a scalar from Own, found {found}"):
        loss(embeddings())


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("Target(torch.ones(3, 5), torch.zeros(6, dtype=int))", None),
        ("Target(torch.ones(3, 5), torch.ones(6, 3))", None),
        ("Target(torch.ones(3, 4), torch.zeros(6, dtype=int))", r"prototypes \(K, 5\), found \(3, 4\)"),
        ("Target(torch.ones(3, 5), torch.zeros(7, dtype=int))", r"codes \(6,\) or \(6, 3\), found \(7,\)"),
        ("Target(torch.ones(3, 5), torch.ones(6, 2))", r"codes \(6,\) or \(6, 3\), found \(6, 2\)"),
        ("torch.ones(3)", "a Target for some of video, audio, text, found a Tensor"),
    ],
)
def test_a_target_of_another_shape_is_one_line(own, target, found):
    own(
        "class Own(Clustering):\n    def assignments(self, features, present=None): ...\n"
        f"    def targets(self, features, step):\n        return {{'video': {target}}}"
    )
    features = {name: rows.float() for name, rows in embeddings().items()}
    targets = make_clustering(ClusteringConfig(class_path="mine.Own"), 5, ("video", "text")).targets(features, Step())
    if found is None:
        check_targets(targets, features, "mine.Own")
        return
    with pytest.raises(InputError, match=rf"^--model\.clustering: mine\.Own\.targets: video: expected {found}"):
        check_targets(targets, features, "mine.Own")


def test_a_training_step_checks_the_targets(own, tiny, tmp_path):
    own(
        "class Own(Clustering):\n    def assignments(self, features, present=None): ...\n"
        "    def targets(self, features, step):\n"
        "        return {'video': Target(torch.ones(3, 15), torch.zeros(len(features['video']), dtype=int))}"
    )
    module = MCNModule(SMALL, clustering={"class_path": "mine.Own"})
    with pytest.raises(InputError, match=r"mine\.Own\.targets: video: expected prototypes \(K, 16\), found \(3, 15\)"):
        make_trainer(tmp_path, max_steps=1).fit(module, make_data(tiny))
