"""The commands with a trainer or its options: fit, validate, test, predict, check and prepare."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import ClassVar, TypeVar

from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException

from mcn_lightning.callbacks import Throughput
from mcn_lightning.commands.cli import MCNCLI, OneLineParser, is_first_process
from mcn_lightning.commands.main import main as main  # the whole command; `run` is the part of it with a trainer
from mcn_lightning.commands.parsers import shorten_message
from mcn_lightning.data.datamodule import NarratedVideos
from mcn_lightning.data.shards.job import PackConfig
from mcn_lightning.errors import InputError, first_line, one_line
from mcn_lightning.losses import NotFiniteError
from mcn_lightning.module import MCNModule
from mcn_lightning.runs.folder import SaveConfig, release_folders
from mcn_lightning.runs.messages import filter_messages, is_out_of_memory, is_refusal
from mcn_lightning.runs.record import RunRecord
from mcn_lightning.runs.resume import Stopped
from mcn_lightning.runs.saved import Options
from mcn_lightning.signals import Interrupted

CLI = TypeVar("CLI", bound=MCNCLI)


class DataCLI(MCNCLI):
    """Base of commands that take all options of a run and use only those of the data."""

    stopped: str
    kept: ClassVar[Sequence[str]] = ("data", "pack")
    """Groups of options that the command uses."""

    def run_data(self, parts: Namespace) -> None:
        """Run the command on the data; subclasses implement it."""
        raise NotImplementedError

    def _parse_ckpt_path(self) -> None:
        """Do nothing: there is no checkpoint."""

    def instantiate_classes(self) -> None:
        """Build the data module alone, and run the command on it."""
        # the parser knows all options of a run, so that its config files can be given as they are
        for group in {*vars(self.config)} - {*self.kept}:
            del self.config[group]
        try:  # the default network, which may take gigabytes, is replaced by None
            parts = self.parser.instantiate(self.config, instantiators=[(lambda *_, **__: None, MCNModule, True)])
        except ValueError as error:
            raise InputError(shorten_message(one_line(error))) from error
        try:
            self.run_data(parts)
        except (Interrupted, KeyboardInterrupt) as error:
            print(self.stopped, file=sys.stderr)
            sys.exit(128 + getattr(error, "number", signal.SIGINT))


class PrepareCLI(DataCLI):
    """The command ``prepare``, which packs the data into shards."""

    stopped = "stopped; the same command goes on from here"

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of packing."""
        super().add_arguments_to_parser(parser)
        parser.add_class_arguments(PackConfig, "pack")

    def run_data(self, parts: Namespace) -> None:
        """Pack the data."""
        print(parts.data.pack(parts.pack))


class CheckCLI(DataCLI):
    """The command ``check``, which reads the data once."""

    stopped = "stopped"

    def run_data(self, parts: Namespace) -> None:
        """Read the data."""
        parts.data.inspect()


class OptionsCLI(MCNCLI):
    """Parses the options of a run without building or running it."""

    def _parse_ckpt_path(self) -> None:
        """Do not open the checkpoint."""

    def _set_seed(self) -> None:
        """Do not set a seed: no random numbers are used."""

    def instantiate_classes(self) -> None:
        """Do not build the run."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Do not start the run."""


def build(command: type[CLI], args: Sequence[str]) -> CLI:
    """Build a command's CLI object, which also runs the command.

    Args:
        command: class of the CLI.
        args: arguments after the program's name; the first is the command.
    """
    alone = issubclass(command, DataCLI)  # LightningCLI does not know them as subcommands
    return command(
        MCNModule,
        NarratedVideos,
        args=[*args[1:]] if alone else [*args],
        command=args[0],
        run=not alone,
        parser_class=OneLineParser,
        save_config_callback=SaveConfig,
        # the module makes optimiser and schedule; Lightning's options would replace them
        auto_configure_optimizers=False,
        # a fixed seed: a run without the option can be repeated
        seed_everything_default=0,
        # omegaconf+ resolves ${...} after all files and options are merged; plain omegaconf resolves each file alone
        parser_kwargs={"parser_mode": "omegaconf+", "prog": f"lightning {args[0]}" if alone else "lightning"},
        trainer_defaults={
            "logger": {
                "class_path": "pytorch_lightning.loggers.CSVLogger",
                "init_args": {"save_dir": "runs", "name": "mcn"},
            },
            "callbacks": [Throughput(), RunRecord()],
            # check_held_out opens every video before training, which a few batches would not
            "num_sanity_val_steps": 0,
            # the samplers of the data module know the processes already
            "use_distributed_sampler": False,
        },
    )


def fit_options(args: Sequence[str]) -> Options:
    """Return all options for given arguments of ``fit``, as config.yaml would hold them."""
    return build(OptionsCLI, ["fit", *args]).options_of("fit")


def run(args: Sequence[str], command: type[MCNCLI] | None = None) -> None:
    """Run a command that takes the options of a run.

    Args:
        args: arguments after the program's name; the first is the command.
        command: class of its CLI, where this module does not have it.

    Raises:
        InputError: if an option, a file or the job is wrong.
    """
    filter_messages()
    try:
        commands: dict[str, type[MCNCLI]] = {"prepare": PrepareCLI, "check": CheckCLI}
        build(command or commands.get(args[0], MCNCLI), args)
    # Stopped and NotFiniteError are raised on all processes. The others exit with 0: if one failed before the first has
    # printed its message, the launcher would kill the first
    except Stopped as stop:
        if is_first_process():
            print(stop, file=sys.stderr)
        sys.exit(stop.status if is_first_process() else 0)
    except SIGTERMException:  # raised by Lightning's handler until Resume replaces it; Lightning would exit with 0
        sys.exit(128 + signal.SIGTERM)
    except NotFiniteError as error:
        sys.exit(f"error: {error}" if is_first_process() else 0)
    except MisconfigurationException as error:
        raise InputError(str(error)) from error
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError) or not is_refusal(error):
            raise
        raise InputError(str(error)) from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        sizes = (
            "--data.batch_size (or --data.global_batch_size), --data.clips.n_pair, --model.network.embedding_dim or "
            "--model.clustering.queue_rows"
        )
        found = f"one that does not ({first_line(error)})"
        raise InputError(f"expected a run that fits into memory, found {found}; lower {sizes}") from error
    finally:
        release_folders()
