"""What other packages say on a run's behalf, without what is no concern of its user."""

from __future__ import annotations

import logging
import sys
import traceback
import warnings

import torch
from tqdm import tqdm

NOT_THE_USERS = (
    "💡",  # Lightning's advice to install other products
    "TPU available",
    "Loading `train_dataloader` to estimate",
    "Trainer already configured with model summary callbacks: [<class 'mcn_lightning.",
    "Restored all states from the checkpoint",  # what is read has been said already
    "Loaded model weights from the checkpoint",
)
"""How messages begin that are left out."""
PACKAGES = r"(pytorch_lightning|lightning_fabric|lightning_utilities|torch|torchmetrics|jsonargparse)(\.|$)"

UNTRUE = (
    ".*does not have many workers",
    "The dirpath has changed",  # an older checkpoint begins a new folder
    "The `srun` command is available",  # on the login node of a cluster, or where one has a machine for oneself
    r"Found \d+ module\(s\) in eval mode",  # frozen batch norm
)
"""How warnings begin that do not hold here."""

_format_as_before = warnings.formatwarning


def quieten() -> None:
    """Leave out advertisements, and deprecations within other packages; print what is left between progress bars.

    A warning is one line without the code that gave it. For the process of a command only: it changes the filters and
    handlers of the whole process.
    """
    global _format_as_before
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_concerns_user)
    for logger in (logging.getLogger("pytorch_lightning"), logging.getLogger("lightning_fabric")):
        logger.handlers = [BetweenBars() if type(each) is logging.StreamHandler else each for each in logger.handlers]
    logging.lastResort = BetweenBars(logging.WARNING)
    for category in (DeprecationWarning, FutureWarning):
        warnings.filterwarnings("ignore", category=category, module=PACKAGES)
    for message in UNTRUE:
        warnings.filterwarnings("ignore", message=message)
    if warnings.formatwarning is not _as_line:
        _format_as_before, warnings.formatwarning = warnings.formatwarning, _as_line


class BetweenBars(logging.StreamHandler):
    """Writes messages to stderr, between the progress bars that are on the terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message."""
        tqdm.write(self.format(record), file=sys.stderr)


def _concerns_user(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(NOT_THE_USERS)


def _as_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    if not issubclass(category, UserWarning):
        return _format_as_before(message, category, filename, lineno, line)
    beside = any(not bar.disable for bar in getattr(tqdm, "_instances", ()))
    return ("\n" if beside else "") + f"warning: {message}\n"


def is_refusal(error: BaseException) -> bool:
    """Tell whether Lightning itself has found an option of the trainer to be wrong."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return str(frames[-1].f_globals.get("__name__", "")).startswith(("pytorch_lightning.", "lightning_fabric."))


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether there was too little memory, of this machine or of its GPU."""
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(each in str(error) for each in words)
