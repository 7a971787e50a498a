"""The command ``index``: from a checkpoint and a data set to an index that can be searched."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import ClassVar

import torch
from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser

from mcn_lightning.commands.fit import DataCLI, run
from mcn_lightning.devices import find_devices, run_on_devices
from mcn_lightning.errors import InputError
from mcn_lightning.runs.saved import CONFIG, folder_of
from mcn_lightning.search.build.folder import making
from mcn_lightning.search.build.job import Build
from mcn_lightning.search.explore.stills import check_stills, keep_stills
from mcn_lightning.search.index import Index
from mcn_lightning.search.options import IndexConfig
from mcn_lightning.signals import Interrupted

OPTIONS = tuple(each.name for each in fields(IndexConfig))


class IndexCLI(DataCLI):
    """The command ``index``, which embeds the data and writes an index."""

    stopped = "stopped; the same command goes on from here"
    kept: ClassVar[Sequence[str]] = ("data", *OPTIONS)
    args: ClassVar[Sequence[str]] = ()
    """Arguments of the command, for processes on other devices."""
    share: ClassVar[tuple[int, int, str] | None] = None
    """Number of this process, number of processes, and its device, where there are several."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of the index."""
        super().add_arguments_to_parser(parser)
        parser.add_class_arguments(IndexConfig)
        parser.add_argument("--weights_only", type=bool | None, help="not used; the config.yaml of a run has it")

    def run_data(self, parts: Namespace) -> None:
        """Embed what is new, and write the index."""
        config = IndexConfig(**{name: parts[name] for name in OPTIONS})
        if self.share is not None:
            number, processes, device = self.share
            try:
                Build(config, parts.data).embed(torch.device(device), number, processes)
            except Interrupted as error:
                sys.exit(128 + error.number)  # without a line: the first process writes it
            return
        devices = find_devices(config.device, config.devices)
        if config.stills:
            check_stills()
        with making(config, parts.data) as build:
            if len(devices) > 1 and build.todo():
                run_on_devices(devices, _embed_share, self.args)
            else:
                build.embed(devices[0])
            print(build.finish())
            if config.stills:
                print(keep_stills(Index.open(config.output)))


def _embed_share(number: int, devices: Sequence[torch.device], args: Sequence[str]) -> None:
    IndexCLI.share = number, len(devices), str(devices[number])
    run(["index", *args], IndexCLI)


def run_index(args: Sequence[str]) -> None:
    """Run the command. Without ``--config`` it takes the options of the checkpoint's run.

    Args:
        args: arguments after the command's name.

    Raises:
        InputError: if an option, the model or the data are wrong.
    """
    IndexCLI.args = [*_config_of_run(args), *args]
    run(["index", *IndexCLI.args], IndexCLI)


def _config_of_run(args: Sequence[str]) -> list[str]:
    """Return the options of the checkpoint's run as arguments; none if the user gives a config."""
    # by hand, as the config must be known before the parser is
    given = dict(zip(args, [*args[1:], ""], strict=False)) | dict(arg.split("=", 1) for arg in args if "=" in arg)
    path = Path(given.get("--ckpt_path", ""))
    config = (path if path.is_dir() else folder_of(path.parent)) / CONFIG
    if "--ckpt_path" not in given or {"--config", "-c", "--help", "-h"} & {*given}:
        return []
    if config.is_file():
        return ["--config", str(config)]
    if not any(arg.startswith("--data") for arg in args):
        wanted, advice = f"a run with {CONFIG}", "give --config data.yaml"
        if not path.exists():
            wanted, advice = "a run or a checkpoint", "check the path"
        raise InputError(f"--ckpt_path {path}: expected {wanted}, found none; {advice}")
    return []
