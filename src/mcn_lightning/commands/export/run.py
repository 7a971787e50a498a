"""The command ``export``: a trained model for others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mcn_lightning.commands.parsers import CommandParser


def run_export(args: Sequence[str]) -> None:
    """Parse the options, and write the folder.

    Args:
        args: arguments after ``export``.

    Raises:
        InputError: if the run or an option is wrong, a file cannot be written, or the hub refuses the model.
    """
    parser = CommandParser(prog="lightning export", description="Write a trained model for others.")
    parser.add_argument("run", metavar="RUN", help="folder of a run, whose newest checkpoint is taken, or a checkpoint")
    parser.add_argument("--output", type=str, required=True, help="folder to write, new or of an earlier export")
    parser.add_argument("--license", type=str, default=None, help="SPDX name of the licence, such as cc-by-4.0")
    parser.add_argument("--push", type=str, default=None, help="name on the Hugging Face hub to upload to: user/name")
    parser.add_argument("--private", type=bool, default=False, help="whether a new repository on the hub is private")
    parser.add_argument(
        "--text_encoder",
        type=str,
        default=None,
        help="name of the sentence encoder on the hub, if it was read from a folder",
    )
    options = parser.parse_args(list(args))
    from mcn_lightning.commands.export.folder import export  # the options are shown without torch

    export(
        Path(options.run), Path(options.output), options.license, options.push, options.private, options.text_encoder
    )
