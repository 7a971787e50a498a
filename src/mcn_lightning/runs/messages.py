"""Filters for messages and warnings of other packages."""

from __future__ import annotations

import logging
import sys
import traceback
import warnings

import torch
from tqdm import tqdm

UNWANTED_MESSAGES = (
    "💡",  # Lightning's advice to install other products
    "TPU available",
    "Loading `train_dataloader` to estimate",
    "Trainer already configured with model summary callbacks: [<class 'mcn_lightning.",
    "Restored all states from the checkpoint",  # the command has already printed which checkpoint it reads
    "Loaded model weights from the checkpoint",
)
"""Beginnings of log messages that are not shown."""
PACKAGES = r"(pytorch_lightning|lightning_fabric|lightning_utilities|torch|torchmetrics|jsonargparse)(\.|$)"

INAPPLICABLE_WARNINGS = (
    ".*does not have many workers",
    "The dirpath has changed",  # a run from an older checkpoint starts a new folder on purpose
    "The `srun` command is available",  # also on login nodes and private machines, where srun is not needed
    r"Found \d+ module\(s\) in eval mode",  # frozen batch norm is in eval mode on purpose
)
"""Beginnings of warnings that do not apply here."""

_default_format = warnings.formatwarning


def filter_messages() -> None:
    """Hide advertisements, and deprecation warnings inside other packages. Print the rest above progress bars.

    A warning becomes one line, without its source code. Use it only in the process of a command, as it changes the
    filters and handlers of the whole process.
    """
    global _default_format
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_is_wanted)
    for logger in (logging.getLogger("pytorch_lightning"), logging.getLogger("lightning_fabric")):
        logger.handlers = [
            BarSafeHandler() if type(each) is logging.StreamHandler else each for each in logger.handlers
        ]
    # messages of loggers without a handler, such as those of this package
    logging.lastResort = BarSafeHandler(logging.WARNING)
    for category in (DeprecationWarning, FutureWarning):
        warnings.filterwarnings("ignore", category=category, module=PACKAGES)
    for message in INAPPLICABLE_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    # filter_messages may run several times in one process, as in tests
    if warnings.formatwarning is not _format_as_line:
        _default_format, warnings.formatwarning = warnings.formatwarning, _format_as_line


class BarSafeHandler(logging.StreamHandler):
    """A log handler that writes to stderr without breaking progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message."""
        tqdm.write(self.format(record), file=sys.stderr)


def _is_wanted(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(UNWANTED_MESSAGES)


def _format_as_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    # UserWarnings are for the user; others keep file and line, as they point to code
    if not issubclass(category, UserWarning):
        return _default_format(message, category, filename, lineno, line)
    # a bar leaves the cursor behind its line
    beside = any(not bar.disable for bar in getattr(tqdm, "_instances", ()))
    return ("\n" if beside else "") + f"warning: {message}\n"


def is_refusal(error: BaseException) -> bool:
    """Return whether Lightning itself raised the error, which is then about an option of the trainer."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    # the innermost frame raised it
    return str(frames[-1].f_globals.get("__name__", "")).startswith(("pytorch_lightning.", "lightning_fabric."))


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the machine or its GPU had too little memory."""
    phrases = ("can't allocate memory", "not enough memory", "out of memory")  # of torch's RuntimeErrors on the CPU
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(each in str(error) for each in phrases)
