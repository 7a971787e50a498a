"""What every benchmark does: it brings its own files, is evaluated with the held-out clips, and gives metrics."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from mcn_lightning.benchmarks.files import EvaluationData, evaluation_data
from mcn_lightning.callbacks.protocols import EmbeddingModule, callbacks_of, embedding_module
from mcn_lightning.distributed import world
from mcn_lightning.errors import InputError
from mcn_lightning.models import NetworkConfig
from mcn_lightning.ranges import PositiveFloat, checked

Kind = Literal["metric", "count", "detail"]
_DIRECTION = re.compile(r"[vat]+->[vat]+[ /]")


@dataclass(frozen=True)
class Result:
    """One result of a benchmark.

    Args:
        benchmark: its name.
        setting: what was evaluated, for instance ``t->va``; empty where there is one setting only.
        metric: for instance ``R@10``.
        value: in the unit of the metric; shares are in per cent.
        kind: a metric; a count of what was used or left out; or a detail that the printed table leaves out.
        published: the result that was published, where there is one.
        source: where it was published.
    """

    benchmark: str
    setting: str
    metric: str
    value: float
    kind: Kind = "metric"
    published: float | None = None
    source: str = ""

    @property
    def key(self) -> str:
        """Its name within the benchmark, which ``published`` and the logs use."""
        return f"{self.setting}/{self.metric}" if self.setting else self.metric


class NotPossibleError(InputError):
    """A benchmark needs what the network lacks, which is no fault of the files."""


class Benchmark(Callback, ABC):
    """A benchmark with files of its own, evaluated after every validation and in ``validate`` and ``test``.

    Results are logged as ``val/<name>/<setting>/<metric>`` (or ``test/...``), so that ModelCheckpoint can monitor them.
    They do not depend on the number of processes: each embeds whole batches that are the same for any number.

    Args:
        name: of the benchmark, in tables and logs.
        published: published results by ``<setting>/<metric>``, shown beside ours.
        source: where they were published.
        sources: where single ones were published, by ``<setting>/<metric>``, and how sure they are.
    """

    brings_data = True

    def __init__(
        self,
        name: str,
        published: Mapping[str, float] | None = None,
        source: str = "",
        sources: Mapping[str, str] | None = None,
    ) -> None:
        if not name or "/" in name:
            raise InputError(f"a benchmark's name: expected one without '/', found {name!r}")
        self.sources = dict(sources or {})
        if unknown := [key for key in self.sources if key not in (published or {})]:
            raise InputError(
                f"benchmark {name}: sources: expected results that are under published, found {unknown[0]}"
            )
        if published and not source and set(published) - set(self.sources):
            raise InputError(f"benchmark {name}: expected the source of the published results, found none; give source")
        self.name = name
        self.published = dict(published or {})
        for key, value in self.published.items():
            if not math.isfinite(value):
                raise InputError(f"benchmark {name}: published: {key}: expected a number, found {value}")
        self.source = source
        self.results: list[Result] = []
        self._opened = False
        self._lacks = ""

    def need(self, network_config: NetworkConfig, modalities: Sequence[str]) -> None:
        """Say that the benchmark cannot be evaluated with a network that lacks an embedding of its own for a modality.

        Raises:
            NotPossibleError: if it does.
        """
        lacking = [name for name in dict.fromkeys(modalities) if name not in network_config.embeddings]
        if lacking:
            raise NotPossibleError(f"it needs embeddings of {' and '.join(lacking)}, which this network lacks")

    def left_out(self, counts: Mapping[str, int]) -> Iterator[Result]:
        """Give what was left out or adjusted as counts, where it happened."""
        for what, count in counts.items():
            if count:
                yield self.result("", what, count, "count")

    def expected(self) -> list[str] | None:
        """Return the keys of the metrics, where they are known once the files are open; ``None`` where they are not.

        ``ModelCheckpoint`` and other callbacks are held against them before training begins.
        """
        return None

    @abstractmethod
    def open(self, data: EvaluationData, module: EmbeddingModule) -> None:
        """Read and check the files, once and before training begins.

        Args:
            data: reads files in the form that the run's data have.
            module: whose network says which embeddings there are.

        Raises:
            InputError: if a file cannot be used.
            NotPossibleError: if the network lacks what the benchmark needs; see ``need``.
        """

    @abstractmethod
    def evaluate(self, trainer: Trainer, module: EmbeddingModule) -> Iterator[Result]:
        """Give the metrics, made by ``result``, the same on every process.

        Gradients are off, and the precision is that of the trainer. The module is in evaluation mode.
        """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the files now, and not after hours of training.

        Raises:
            InputError: if they cannot be used.
        """
        if stage == "predict" or self._opened:
            return
        names = [each.name for each in callbacks_of(trainer) if isinstance(each, Benchmark)]
        if names.count(self.name) > 1:
            raise InputError(f"trainer.callbacks: expected each benchmark's name once, found {self.name} twice")
        try:
            self.open(evaluation_data(trainer), embedding_module(pl_module))
        except NotPossibleError as error:
            self._lacks = str(error)
        except InputError as error:
            raise InputError(f"benchmark {self.name}: {error}") from None
        except (LookupError, ValueError, OSError) as error:  # what Python says of a file with other contents
            found = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise InputError(
                f"benchmark {self.name}: expected files that {type(self).__name__}.open can use, found {found}"
            ) from error
        self._opened = True

    def _run(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        module = embedding_module(pl_module)
        if trainer.sanity_checking:
            return
        self.results = []
        try:
            with trainer.precision_plugin.forward_context(), torch.no_grad():
                found = list(self.evaluate(trainer, module)) if not self._lacks else []
        except ValueError as error:
            raise InputError(f"benchmark {self.name}: {error}") from None
        if self._lacks:
            self.results = [self.result("", f"evaluated ({self._lacks})", 0, "count")]
            return
        settings = {result.setting for result in found}  # weights may lack what others are published for
        known = {result.key for result in found}
        unknown = [
            key
            for key in self.published
            if key not in known and (key.rpartition("/")[0] in settings or not _DIRECTION.match(key))
        ]
        if unknown:
            names = ", ".join(result.key for result in found if result.kind == "metric")
            raise InputError(f"benchmark {self.name}: published: expected results of {names}, found {unknown[0]}")
        for result in found:
            if result.kind == "metric":
                module.log(f"{stage}/{self.name}/{result.key}", result.value, batch_size=1, sync_dist=world() > 1)
        self.results = found

    def result(self, setting: str, metric: str, value: float | Tensor, kind: Kind = "metric") -> Result:
        """Return a result of this benchmark, with the published one where there is one."""
        key = f"{setting}/{metric}" if setting else metric
        published = self.published.get(key)
        source = self.sources.get(key, self.source) if published is not None else ""
        return Result(self.name, setting, metric, float(value), kind, published, source)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._run(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._run(trainer, pl_module, "test")


def above_zero(name: str, **options: float) -> None:
    """Refuse options of a benchmark that are not above 0.

    Args:
        name: of the benchmark.
        **options: value of each option.

    Raises:
        InputError: naming the first one.
    """
    for option, value in options.items():
        checked(PositiveFloat, value, f"benchmark {name}: {option}")
