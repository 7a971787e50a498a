"""The base class of benchmarks: callbacks with files of their own that are evaluated beside the held-out clips."""

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
from mcn_lightning.callbacks.protocols import EmbeddingModule, embedding_module
from mcn_lightning.distributed import world_size
from mcn_lightning.errors import InputError, check_rules, naming, one_line
from mcn_lightning.models import NetworkConfig
from mcn_lightning.options.config import no_super
from mcn_lightning.options.ranges import PositiveFloat, checked
from mcn_lightning.runs.lightning import callbacks_of

Kind = Literal["metric", "count", "detail"]
# keys of results begin with a direction, then a space before a setting or a slash before a metric
_DIRECTION = re.compile(r"[vat]+->[vat]+[ /]")


@dataclass(frozen=True)
class Result:
    """One result of a benchmark.

    Args:
        benchmark: name of the benchmark.
        setting: of the evaluation, for instance ``t->va``; empty for a benchmark with one setting.
        metric: name of the metric, for instance ``R@10``.
        value: in the unit of the metric; shares are in per cent.
        kind: ``metric``; ``count`` of items that were used or left out; or ``detail``, which the printed table omits.
        published: the published result, where there is one.
        source: publication of that result.
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
        """Name of the result within the benchmark, as used in ``published`` and in logs."""
        return f"{self.setting}/{self.metric}" if self.setting else self.metric


class UnsupportedNetworkError(InputError):
    """The network lacks an embedding that a benchmark needs. The run goes on without the benchmark."""


class Benchmark(Callback, ABC):
    """A benchmark with files of its own, evaluated after every validation and in ``validate`` and ``test``.

    Results are logged as ``val/<name>/<setting>/<metric>`` (or ``test/...``), so that ModelCheckpoint can monitor them.
    They do not depend on the number of processes, as the batches are the same for any number.

    Args:
        name: of the benchmark, in tables and logs.
        published: published results by ``<setting>/<metric>``, shown beside those of the run.
        source: publication of these results.
        sources: publication of single results by ``<setting>/<metric>``, with a remark on how reliable they are.
    """

    brings_data = True

    def __init__(
        self,
        name: str,
        published: Mapping[str, float] | None = None,
        source: str = "",
        sources: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.source = name, source
        self.published, self.sources = dict(published or {}), dict(sources or {})
        where = f"benchmark {name}:"
        unknown = ", ".join(key for key in self.sources if key not in self.published)
        infinite = ", ".join(f"{key} {value}" for key, value in self.published.items() if not math.isfinite(value))
        unsourced = self.published.keys() - self.sources.keys() if not source else ()
        check_rules(
            (not name or "/" in name, f"a benchmark's name: expected one without '/', found {name!r}"),
            (unknown, f"{where} sources: expected results that are under published, found {unknown}"),
            (unsourced, f"{where} expected the source of the published results, found none; give source"),
            (infinite, f"{where} published: expected numbers, found {infinite}"),
        )
        self.results: list[Result] = []
        self._opened = False
        self._unsupported = ""

    def require_embeddings(self, network_config: NetworkConfig, modalities: Sequence[str]) -> None:
        """Require that the network has a separate embedding of each of these modalities.

        Raises:
            UnsupportedNetworkError: if one is missing. The benchmark is then left out.
        """
        lacking = [name for name in dict.fromkeys(modalities) if name not in network_config.embeddings]
        if lacking:
            raise UnsupportedNetworkError(f"it needs embeddings of {' and '.join(lacking)}, which this network lacks")

    def count_results(self, counts: Mapping[str, int]) -> Iterator[Result]:
        """Yield a result for each count above 0 of items that were left out or adjusted."""
        for what, count in counts.items():
            if count:
                yield self.result("", what, count, "count")

    def metric_names(self) -> list[str] | None:
        """Return the keys of the metrics, once the files are open; ``None`` if they are not known before evaluation.

        A callback that monitors another metric of this benchmark is refused before training begins.
        """
        return None

    @abstractmethod
    def open(self, data: EvaluationData, module: EmbeddingModule) -> None:
        """Read and check the files, once and before training begins.

        Args:
            data: opens files with the streams, spectrograms and word vectors of the run's data.
            module: whose ``network_config`` lists the embeddings.

        Raises:
            InputError: if a file cannot be used.
            UnsupportedNetworkError: if the network lacks an embedding; see ``require_embeddings``.
        """

    @abstractmethod
    def evaluate(self, trainer: Trainer, module: EmbeddingModule) -> Iterator[Result]:
        """Yield the metrics, made by ``result``. They must be the same on every process.

        It runs without gradients, in the precision of the trainer, with the module in evaluation mode.
        """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the files before hours of training.

        Raises:
            InputError: if a file cannot be used.
        """
        if stage == "predict":
            return
        benchmarks = [each for each in callbacks_of(trainer) if isinstance(each, Benchmark)]
        for each in benchmarks:
            # asked before any file is opened: without the constructor there is no name for a message
            if "_opened" not in vars(each):
                raise InputError(f"--trainer.callbacks: {no_super(type(each), 'name')}")
        # setup is called for every stage, and the files stay open
        if self._opened:
            return
        names = [each.name for each in benchmarks]
        if names.count(self.name) > 1:
            raise InputError(f"trainer.callbacks: expected each benchmark's name once, found {self.name} twice")
        try:
            self.open(evaluation_data(trainer), embedding_module(pl_module))
        except UnsupportedNetworkError as error:
            self._unsupported = str(error)
        except InputError as error:
            raise InputError(f"benchmark {self.name}: {error}") from None
        except (LookupError, ValueError, OSError) as error:  # what Python says of a file with other contents
            wanted = f"files that {type(self).__name__}.open can use"
            found = f"{type(error).__name__}: {one_line(error)}"
            raise InputError(f"benchmark {self.name}: expected {wanted}, found {found}") from error
        self._opened = True

    def _run(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        module = embedding_module(pl_module)
        # two batches before training, for which a benchmark would cost a whole evaluation
        if trainer.sanity_checking:
            return
        self.results = []
        # Lightning enters its precision around the steps alone, and not around this hook
        with naming(f"benchmark {self.name}", ValueError), trainer.precision_plugin.forward_context(), torch.no_grad():
            found = list(self.evaluate(trainer, module)) if not self._unsupported else []
        if self._unsupported:
            self.results = [self.result("", f"evaluated ({self._unsupported})", 0, "count")]
            return
        # a published result of a direction that these weights cannot evaluate is no mistake in the config
        settings = {result.setting for result in found}
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
                module.log(f"{stage}/{self.name}/{result.key}", result.value, batch_size=1, sync_dist=world_size() > 1)
        self.results = found

    def result(self, setting: str, metric: str, value: float | Tensor, kind: Kind = "metric") -> Result:
        """Make a result of this benchmark, with the published one where there is one."""
        key = f"{setting}/{metric}" if setting else metric
        published = self.published.get(key)
        # a source without a published result would be listed below the table for nothing
        source = self.sources.get(key, self.source) if published is not None else ""
        return Result(self.name, setting, metric, float(value), kind, published, source)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._run(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._run(trainer, pl_module, "test")


def check_positive(name: str, **options: float) -> None:
    """Refuse options of a benchmark that are not above 0.

    Args:
        name: of the benchmark.
        **options: values by the names of options.

    Raises:
        InputError: naming the first wrong option.
    """
    # not by annotated types: the parser's message about a list of callbacks would not name the benchmark
    for option, value in options.items():
        checked(PositiveFloat, value, f"benchmark {name}: {option}")
