"""The command's words: which command they name, and what it needs to be loaded; nothing else is imported for it."""

from __future__ import annotations

import difflib
import errno
import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mcn_lightning import __version__
from mcn_lightning.errors import InputError, reason_of
from mcn_lightning.signals import is_first

CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)
SILENT = ("-h", "--help", "--version", "--print_config")
"""Words whose answer is the whole output."""


class Command(NamedTuple):
    """One command.

    Args:
        summary: what it does, in one line.
        run: called with the command's name and the words after it.
    """

    summary: str
    run: Callable[[str, Sequence[str]], None]


def _with_trainer(name: str, words: Sequence[str]) -> None:
    from mcn_lightning.commands.configs import config_words

    if not any(word in SILENT or word.startswith("--print_config=") for word in words) and is_first():
        print(f"mcn-lightning {__version__}: reading configs", file=sys.stderr, flush=True)
    words = config_words(words)
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())  # a class of one's own is in a file here, named by class_path
    _import_quietly()
    from mcn_lightning.commands.fit import run

    run([name, *words])


def _import_quietly() -> None:
    """Import torch and Lightning, which takes seconds, without a search for garbage, of which there is none."""
    if "mcn_lightning.commands.fit" in sys.modules:
        return  # what a caller holds by now may well be garbage later
    gc.disable()  # saves a tenth of the time
    try:
        import mcn_lightning.commands.fit  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()


def _results(name: str, words: Sequence[str]) -> None:
    from mcn_lightning.commands.experiments import results

    results(words)


def _ablate(name: str, words: Sequence[str]) -> None:
    from mcn_lightning.commands.experiments import ablate

    ablate(words, options_of=_fit_options)


def _fit_options(words: Sequence[str]) -> dict[str, object]:
    from mcn_lightning.commands.configs import config_words
    from mcn_lightning.commands.fit import fit_options

    return fit_options(config_words(words))


def _synthetic(name: str, words: Sequence[str]) -> None:
    from mcn_lightning.commands.data import write_generated

    try:
        _call(write_generated, name, words)
    except InputError as error:  # the options of a run have a longer name there
        raise InputError(str(error).replace("--data.synthetic", "--synthetic")) from error


def _verify(name: str, words: Sequence[str]) -> None:
    from mcn_lightning.commands.data import verify_shards

    _call(verify_shards, name, words)


def _convert(name: str, words: Sequence[str]) -> None:
    from mcn_lightning.commands.convert import convert_weights

    _call(convert_weights, name, words)


def _recipes(name: str, words: Sequence[str]) -> None:
    from mcn_lightning.commands.recipes import print_recipes

    if words and not words[0].startswith("-"):  # the name may stand alone
        words = ["--name", *words]
    _call(print_recipes, name, words)


def _call(function: Callable[..., None], name: str, words: Sequence[str]) -> None:
    """Call a function with its parameters as options."""
    from jsonargparse import auto_cli

    from mcn_lightning.commands.configs import config_words
    from mcn_lightning.commands.parsers import CommandParser

    auto_cli(
        function, args=config_words(words), prog=f"lightning {name}", as_positional=False, parser_class=CommandParser
    )


COMMANDS = {
    "fit": Command("train a model", _with_trainer),
    "validate": Command("evaluate a checkpoint on the validation videos", _with_trainer),
    "test": Command("evaluate a checkpoint on the test videos and the benchmarks", _with_trainer),
    "predict": Command("write the embeddings of a data set", _with_trainer),
    "check": Command("read a data set once; say what is there and what is skipped", _with_trainer),
    "prepare": Command("pack a data set into shards, once, to train from", _with_trainer),
    "verify": Command("check every byte of the shards", _verify),
    "synthetic": Command("write generated videos with known topics", _synthetic),
    "results": Command("print a table, and plot curves, of what runs reached", _results),
    "ablate": Command("run a folder of ablation files over seeds", _ablate),
    "recipes": Command("list the recipes that --config takes by name, or print one", _recipes),
    "convert": Command("write weights of the authors' releases as a checkpoint", _convert),
}
"""The commands, in the order in which they are listed."""


def overview() -> str:
    """Return all commands with one line each."""
    lines = [f"  {name:<11}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(["commands:", *lines, "", "`lightning COMMAND --help` prints the options of a command."])


def main(args: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        args: words after the program's name; those of the process when ``None``.
    """
    words = list(sys.argv[1:] if args is None else args)
    try:
        _dispatch(words)
    except InputError as error:
        sys.exit("error: " + " ".join(str(error).split()))
    except BrokenPipeError:  # `| head` has read enough; what is still to be flushed goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        where = error.filename or "a file of the run"
        advice = "make room or give another place" + (
            ", and go on with --ckpt_path last" if words[:1] == ["fit"] else ""
        )
        sys.exit(f"error: {where}: expected to write it, found {reason_of(error)}; {advice}")


def _dispatch(words: Sequence[str]) -> None:
    name, *rest = words or [""]
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
