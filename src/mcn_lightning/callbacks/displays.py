"""What a command shows of a run: its progress, and the number of parameters in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytorch_lightning import Callback
from pytorch_lightning.callbacks import ModelSummary, ProgressBar

from mcn_lightning.callbacks.progress import Progress, print_message


class ParameterSummary(ModelSummary):
    """Print the number of parameters in one line."""

    @staticmethod
    def summarize(  # type: ignore[override]
        summary_data: Sequence[tuple[str, list[str]]],
        total_parameters: int,
        trainable_parameters: int,
        *args: object,
        **kwargs: object,
    ) -> None:
        """Print the line; see ``ModelSummary``."""
        frozen = total_parameters - trainable_parameters
        print_message(f"parameters: {trainable_parameters:,} trainable" + (f", {frozen:,} frozen" if frozen else ""))


def with_displays(options: Mapping[str, object], callbacks: Sequence[Callback]) -> list[Callback]:
    """Return the command's callbacks with the parameter summary, without displays that the user disabled or replaced.

    Args:
        options: of the trainer; ``callbacks`` are those of the user.
        callbacks: of the command.
    """
    given = options.get("callbacks") or []
    given = given if isinstance(given, list) else [given]

    def wanted(option: str, kind: type[Callback]) -> bool:
        return options.get(option) is not False and not any(isinstance(each, kind) for each in given)

    kept = [each for each in callbacks if not isinstance(each, Progress) or wanted("enable_progress_bar", ProgressBar)]
    return [*kept, ParameterSummary()] if wanted("enable_model_summary", ModelSummary) else kept
