"""The command line of commands with a trainer: their options, defaults and links, and how a run starts."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from jsonargparse import add_instantiator, set_parsing_settings
from jsonargparse.typing import register_type
from lightning_utilities.core.enums import StrEnum
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities import rank_zero_only

from mcn_lightning.benchmarks import Benchmark, BenchmarkReport
from mcn_lightning.callbacks import (
    CentroidUpdate,
    EmbeddingWriter,
    Progress,
    RetrievalEvaluation,
    with_displays,
    without_loggers,
)
from mcn_lightning.callbacks.monitors import best_is_highest
from mcn_lightning.commands.checks import (
    check_accelerator,
    check_checkpoint,
    check_trainer_numbers,
    data_seed,
    job_requirements,
    set_log_root,
    use_checkpoint_shape,
    video_width,
)
from mcn_lightning.commands.configs import check_kinds
from mcn_lightning.commands.main import COMMANDS
from mcn_lightning.commands.main import main as main  # the whole command; `run` is the part of it with a trainer
from mcn_lightning.commands.parsers import CommandParser, parse_command, shorten_message
from mcn_lightning.data.dataset import PredictSplit
from mcn_lightning.data.files.pooling import DEFAULT_STREAMS
from mcn_lightning.data.sources.base import DataSource
from mcn_lightning.errors import InputError, one_line
from mcn_lightning.files import load_yaml
from mcn_lightning.models.released import WeightsError
from mcn_lightning.options.config import build_own
from mcn_lightning.runs import slurm
from mcn_lightning.runs.checkpoints import CHECKPOINT_ALIASES, find_checkpoint
from mcn_lightning.runs.folder import (
    check_run_folder,
    choose_folder,
    claim_folder,
    run_folder,
)
from mcn_lightning.runs.record import provenance
from mcn_lightning.runs.resume import Resume
from mcn_lightning.runs.saved import Options, flat_options
from mcn_lightning.runs.tracking import add_csv_logger, append_metrics, read_wandb_id, start_wandb
from mcn_lightning.runs.trainer_options import (
    MatmulPrecision,
    add_plugins,
    apply_barebones,
    check_trainer,
    remove_checkpoints,
    set_matmul_precision,
)

Part = TypeVar("Part")


def is_first_process() -> bool:
    """Return whether this is the first process of a run."""
    return getattr(rank_zero_only, "rank", 0) == 0


# `${data.root}` in a file must work for every subcommand; otherwise it would need the subcommand's name before it
set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
# types of default values of Lightning's callbacks, which config.yaml must be able to hold
register_type(torch.device, str, torch.device)
yaml.SafeDumper.add_multi_representer(StrEnum, lambda dumper, value: dumper.represent_str(str(value.value)))


CLASS_OPTIONS = ("model.loss.contrastive", "model.clustering", "model.network.audio_network")
"""Groups of options that take ``class_path`` and ``init_args``."""


# a dotted name that is no file: --model.clustering options.yaml reads options
CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+(?<!\.yml)(?<!\.yaml)(?<!\.json)")


def expand_class_paths(args: Sequence[str]) -> list[str]:
    """Replace ``--model.clustering X`` by ``--model.clustering.class_path X``, for all options that take a class."""
    found = list(args)
    for position, arg in enumerate(args):
        option, equals, value = arg.partition("=")
        value = value if equals else "".join(args[position + 1 : position + 2])
        if option.removeprefix("--") in CLASS_OPTIONS and CLASS_PATH.fullmatch(value):
            found[position] = f"{option}.class_path{equals}{value if equals else ''}"
    return found


_PARSERS: dict[tuple[type, str | None], dict[str, Any]] = {}
"""By class and subcommand what belongs to a parser that was built."""


def _build_part(class_type: type[Part], *args: Any, **given: Any) -> Part:
    """Build a source or benchmark. What a class of the user refuses gets the option and the class before it."""
    own = not class_type.__module__.startswith("mcn_lightning.")  # built-in ones name themselves
    option = "--data.source" if issubclass(class_type, DataSource) else "--trainer.callbacks"
    return build_own(class_type, option, *args, **given) if own else class_type(*args, **given)


# jsonargparse builds these itself, and its errors would not name the option
add_instantiator(_build_part, DataSource)
add_instantiator(_build_part, Benchmark)


class OneLineParser(CommandParser, LightningArgumentParser):
    """The argument parser of the commands with a trainer."""


class MCNCLI(LightningCLI):
    """LightningCLI with this project's callbacks as option groups. Sizes of the data set those of the network.

    Args:
        command: subcommand to build a parser for; all subcommands when ``None``.
    """

    def __init__(self, *args: Any, command: str | None = None, **kwargs: Any) -> None:
        self._command = command
        super().__init__(*args, **kwargs)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return the subcommands with their parameters that are no options. Only one is built, as building is slow."""
        every = LightningCLI.subcommands()
        return {self._command: every[self._command]} if self._command in every else every

    def setup_parser(
        self, add_subcommands: bool, main_kwargs: dict[str, Any], subparser_kwargs: dict[str, Any]
    ) -> None:
        """Build the parser, or take the one that an earlier command of this process built: ``ablate`` parses often."""
        names = ("parser", "_subcommand_parsers", "_subcommand_method_arguments")
        # building a parser takes a second, as all classes of callbacks are inspected
        if not (built := _PARSERS.setdefault((type(self), self._command), {})):
            super().setup_parser(add_subcommands, main_kwargs, subparser_kwargs)
            built.update({name: value for name, value in vars(self).items() if name in names})
        vars(self).update(built)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the given arguments, which need not be those of the process."""
        args = expand_class_paths(args)
        check_kinds(args)
        self.config = parse_command(parser, args, first=1 if self._command in self.subcommands() else 0)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks of every run, and the links from data options to model options."""
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
            help="folder for a single run, for instance of a job that may be requeued: all loggers write below it, "
            "`--ckpt_path last` searches it, and a start with other options is refused",
        )
        (parser.groups or {})["trainer"].add_argument(
            "--trainer.float32_matmul_precision",
            type=MatmulPrecision | None,
            help="precision of float32 matrix products, such as those of k-means and evaluation: highest, high "
            "(TensorFloat-32) or medium (bfloat16); by default high on CUDA, and that of torch on CPUs",
        )
        # without save_on_train_epoch_end, Lightning saves after validations only, and later epochs are lost
        parser.set_defaults({"checkpoint.save_last": True, "checkpoint.save_on_train_epoch_end": True})
        # as plain data: omegaconf cannot resolve interpolations in a config that holds dataclasses
        parser.set_defaults({"data.streams": [dataclasses.asdict(stream) for stream in DEFAULT_STREAMS]})
        parser.link_arguments("data.modalities", "model.network.modalities")
        parser.link_arguments("data.streams", "model.network.video_dim", compute_fn=video_width)
        parser.link_arguments("data.audio.bands", "model.network.audio_bands")
        parser.link_arguments("data.text.dim", "model.network.text_dim")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=data_seed)

    def _add_arguments(self, parser: LightningArgumentParser) -> None:
        """Add all options. ``--help`` shows this project's first and the trainer's last."""
        super()._add_arguments(parser)
        if self._command in COMMANDS:
            parser.usage = f"lightning {self._command} [--config RECIPE_OR_FILE]... [options]"
            parser.description = COMMANDS[self._command].summary
        for action in parser._actions:  # a user's class is no subclass of the options that name it in class_path
            if action.dest in CLASS_OPTIONS:
                action.basetype = None  # type: ignore[attr-defined]
        groups: list[Any] = parser._action_groups  # type: ignore[assignment]
        groups.sort(key=lambda group: group is (parser.groups or {}).get("trainer"))

    def _prepare_subcommand_parser(self, klass: Any, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Turn off Lightning's table of metrics, as callbacks print one; ``--verbose true`` turns it on."""
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand in ("validate", "test"):
            parser.set_defaults({"verbose": False})
        if subcommand == "predict":
            parser.set_defaults({"return_predictions": False})  # they are written to files, and would fill the memory
            parser.add_argument(
                "--split", type=PredictSplit, default="test", help="videos to embed, as in evaluation: every caption"
            )
        return parser

    def _parse_ckpt_path(self) -> None:
        """Check the checkpoint, and keep the user's options.

        Lightning's method would silently replace them by those of the checkpoint.
        """
        command = self.config.get("subcommand", "")
        options = self.config.get(command, {})
        path, model = options.get("ckpt_path"), options.get("model", {})
        checkpoint = options.get("checkpoint", {})
        if checkpoint.get("monitor") and best_is_highest(checkpoint["monitor"]):
            checkpoint["mode"] = "max"  # Lightning's default, min, would keep the worst checkpoint
        if not path and not model.get("weights") and command != "fit":
            print("warning: no --ckpt_path and no --model.weights: these are random weights", file=sys.stderr)
        if command != "fit" and not path and "kind" in model.get("clustering", {}):
            # without a checkpoint there are no centroids, and an empty queue can take gigabytes
            model["clustering"]["kind"] = "none"
            model["clustering"]["class_path"] = model["clustering"]["init_args"] = None
        if path and path not in CHECKPOINT_ALIASES:
            saved = check_checkpoint(Path(path), resume=command == "fit")
            if command != "fit" and model.get("weights"):
                use_checkpoint_shape(model, saved)

    def options_of(self, subcommand: str | None, **dump: bool) -> Options:
        """Return all options of a subcommand through YAML, as config.yaml is read: equal runs have equal options."""
        parser, config = self._parser(subcommand), self.config.get(str(subcommand), self.config)
        # parsing has checked them, and a second time costs as much
        return load_yaml(parser.dump(config, skip_unset=False, skip_validation=True, **dump), "SafeLoader")

    def _dump_config(self) -> None:
        """Keep the options with those that follow from others, as the hyperparameters of model and data."""
        if not hasattr(self, "config_dump"):
            self.config_dump = self.options_of(self.subcommand, skip_link_targets=False)

    def before_instantiate_classes(self) -> None:
        """Check the SLURM job, if there is one, before its processes wait for each other. Set the run's folder.

        Raises:
            InputError: if the job does not match the run, or an option of the trainer is wrong.
        """
        # before torch.distributed starts, which would wait half an hour for missing processes
        if self.subcommand and slurm.launched_by_srun(os.environ):
            slurm.check_job(os.environ, job_requirements(self.config[self.subcommand]))
        options = self.config.get(self.subcommand or "", {})
        check_trainer_numbers(options.get("trainer", {}))
        if options.get("run_folder"):
            set_log_root(options.trainer, options.run_folder)

    def instantiate_trainer(self, **kwargs: object) -> Trainer:
        """Build the trainer, which writes a ``metrics.csv`` with any logger.

        Raises:
            InputError: if the trainer has an option or a callback that is not supported.
        """
        options = self._get(self.config_init, "trainer", default={})
        trainer = super().instantiate_trainer(plugins=add_plugins(options.get("plugins")), **kwargs)
        set_matmul_precision(options.get("float32_matmul_precision"), trainer)
        add_csv_logger(trainer)
        check_trainer(trainer)
        return trainer

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        """Build the trainer with progress bar, checkpoints and summary, unless the user disabled or replaced them."""
        if config.get("barebones"):
            self.save_config_callback, self.trainer_defaults = None, {}  # no files
        options, callbacks = remove_checkpoints(*apply_barebones(config, with_displays(config, callbacks)))
        # an option of the command alone
        given = {name: value for name, value in options.items() if name != "float32_matmul_precision"}
        return super()._instantiate_trainer(given, callbacks)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Resolve ``--ckpt_path last`` or ``best`` among all runs of this name, and print the result.

        ``fit`` continues in the folder of its checkpoint, and continues the wandb run of that folder.
        """
        kwargs, training = super()._prepare_subcommand_kwargs(subcommand), subcommand == "fit"
        options = self.options_of(subcommand)
        if training and options.get("run_folder"):
            check_run_folder(options["run_folder"], options)
        if (asked := kwargs.get("ckpt_path")) in CHECKPOINT_ALIASES:
            path, text = find_checkpoint(self.trainer, options, asked, training)
            kwargs["ckpt_path"] = None if path is None else str(path)
            if is_first_process():
                print(f"--ckpt_path {asked}: {text}")
        if training:
            choose_folder(self.trainer, options, kwargs.get("ckpt_path"))
            if is_first_process() and not getattr(self.trainer, "fast_dev_run", False):
                claim_folder(self.trainer, kwargs.get("ckpt_path"))
        if kwargs.get("ckpt_path"):  # a resumed run writes into its old folder on purpose
            warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        if subcommand == "predict":
            self.datamodule.predict_split = self.config[subcommand].split
            without_loggers(self.trainer)
        elif is_first_process():
            append_metrics(self.trainer)
            origin = {f"run.{name}": value for name, value in provenance().items()}
            run_id = read_wandb_id(run_folder(self.trainer)) if training else None
            start_wandb(self.trainer, flat_options(options) | origin, run_id)
        return kwargs

    def instantiate_classes(self) -> None:
        """Build data, model and trainer. Options that they refuse become an ``InputError``."""
        # before a network of gigabytes
        check_accelerator(self.config[self.subcommand].trainer.accelerator)
        try:
            super().instantiate_classes()
        except WeightsError as error:
            raise InputError(f"--model.weights {error}") from error
        except ValueError as error:
            raise InputError(shorten_message(one_line(error))) from error
        if self.subcommand == "fit":  # before other processes start, each of which would say it
            self.model.distributed_config.check(self.trainer.world_size)
            self.datamodule.divide_batch(self.trainer.world_size)
