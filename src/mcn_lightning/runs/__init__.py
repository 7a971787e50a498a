"""What makes a run one run: its folder, options, checkpoints, record and logs, and how it goes on."""

from mcn_lightning.runs.checkpoints import WholeCheckpoints, best_checkpoint, last_checkpoint
from mcn_lightning.runs.folder import SaveConfig, run_folder
from mcn_lightning.runs.other_runs import refuse_other_runs
from mcn_lightning.runs.record import RunRecord, provenance
from mcn_lightning.runs.resume import Resume, Stopped
from mcn_lightning.runs.tracking import (
    add_csv_logger,
    claim_folder,
    keep_metrics,
    read_wandb_id,
    release_folders,
    start_wandb,
)
from mcn_lightning.runs.trainer_options import bare, check_trainer, without_checkpoints

__all__ = [
    "Resume",
    "RunRecord",
    "SaveConfig",
    "Stopped",
    "WholeCheckpoints",
    "add_csv_logger",
    "bare",
    "best_checkpoint",
    "check_trainer",
    "claim_folder",
    "keep_metrics",
    "last_checkpoint",
    "provenance",
    "read_wandb_id",
    "refuse_other_runs",
    "release_folders",
    "run_folder",
    "start_wandb",
    "without_checkpoints",
]
