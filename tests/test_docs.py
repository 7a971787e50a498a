"""The pages: the site builds without a network, its commands and names exist, and its sentences are short."""

from __future__ import annotations

import importlib
import re
import runpy
import shlex
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from launch import run
from processes import python

import mcn_lightning as mcn
from mcn_lightning.commands.recipes import find_recipe

TOP = Path(__file__).parents[1]
DOCS = TOP / "docs"
PAGES = [
    TOP / "README.md",
    TOP / "CONTRIBUTING.md",
    *sorted(TOP.glob("benchmarks/*.md")),
    *sorted(TOP.glob("experiments/**/*.md")),
    *sorted(DOCS.rglob("*.md")),
]
LONGEST, USUAL = 35, 16
"""Words of a sentence: at most, and on average."""
BUILD = """
import socket, sys

def refuse(*args, **kwargs):
    raise OSError("no network here")

socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
from mkdocs.__main__ import cli
cli(["build", "--strict", "--site-dir", sys.argv[1]])  # --quiet would not count warnings
"""


def sentences(text: str) -> list[str]:
    """Return the sentences of a page without its code, tables and headings."""
    text = re.sub(r"^ *```.*?^ *```|<!--.*?-->", "\n", text, flags=re.M | re.S)
    blocks = [""]
    for line in map(str.strip, text.splitlines()):
        item = re.match(r"(?:[*+-]|\d+\.)\s+", line)
        if not line or item or line.startswith(("#", "|", ":::", "options:", "<", "!")):
            blocks.append("")
        if not line.startswith(("#", "|", ":::", "options:", "<", "!")):
            blocks[-1] += " " + line.removeprefix(item[0] if item else "")
    plain = (re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", block) for block in blocks)
    parts = (part for block in plain for part in re.split(r"(?<=[.!?])[\"')`*]*\s+(?=[\"'(`*]*[A-Z0-9`])", block))
    return [part.strip() for part in parts if re.search(r"\w", part)]


def length(sentence: str) -> int:
    return sum(bool(re.search(r"\w", word)) for word in sentence.split())


def test_sentences_are_counted_as_a_reader_counts_them():
    page = "# Head\n\nOne two three. Four `a.b` five!\n\n| a | b |\n\n- six seven\n- eight\n\n```sh\nNot this.\n```\n"
    assert [length(each) for each in sentences(page)] == [3, 3, 2, 1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_no_sentence_is_long(page):
    long = [each for each in sentences(page.read_text()) if length(each) > LONGEST]
    assert not long, long


def test_sentences_are_short_on_average():
    lengths = [length(each) for page in PAGES for each in sentences(page.read_text())]
    assert len(lengths) > 500 and sum(lengths) / len(lengths) <= USUAL


def test_the_readme_is_short():
    assert len((TOP / "README.md").read_text().splitlines()) <= 150


class Fetched(HTMLParser):
    """What a browser fetches for a page: all but the links that a reader may follow."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        given = dict(attrs)
        if tag == "link" and given.get("rel") != "canonical":
            self.found.append(given.get("href") or "")
        self.found += [given.get(name) or "" for name in ("src", "srcset", "poster", "data")]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built as CI builds it, in a process that can reach no other machine."""
    folder = tmp_path_factory.mktemp("site")
    done = python("-c", BUILD, folder, cwd=TOP)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_the_site_asks_no_other_server(site):
    pages = [*site.rglob("*.html")]
    assert len(pages) > 25
    for page in pages:
        parser = Fetched()
        parser.feed(page.read_text())
        assert not [each for each in parser.found if re.match(r"(?:https?:)?//", each)], page
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", style.read_text()), style


@pytest.mark.slow
def test_the_reference_has_every_option_and_every_command(site):
    options = (site / "reference" / "options" / "index.html").read_text()
    for name in ("--model.network.embedding_dim", "--data.streams", "--trainer.max_epochs", "--ckpt_path", "--config"):
        assert f"<code>{name}</code>" in options
    commands = (site / "reference" / "commands" / "index.html").read_text()
    for name in ("--split", "--pack.output", "--seeds", "--metrics", "--shards", "--weights"):
        assert f"<code>{name}</code>" in commands
    assert "==SUPPRESS==" not in options + commands and "0x" not in options + commands


@pytest.mark.slow
def test_the_reference_lists_what_is_public(site):
    page = (DOCS / "reference" / "python.md").read_text()
    listed = re.findall(r"^::: mcn_lightning\.(\w+)$", page, re.M)
    assert sorted(listed) == sorted(mcn.__all__)
    written = (site / "reference" / "python" / "index.html").read_text()
    assert all(f'id="mcn_lightning.{name}"' in written for name in mcn.__all__)


def test_the_reference_lists_what_the_pages_import():
    imported: dict[str, set[str]] = {}
    for page in (*DOCS.glob("extending/*.md"), DOCS / "guides" / "python.md"):
        text = page.read_text()
        found = re.findall(r"^from (mcn_lightning\.[\w.]+) import (.+)$", text, re.M)
        found += [(module, name) for name, module in re.findall(r"`[^`]*?(\w+)(?:\(\)\])?` \(from `([\w.]+)`\)", text)]
        for module, names in found:
            imported.setdefault(module, set()).update(names.split(", "))
    text = (DOCS / "reference" / "python.md").read_text()
    rows = re.findall(r"^\| `(mcn_lightning[\w.]*)` \| (.*) \|$", text, re.M)
    assert {module: set(re.findall(r"`(\w+)`", names)) for module, names in rows} == imported
    assert len(imported) > 5 and "Progress" in imported["mcn_lightning.callbacks"]
    for module, names in imported.items():
        assert all(hasattr(importlib.import_module(module), name) for name in names), module


def test_every_page_is_in_the_navigation():
    text = (TOP / "mkdocs.yml").read_text()
    generated = {"reference/options.md", "reference/commands.md"}
    there = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert set(re.findall(r"[\w/]+\.md\b", text[text.index("\nnav:") :])) == there | generated


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_links_between_files_lead_somewhere(page):
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", page.read_text())]
    generated = {DOCS / "reference" / name for name in ("options.md", "commands.md")}
    files = [(page.parent / target).resolve() for target in targets if target and "://" not in target]
    assert not [file for file in files if not file.exists() and file not in generated]


@cache
def known_options() -> set[str]:
    """Return the names of all options of all commands, without dashes."""
    from mcn_lightning.commands.main import COMMANDS

    options = runpy.run_path(str(DOCS / "_hooks" / "options.py"))  # by its path: tests has an `options` of its own
    parser_of, groups_of, name_of = options["parser_of"], options["groups_of"], options["name_of"]
    groups = [actions for name in COMMANDS for _, actions in groups_of(parser_of(name))]
    return {name_of(action).lstrip("-") for actions in groups for action in actions} | {"help", "print_config"}


def exists(option: str) -> bool:
    """Tell whether an option, a group of options, or an option of a class that an option takes, is there."""
    known, option = known_options(), option.strip("+*.")
    parts = option.split(".")
    above = {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
    takes_class = {
        "trainer.logger",
        "trainer.callbacks",
        "trainer.plugins",
        "trainer.strategy",
        "data.streams",
        "data.source",
    }
    return bool(above & takes_class) or option in known or any(each.startswith(option + ".") for each in known)


def test_options_are_told_from_what_is_none():
    assert exists("model.loss.cluster_weight") and exists("data") and exists("trainer.callbacks.decay")
    assert not exists("model.loss.clutser_weight") and not exists("data.widht")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_options_and_recipes_of_the_pages_exist(page, monkeypatch):
    monkeypatch.chdir(TOP)
    output = re.compile(r"^(```\S*)[^\n]*\n(.*?)^```$", re.M | re.S)  # it may show an option that is refused
    text = output.sub(lambda block: "" if block[1] == "```" else block[2], page.read_text())
    groups = "data|model|centroids|retrieval|embeddings|checkpoint|resume|report|progress|trainer|pack"
    dotted = re.findall(rf"(?<!\w)--((?:{groups}|synthetic)\.[\w.]+)", text)
    quoted = re.findall(rf"`((?:{groups})\.(?!py\b|md\b|yaml\b|safetensors\b)[\w.]+)`", text)
    assert not [each for each in dotted if each != "trainer.NAME" and not exists(each)]
    if page.parent.name != "extending":  # where `data` is an argument of a method
        assert not [each for each in quoted if each != "data.predict_split" and not exists(each)]
    recipes = re.findall(r"--(?:config|base)[ =]([\w/.-]+)", text)
    for name in recipes:
        outside = name.startswith(("runs/", "RUN/", "data/", "mine", "..."))
        if not outside and f"`{name}`" not in text:  # the page has the file itself
            find_recipe(name)


@pytest.mark.slow
def test_a_sentence_finds_clips_as_the_pages_say(tmp_path, monkeypatch, capsys):
    quickstart, guide = (
        re.search(rf"^<!-- {name} -->\n```python.*?\n(.*?)^```", (DOCS / page).read_text(), re.M | re.S)[1]
        for name, page in (("search", "quickstart.md"), ("rank", "guides/search.md"))
    )
    monkeypatch.chdir(tmp_path)
    small = ["--data.synthetic.videos", 16, "--data.synthetic.held_out", 2, "--data.num_workers", 0]
    run("fit", "--config", "demo", *small, "--trainer.max_epochs", 1, "--model.clustering.queue_rows", 64)
    folder = Path("runs/demo/version_0")
    run("predict", "--config", folder / "config.yaml", "--ckpt_path", folder / "checkpoints" / "last.ckpt")
    capsys.readouterr()
    exec(guide, names := {})
    lines = capsys.readouterr().out.splitlines()
    scores = [float(line.split()[0]) for line in lines]
    assert len(lines) == 5 and scores == sorted(scores, reverse=True)
    assert all("synthetic_000" in line for line in lines) and names["best"].rows.shape == (1, 5)
    shown = {
        page.name: re.findall(r"^lightning ((?:index|search) .*)$", page.read_text(), re.M)
        for page in (TOP / "README.md", DOCS / "quickstart.md")
    }
    index, search = shown["quickstart.md"]
    assert shown["README.md"] == [index, search.replace("--k 5", "--k 3")]
    run(*shlex.split(index))
    capsys.readouterr()
    run(*shlex.split(search))
    table = capsys.readouterr().out.splitlines()
    exec(quickstart, {})
    frame = capsys.readouterr().out.splitlines()
    assert len(table) == 6 and [line.split()[1] for line in table[1:]] == [line.split()[1] for line in frame[1:]]


def test_the_architecture_names_every_package():
    text = (DOCS / "architecture.md").read_text()
    table = text[text.index("| package |") : text.index("## Who imports whom")]
    named = {name for row in re.findall(r"^\| (`.*?) \|", table, re.M) for name in re.findall(r"`(\w+)`", row)}
    there = {path.stem for path in (TOP / "src" / "mcn_lightning").iterdir() if path.suffix in ("", ".py")}
    assert named == {name for name in there if not name.startswith("_")}


def test_the_citation_and_the_hooks_are_whole():
    cited = yaml.safe_load((TOP / "CITATION.cff").read_text())
    assert cited["version"] == mcn.__version__ and len(cited["preferred-citation"]["authors"]) == 13
    hooks = yaml.safe_load((TOP / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    steps = yaml.safe_load((TOP / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["run"]["steps"]
    assert steps[-1] == {"run": ".ci/run"} and "mkdocs build --strict" in (TOP / ".ci" / "run").read_text()
