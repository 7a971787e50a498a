"""The command ``extract``: from a folder of videos to a data set."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from mcn_lightning.commands.configs import resolve_configs
from mcn_lightning.commands.parsers import CommandParser
from mcn_lightning.errors import InputError, naming
from mcn_lightning.extract.options import ExtractConfig, JobShare
from mcn_lightning.files import read_text
from mcn_lightning.signals import Interrupted, handled_signals, interrupted_by, write_line


def run_extract(args: Sequence[str]) -> None:
    """Parse the options and extract the videos. Then look at the data set as ``lightning check`` does, and pack it.

    Args:
        args: arguments after the command's name.

    Raises:
        InputError: if an option, the videos or the data set are wrong.
    """
    parser = CommandParser(prog="lightning extract", description="Make a data set of a folder of videos.")
    parser.add_argument("--config", action="config", help="file or recipe with options")
    parser.add_class_arguments(ExtractConfig)
    found = parser.instantiate(parser.parse_args(resolve_configs(args, "extract")))
    from mcn_lightning.extract.job import TooManyFailed, extract

    config = ExtractConfig(**{name: value for name, value in vars(found).items() if name != "config"})
    failed: TooManyFailed | None = None
    try:
        # Ctrl-C is handled already, from the first import on
        with interrupted_by(*(number for number in handled_signals() if number != signal.SIGINT)):
            print(extract(config))
    except TooManyFailed as error:
        failed = error  # the data set of the others is there
    except (Interrupted, KeyboardInterrupt) as error:
        number = error.number if isinstance(error, Interrupted) else signal.SIGINT
        write_line(f"stopped by {signal.Signals(number).name}; the same command goes on from here")
        sys.exit(128 + number)
    # one of several jobs has only its share; --merge makes the data set of all
    try:
        if JobShare.parse(config.share).jobs == 1 or config.merge:
            _finish(config)
    except InputError as error:
        if failed is None:
            raise
        print(f"warning: {error}", file=sys.stderr)  # the videos that failed are the cause
    if failed is not None:
        raise failed


def _finish(config: ExtractConfig) -> None:
    """Check the data set, and pack it where that is asked for."""
    from mcn_lightning.commands.fit import run

    data = str(Path(config.output) / "data.yaml")
    with naming(f"{data} is written, but"):
        run(["check", "--config", data])
    shards = ""
    if config.pack is not None:
        clips = yaml.safe_load(read_text(Path(data), "a config"))["data"]["clips"]
        all_frames = str(clips["kind"] == "windows").lower()  # as their places are not known
        words = ["prepare", "--config", data, "--pack.output", config.pack, "--pack.keep_frames", all_frames]
        with naming(f"{data} is written, but not packed (lightning {' '.join(words)})"):
            run(words)
        shards = f" --data.shards {config.pack}"
    print(f"train: lightning fit --config {data}{shards}")
