"""The command ``extract``: from a folder of videos to a data set."""

from __future__ import annotations

from collections.abc import Sequence

from mcn_lightning.commands.configs import resolve_configs
from mcn_lightning.commands.parsers import CommandParser
from mcn_lightning.extract.job import extract
from mcn_lightning.extract.options import ExtractConfig


def run_extract(args: Sequence[str]) -> None:
    """Parse the options and extract the videos.

    Args:
        args: arguments after the command's name.
    """
    parser = CommandParser(prog="lightning extract", description="Make a data set of a folder of videos.")
    parser.add_argument("--config", action="config", help="file or recipe with options")
    parser.add_class_arguments(ExtractConfig)
    found = parser.instantiate(parser.parse_args(resolve_configs(args)))
    options = {name: value for name, value in vars(found).items() if name != "config"}
    print(extract(ExtractConfig(**options)))
