"""The entry of the command line: it finds the subcommand, and imports only what this subcommand needs."""

from __future__ import annotations

import difflib
import errno
import gc
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from mcn_lightning import __version__
from mcn_lightning.errors import InputError, os_reason
from mcn_lightning.signals import is_first

# full disk, no quota, read-only, no rights, or a file that is too large
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)
SILENT = ("-h", "--help", "--version", "--print_config")
"""Arguments whose output must not be mixed with other lines."""


class Command(NamedTuple):
    """A subcommand.

    Args:
        summary: one line for the overview.
        run: called with the command's name and its arguments.
    """

    summary: str
    run: Callable[[str, Sequence[str]], None]


def _with_trainer(name: str, args: Sequence[str]) -> None:
    args = _read_configs(args)
    from mcn_lightning.commands.fit import run

    run([name, *args])


def _read_configs(args: Sequence[str]) -> list[str]:
    """Say that the command has begun, and import what takes seconds."""
    from mcn_lightning.commands.configs import resolve_configs

    if not any(arg in SILENT or arg.startswith("--print_config=") for arg in args) and is_first():
        print(f"mcn-lightning {__version__}: reading configs", file=sys.stderr, flush=True)
    found = resolve_configs(args)
    _find_own_classes()
    _import_quietly()
    return found


def _find_own_classes() -> None:
    """Let ``class_path`` name a class in a file of the working folder."""
    # `python -m` has the folder in sys.path already, an installed script has not
    if not {"", os.getcwd()} & set(sys.path):
        # last: a file there must not hide an installed package
        sys.path.append(os.getcwd())


def _import_quietly() -> None:
    """Import torch and Lightning with the garbage collector off, which saves a tenth of the seconds that it takes."""
    if "mcn_lightning.commands.fit" in sys.modules:
        return  # gc.freeze below would also keep objects of a Python caller that may become garbage
    gc.disable()  # imports leave no garbage
    try:
        import mcn_lightning.commands.fit  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()


def _results(name: str, args: Sequence[str]) -> None:
    from mcn_lightning.commands.experiments import results

    results(args)


def _ablate(name: str, args: Sequence[str]) -> None:
    from mcn_lightning.commands.experiments import ablate

    ablate(args, resolve_options=_fit_options)


def _fit_options(args: Sequence[str]) -> Mapping[str, object]:
    from mcn_lightning.commands.configs import resolve_configs
    from mcn_lightning.commands.fit import fit_options

    return fit_options(resolve_configs(args))


def _synthetic(name: str, args: Sequence[str]) -> None:
    from mcn_lightning.commands.data import write_generated

    try:
        _call(write_generated, name, args)
    except InputError as error:  # the same options are called --data.synthetic in a run
        raise InputError(str(error).replace("--data.synthetic", "--synthetic")) from error


def _extract(name: str, args: Sequence[str]) -> None:
    from mcn_lightning.commands.extract import run_extract

    _find_own_classes()
    run_extract(args)


def _index(name: str, args: Sequence[str]) -> None:
    args = _read_configs(args)
    from mcn_lightning.commands.search.index import run_index

    run_index(args)


def _search(name: str, args: Sequence[str]) -> None:
    from mcn_lightning.commands.search.search import run_search

    _find_own_classes()
    run_search(args)


def _plot(name: str, args: Sequence[str]) -> None:
    from mcn_lightning.commands.search.plot import run_plot

    run_plot(args)


def _app(name: str, args: Sequence[str]) -> None:
    from mcn_lightning.commands.search.app import run_app

    run_app(args)


def _export(name: str, args: Sequence[str]) -> None:
    from mcn_lightning.commands.export.run import run_export

    _find_own_classes()
    run_export(args)


def _verify(name: str, args: Sequence[str]) -> None:
    from mcn_lightning.commands.data import verify_shards

    _call(verify_shards, name, args)


def _convert(name: str, args: Sequence[str]) -> None:
    from mcn_lightning.commands.convert import convert_weights

    _call(convert_weights, name, args)


def _recipes(name: str, args: Sequence[str]) -> None:
    from mcn_lightning.commands.recipes import print_recipes

    if args and not args[0].startswith("-"):  # `lightning recipes demo` is short for --name demo
        args = ["--name", *args]
    _call(print_recipes, name, args)


def _call(function: Callable[..., None], name: str, args: Sequence[str]) -> None:
    """Call a function with its parameters as options."""
    from jsonargparse import auto_cli

    from mcn_lightning.commands.configs import resolve_configs
    from mcn_lightning.commands.parsers import CommandParser

    auto_cli(
        function, args=resolve_configs(args), prog=f"lightning {name}", as_positional=False, parser_class=CommandParser
    )


COMMANDS = {
    "fit": Command("train a model", _with_trainer),
    "validate": Command("evaluate a checkpoint on the validation videos", _with_trainer),
    "test": Command("evaluate a checkpoint on the test videos and the benchmarks", _with_trainer),
    "predict": Command("write the embeddings of a dataset", _with_trainer),
    "check": Command("read a dataset once, and report its contents and what is skipped", _with_trainer),
    "prepare": Command("pack a dataset into shards, once, to train from", _with_trainer),
    "extract": Command("make a dataset of a folder of videos", _extract),
    "index": Command("embed every clip of a dataset, and make an index to search", _index),
    "search": Command("find clips by words, sound, picture or another clip; label them", _search),
    "plot": Command("plot an index: map, clusters, recall, one video", _plot),
    "app": Command("show an index in the browser: search, map and clusters", _app),
    "export": Command("write a trained model for others to load", _export),
    "verify": Command("check every byte of the shards", _verify),
    "synthetic": Command("write generated videos with known topics", _synthetic),
    "results": Command("print a table of the metrics of runs, and plot their curves", _results),
    "ablate": Command("run a folder of ablation files over seeds", _ablate),
    "recipes": Command("list the recipes that --config takes by name, or print one", _recipes),
    "convert": Command("write weights of the authors' releases as a checkpoint", _convert),
}
"""The commands, in the order of the overview."""


def overview() -> str:
    """Return the list of all commands, one line each."""
    lines = [f"  {name:<11}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(["commands:", *lines, "", "`lightning COMMAND --help` prints the options of a command."])


def main(args: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        args: arguments after the program's name; those of the process when ``None``.
    """
    args = list(sys.argv[1:] if args is None else args)
    try:
        _dispatch(args)
    except InputError as error:
        sys.exit("error: " + " ".join(str(error).split()))
    except BrokenPipeError:  # `| head` has closed the pipe; Python would raise again when it flushes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        where = error.filename or "a file of the run"
        advice = "free space or give another folder" + (
            ", and go on with --ckpt_path last" if args[:1] == ["fit"] else ""
        )
        sys.exit(f"error: {where}: expected to write it, found {os_reason(error)}; {advice}")


def _dispatch(args: Sequence[str]) -> None:
    name, *rest = args or [""]
    if name in ("-h", "--help"):
        print("usage: lightning COMMAND [options]\n")
        print("Train, evaluate and extend Multimodal Clustering Networks (MCN).\n")
        print(overview())
    elif name == "--version":
        print(f"mcn-lightning {__version__}")
    elif name in COMMANDS:
        COMMANDS[name].run(name, rest)
    elif name.startswith("-"):  # Lightning's options before its subcommands
        _with_trainer(name, rest)
    else:
        found = f"found {name}" if name else "found none"
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        advice = f"; did you mean {near[0]}?" if near else ""
        sys.exit(f"error: expected a command, {found}{advice}\n\n{overview()}")
