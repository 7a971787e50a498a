"""The command: ``lightning fit|validate|test|predict --config FILE...`` and the other commands beside these."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import set_parsing_settings
from jsonargparse.typing import register_type
from lightning_utilities.core.enums import StrEnum
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException

from mcn_lightning.benchmarks import BenchmarkReport
from mcn_lightning.callbacks import (
    CentroidUpdate,
    EmbeddingWriter,
    Progress,
    RetrievalEvaluation,
    Throughput,
    with_displays,
    without_loggers,
)
from mcn_lightning.callbacks.planned import best_is_highest
from mcn_lightning.commands.checks import (
    asked_of_job,
    check_checkpoint,
    check_numbers,
    data_seed,
    log_below,
    take_shape,
    video_width,
)
from mcn_lightning.commands.main import COMMANDS
from mcn_lightning.commands.main import main as main  # the whole command; `run` is the part of it with a trainer
from mcn_lightning.commands.parsers import OneLineErrors, brief, parse_words
from mcn_lightning.data.datamodule import NarratedVideos
from mcn_lightning.data.files.pooling import DEFAULT_STREAMS
from mcn_lightning.data.prediction import PredictSplit
from mcn_lightning.data.shards.job import PackConfig
from mcn_lightning.errors import InputError
from mcn_lightning.losses import NotFiniteError
from mcn_lightning.models.released import WeightsError
from mcn_lightning.module import MCNModule
from mcn_lightning.runs import slurm
from mcn_lightning.runs.checkpoints import WORDS, find_checkpoint
from mcn_lightning.runs.folder import (
    SaveConfig,
    choose_folder,
    claim_folder,
    refuse_others_below,
    release_folders,
    run_folder,
)
from mcn_lightning.runs.messages import is_out_of_memory, is_refusal, quieten
from mcn_lightning.runs.record import RunRecord, provenance
from mcn_lightning.runs.resume import Resume, Stopped
from mcn_lightning.runs.saved import flat_options
from mcn_lightning.runs.tracking import add_csv_logger, keep_metrics, read_wandb_id, start_wandb
from mcn_lightning.runs.trainer_options import bare, check_trainer, with_own_plugins, without_checkpoints
from mcn_lightning.signals import Interrupted


def is_first_process() -> bool:
    """Return whether this process is the one that speaks for all of a run."""
    return getattr(rank_zero_only, "rank", 0) == 0


# `${data.root}` in a file is this option of any command; else it would begin with the name of the subcommand
set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
# what Lightning's own callbacks have as defaults, for config.yaml
register_type(torch.device, str, torch.device)
yaml.SafeDumper.add_multi_representer(StrEnum, lambda dumper, value: dumper.represent_str(str(value.value)))


OWN_CLASSES = ("model.loss.contrastive", "model.clustering", "model.network.audio_network")
"""Groups of options that take ``class_path`` and ``init_args``."""


CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+(?<!\.yml)(?<!\.yaml)(?<!\.json)")


def with_class_paths(words: Sequence[str]) -> list[str]:
    """Return the words of a command with ``--model.clustering.class_path X`` for ``--model.clustering X``."""
    found = list(words)
    for place, word in enumerate(words):
        option, equals, value = word.partition("=")
        value = value if equals else "".join(words[place + 1 : place + 2])
        if option.removeprefix("--") in OWN_CLASSES and CLASS.fullmatch(value):
            found[place] = f"{option}.class_path{equals}{value if equals else ''}"
    return found


class OneLineParser(OneLineErrors, LightningArgumentParser):
    """The parser of the commands with a trainer."""


class MCNCLI(LightningCLI):
    """LightningCLI with this project's callbacks as groups and the data's sizes handed on to the network.

    Args:
        command: the subcommand that is asked for, whose parser alone is built; all of them when ``None``.
    """

    def __init__(self, *args: Any, command: str | None = None, **kwargs: Any) -> None:
        self._asked = command
        super().__init__(*args, **kwargs)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return the subcommands, each with the parameters that are no options: building a parser takes its time."""
        every = LightningCLI.subcommands()
        return {self._asked: every[self._asked]} if self._asked in every else every

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the words, which need not be those of the process."""
        self.config = parse_words(parser, with_class_paths(args), first=1 if self._asked in self.subcommands() else 0)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks every run has, and the links from data to model."""
        parser.add_lightning_class_args(CentroidUpdate, "centroids")
        parser.add_lightning_class_args(RetrievalEvaluation, "retrieval")
        parser.add_lightning_class_args(EmbeddingWriter, "embeddings")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(Resume, "resume")
        parser.add_lightning_class_args(BenchmarkReport, "report")
        parser.add_lightning_class_args(Progress, "progress")
        parser.add_argument(
            "--run_folder",
            type=str | None,
            help="folder of one run alone, as that of a job that may be requeued: all loggers write below it, "
            "`--ckpt_path last` looks there, and other options than those it was begun with are refused",
        )
        # without the second, Lightning saves after validation only and loses the epochs that follow it
        parser.set_defaults({"checkpoint.save_last": True, "checkpoint.save_on_train_epoch_end": True})
        # as plain data, which interpolations in other options can be resolved beside
        parser.set_defaults({"data.streams": [dataclasses.asdict(stream) for stream in DEFAULT_STREAMS]})
        parser.link_arguments("data.modalities", "model.network.modalities")
        parser.link_arguments("data.streams", "model.network.video_dim", compute_fn=video_width)
        parser.link_arguments("data.audio.bands", "model.network.audio_bands")
        parser.link_arguments("data.text.dim", "model.network.text_dim")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=data_seed)

    def _add_arguments(self, parser: LightningArgumentParser) -> None:
        """Add all options; ``--help`` begins with this project's, and ends with the trainer's."""
        super()._add_arguments(parser)
        if self._asked in COMMANDS:
            parser.usage = f"lightning {self._asked} [--config RECIPE_OR_FILE]... [options]"
            parser.description = COMMANDS[self._asked].summary
        for action in parser._actions:  # classes of one's own are no subclasses of the dataclass that names them
            if action.dest in OWN_CLASSES:
                action.basetype = None  # type: ignore[attr-defined]
        groups: list[Any] = parser._action_groups  # type: ignore[assignment]
        groups.sort(key=lambda group: group is (parser.groups or {}).get("trainer"))

    def _prepare_subcommand_parser(self, klass: Any, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Leave the table of figures to the callbacks; ``--verbose true`` brings Lightning's own beside it."""
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand in ("validate", "test"):
            parser.set_defaults({"verbose": False})
        if subcommand == "predict":
            parser.set_defaults({"return_predictions": False})  # they are written, and need not stay in memory
            parser.add_argument(
                "--split", type=PredictSplit, default="test", help="videos to embed, as in evaluation: every caption"
            )
        return parser

    def _parse_ckpt_path(self) -> None:
        """Check the checkpoint, and leave the configuration as the user gave it.

        Lightning would silently replace the user's options by the checkpoint's.
        """
        command = self.config.get("subcommand", "")
        options = self.config.get(command, {})
        path, model = options.get("ckpt_path"), options.get("model", {})
        checkpoint = options.get("checkpoint", {})
        if checkpoint.get("monitor") and best_is_highest(checkpoint["monitor"]):
            checkpoint["mode"] = "max"  # Lightning's default would keep the worst
        if not path and not model.get("weights") and command != "fit":
            print("warning: no --ckpt_path and no --model.weights: these are random weights", file=sys.stderr)
        if command != "fit" and not path and "kind" in model.get("clustering", {}):
            # nothing was clustered, and an empty queue can take gigabytes
            model["clustering"]["kind"] = "none"
            model["clustering"]["class_path"] = model["clustering"]["init_args"] = None
        if path and path not in WORDS:
            saved = check_checkpoint(Path(path), resume=command == "fit")
            if command != "fit" and model.get("weights"):
                take_shape(model, saved)

    def before_instantiate_classes(self) -> None:
        """Check the SLURM job, if this is one, before its processes wait for each other; choose the run's folder.

        Raises:
            InputError: if job and run do not fit.
        """
        if self.subcommand and slurm.launched(os.environ):
            slurm.check_job(os.environ, asked_of_job(self.config[self.subcommand]))
        options = self.config.get(self.subcommand or "", {})
        check_numbers(options.get("trainer", {}))
        if options.get("run_folder"):
            log_below(options.trainer, options.run_folder)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer, which writes a ``metrics.csv`` whatever the logger.

        Raises:
            InputError: if the trainer has an option or a callback that cannot be honoured.
        """
        options = self._get(self.config_init, "trainer", default={})
        trainer = super().instantiate_trainer(plugins=with_own_plugins(options.get("plugins")), **kwargs)
        add_csv_logger(trainer)
        check_trainer(trainer)
        return trainer

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Any]) -> Trainer:
        """Build the trainer with the bar, checkpoints and summary that the user has not turned off or replaced."""
        if config.get("barebones"):
            self.save_config_callback, self.trainer_defaults = None, {}  # no files
        config, callbacks = without_checkpoints(*bare(config, with_displays(config, callbacks)))
        return super()._instantiate_trainer(config, callbacks)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Find out what ``--ckpt_path last`` or ``best`` is, across the folders of all runs of this name, and say it.

        ``fit`` goes on in the folder of its checkpoint, and with the wandb run of that folder.
        """
        kwargs, training = super()._prepare_subcommand_kwargs(subcommand), subcommand == "fit"
        options = yaml.safe_load(self._parser(subcommand).dump(self.config[subcommand], skip_unset=False))
        if training and options.get("run_folder"):
            refuse_others_below(options["run_folder"], options)
        if (asked := kwargs.get("ckpt_path")) in WORDS:
            path, text = find_checkpoint(self.trainer, options, asked, training)
            kwargs["ckpt_path"] = None if path is None else str(path)
            if is_first_process():
                print(f"--ckpt_path {asked}: {text}")
        if training:
            choose_folder(self.trainer, options, kwargs.get("ckpt_path"))
            if is_first_process() and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
                claim_folder(self.trainer, kwargs.get("ckpt_path"))
        if kwargs.get("ckpt_path"):  # to go on there is what was asked for
            warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        if subcommand == "predict":
            self.datamodule.predict_split = self.config[subcommand].split
            without_loggers(self.trainer)
        elif is_first_process():
            keep_metrics(self.trainer)
            about = {f"run.{name}": value for name, value in provenance().items()}
            run_id = read_wandb_id(run_folder(self.trainer)) if training else None
            start_wandb(self.trainer, flat_options(options) | about, run_id)
        return kwargs

    def instantiate_classes(self) -> None:
        """Build the parts; an option they refuse is the user's to mend."""
        try:
            super().instantiate_classes()
        except WeightsError as error:
            raise InputError(f"--model.weights {error}") from error
        except ValueError as error:
            raise InputError(brief(" ".join(str(error).split()))) from error


class DataCLI(MCNCLI):
    """The options of the run, of which only those of the data are used."""

    stopped: str

    def use(self, parts: Any) -> None:
        """Use the data."""
        raise NotImplementedError

    def _parse_ckpt_path(self) -> None:
        """There is no checkpoint here."""

    def instantiate_classes(self) -> None:
        """Build the data alone, and use them."""
        for group in {*vars(self.config)} - {"data", "pack"}:
            del self.config[group]
        try:  # the network, which may take gigabytes, is not built from its defaults
            parts = self.parser.instantiate(self.config, instantiators=[(lambda *_, **__: None, MCNModule, True)])
        except ValueError as error:
            raise InputError(brief(" ".join(str(error).split()))) from error
        try:
            self.use(parts)
        except (Interrupted, KeyboardInterrupt):
            print(self.stopped, file=sys.stderr)
            sys.exit(130)


class PrepareCLI(DataCLI):
    """The data, and where the shards go."""

    stopped = "stopped; the same command goes on from here"

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of packing."""
        super().add_arguments_to_parser(parser)
        parser.add_class_arguments(PackConfig, "pack")

    def use(self, parts: Any) -> None:
        """Pack the data."""
        print(parts.data.pack(parts.pack))


class CheckCLI(DataCLI):
    """The data, which are read."""

    stopped = "stopped"

    def use(self, parts: Any) -> None:
        """Read the data."""
        parts.data.inspect()


class OptionsCLI(MCNCLI):
    """The options of a run, and nothing built from them."""

    def _parse_ckpt_path(self) -> None:
        """There is no checkpoint here."""

    def _set_seed(self) -> None:
        """Nothing is drawn."""

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""


def build(command: Any, words: Sequence[str]) -> Any:
    """Build a command, which runs it.

    Args:
        command: its class.
        words: the words after the program's name.
    """
    alone = command in (PrepareCLI, CheckCLI)  # no subcommand of LightningCLI
    return command(
        MCNModule,
        NarratedVideos,
        args=[*words[1:]] if alone else [*words],
        command=words[0],
        run=not alone,
        parser_class=OneLineParser,
        save_config_callback=SaveConfig,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        parser_kwargs={"parser_mode": "omegaconf+", "prog": f"lightning {words[0]}" if alone else "lightning"},
        trainer_defaults={
            "logger": {
                "class_path": "pytorch_lightning.loggers.CSVLogger",
                "init_args": {"save_dir": "runs", "name": "mcn"},
            },
            "callbacks": [Throughput(), RunRecord()],
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,
        },
    )


def fit_options(words: Sequence[str]) -> dict[str, Any]:
    """Return all options that the words after ``fit`` come to, as they would be saved in config.yaml."""
    command = build(OptionsCLI, ["fit", *words])
    return yaml.safe_load(command._parser("fit").dump(command.config["fit"], skip_unset=False))


def run(words: Sequence[str]) -> None:
    """Run a command that has a trainer, or its options.

    Args:
        words: the words after the program's name; the first is the command.

    Raises:
        InputError: if the user has to change something.
    """
    quieten()
    try:
        build({"prepare": PrepareCLI, "check": CheckCLI}.get(words[0], MCNCLI), words)
    # all processes end with these two: the first one tells, and no other may end as failed before it has
    except Stopped as stop:
        if is_first_process():
            print(stop, file=sys.stderr)
        sys.exit(stop.status if is_first_process() else 0)
    except SIGTERMException:  # between Lightning's handler and that of Resume; Lightning would end with status 0
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
        reason = " ".join(str(error).split("\n")[0].split())
        raise InputError(
            "expected a run that fits into memory, found one that does not; lower --data.batch_size, "
            "--data.clips.n_pair, --model.network.embedding_dim or --model.clustering.queue_rows "
            f"({reason})"
        ) from error
    finally:
        release_folders()
