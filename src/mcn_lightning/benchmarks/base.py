"""What every benchmark does: it brings its own files, is evaluated with the held-out clips, and gives figures."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from mcn_lightning.batch import ClipBatch
from mcn_lightning.callbacks.progress import progress
from mcn_lightning.distributed import gather_rows, rank, world
from mcn_lightning.errors import InputError

Result = TypeVar("Result")
_DIRECTION = re.compile(r"[vat]+->[vat]+[ /]")


@dataclass(frozen=True)
class Figure:
    """One figure of a benchmark.

    Args:
        benchmark: its name.
        setting: what was evaluated, for instance ``t->va``; empty where there is one setting only.
        metric: for instance ``R@10``.
        value: in the unit of the metric; shares are in per cent.
        kind: a metric; a count of what was used or left out; or a detail that the printed table leaves out.
        published: the figure that was published, where there is one.
        source: where it was published.
    """

    benchmark: str
    setting: str
    metric: str
    value: float
    kind: Literal["metric", "count", "detail"] = "metric"
    published: float | None = None
    source: str = ""

    @property
    def key(self) -> str:
        """Its name within the benchmark, which ``published`` and the logs use."""
        return f"{self.setting}/{self.metric}" if self.setting else self.metric


class NotPossibleError(InputError):
    """A benchmark needs what the network lacks, which is no fault of the files."""


class Benchmark(Callback):
    """A benchmark with files of its own, evaluated after every validation and in ``validate`` and ``test``.

    Figures are logged as ``val/<name>/<setting>/<metric>`` (or ``test/...``), so that ModelCheckpoint can monitor them.
    They do not depend on the number of processes: each embeds whole batches that are the same for any number.

    Args:
        name: of the benchmark, in tables and logs.
        published: published figures by ``<setting>/<metric>``, shown beside ours.
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
                f"benchmark {name}: sources: expected figures that are under published, found {unknown[0]}"
            )
        if published and not source and set(published) - set(self.sources):
            raise InputError(f"benchmark {name}: expected the source of the published figures, found none; give source")
        self.name = name
        self.published = dict(published or {})
        for key, value in self.published.items():
            if not math.isfinite(value):
                raise InputError(f"benchmark {name}: published: {key}: expected a number, found {value}")
        self.source = source
        self.figures: list[Figure] = []
        self._opened = False
        self._lacks = ""

    def need(self, network_config: Any, modalities: Sequence[str]) -> None:
        """Say that the benchmark cannot be evaluated with a network that lacks an embedding of its own for a modality.

        Raises:
            NotPossibleError: if it does.
        """
        lacking = [name for name in dict.fromkeys(modalities) if name not in network_config.embeddings]
        if lacking:
            raise NotPossibleError(f"it needs embeddings of {' and '.join(lacking)}, which this network lacks")

    def left_out(self, counts: Mapping[str, int]) -> Iterator[Figure]:
        """Give what was left out or adjusted as counts, where it happened."""
        for what, count in counts.items():
            if count:
                yield self.figure("", what, count, "count")

    def expected(self) -> list[str] | None:
        """Return the keys of the metrics, where they are known once the files are open; ``None`` where they are not."""
        return None

    def open(self, data: Any, module: LightningModule) -> None:
        """Read and check the files.

        Args:
            data: ``EvaluationData`` of the run.
            module: whose network says which modalities there are.
        """
        raise NotImplementedError

    def evaluate(self, trainer: Trainer, module: LightningModule) -> Iterator[Figure]:
        """Give the figures, the same on every process."""
        raise NotImplementedError

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the files now, and not after hours of training.

        Raises:
            InputError: if they cannot be used.
        """
        if stage == "predict" or self._opened:
            return
        data: Any = getattr(trainer, "datamodule", None)
        if not hasattr(data, "evaluation_data"):
            raise InputError(f"benchmark {self.name}: expected a data module that reads benchmarks, found {data!r:.60}")
        names = [each.name for each in getattr(trainer, "callbacks", ()) if isinstance(each, Benchmark)]
        if names.count(self.name) > 1:
            raise InputError(f"trainer.callbacks: expected each benchmark's name once, found {self.name} twice")
        try:
            self.open(data.evaluation_data(), pl_module)
        except NotPossibleError as error:
            self._lacks = str(error)
        except InputError as error:
            raise InputError(f"benchmark {self.name}: {error}") from None
        self._opened = True

    def _run(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if trainer.sanity_checking:
            return
        self.figures = []
        try:
            with trainer.precision_plugin.forward_context(), torch.no_grad():
                found = list(self.evaluate(trainer, module)) if not self._lacks else []
        except ValueError as error:
            raise InputError(f"benchmark {self.name}: {error}") from None
        if self._lacks:
            self.figures = [self.figure("", f"evaluated ({self._lacks})", 0, "count")]
            return
        settings = {figure.setting for figure in found}  # weights may lack what others are published for
        known = {figure.key for figure in found}
        unknown = [
            key
            for key in self.published
            if key not in known and (key.rpartition("/")[0] in settings or not _DIRECTION.match(key))
        ]
        if unknown:
            names = ", ".join(figure.key for figure in found if figure.kind == "metric")
            raise InputError(f"benchmark {self.name}: published: expected figures of {names}, found {unknown[0]}")
        for figure in found:
            if figure.kind == "metric":
                module.log(f"{stage}/{self.name}/{figure.key}", figure.value, batch_size=1, sync_dist=world() > 1)
        self.figures = found

    def figure(self, setting: str, metric: str, value: float | Tensor, kind: Any = "metric") -> Figure:
        """Return a figure of this benchmark, with the published one where there is one."""
        published = self.published.get(f"{setting}/{metric}" if setting else metric)
        key = f"{setting}/{metric}" if setting else metric
        source = self.sources.get(key, self.source) if published is not None else ""
        return Figure(self.name, setting, metric, float(value), kind, published, source)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._run(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._run(trainer, pl_module, "test")


def at_least(name: str, **least: tuple[float, float]) -> None:
    """Refuse options of a benchmark that are too small.

    Args:
        name: of the benchmark.
        **least: value and least value of each option.

    Raises:
        InputError: naming the first one.
    """
    for option, (value, minimum) in least.items():
        if not minimum <= value < math.inf:
            raise InputError(f"benchmark {name}: {option}: expected at least {minimum:g}, found {value}")


def embed_clips(module: LightningModule, clips: Any, name: str) -> dict[str, Tensor]:
    """Embed all clips of a benchmark, and all of their captions.

    Batches are dealt out over the processes whole, so that the embeddings are the same bit for bit for any number of
    them.

    Args:
        module: the model.
        clips: ``EvaluationClips``.
        name: of the benchmark, for the progress bar.

    Returns:
        By modality ``(N, D)`` float32, in the order of the clips, on every process; zeros for the audio of clips
        without sound. Text, and the joint embedding of audio and text, has a row for each caption, the first N of which
        are the clips' first ones.
    """
    found = _embed(module, clips, clips.batches(), name)
    if "audio" in found:
        silent = torch.tensor(clips.silent, device=module.device)
        found["audio"] = found["audio"].masked_fill(silent[:, None], 0.0)
    if further := clips.caption_batches():
        more = _embed(module, clips, further, name, only=("text", "audio_text"))
        found |= {modality: torch.cat([found[modality], rows]) for modality, rows in more.items()}
    return found


def _embed(
    module: LightningModule, clips: Any, batches: Sequence[range], name: str, only: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Embed batches of captions with their clips, and return the rows of all in order, on every process.

    Args:
        module: the model.
        clips: ``EvaluationClips``.
        batches: numbers of the captions of each.
        name: of the benchmark, for the progress bar.
        only: embeddings that are wanted; all when empty.
    """
    parts: dict[str, list[Tensor]] = {}
    text_alone = bool(only) and "audio_text" not in module.network_config.embeddings  # type: ignore[union-attr,operator]
    for captions in progress(batches[rank() :: world()], name, "batches"):
        batch = clips.batch(captions, module.device)
        if text_alone:
            batch = replace(batch, video=None, audio=None, audio_frames=None)
        for modality, rows in module(batch).embeddings().items():
            if not only or modality in only:
                parts.setdefault(modality, []).append(rows.float())
    dealt = [[number for batch in batches[of :: world()] for number in batch] for of in range(world())]
    sizes = [len(numbers) for numbers in dealt]
    order = torch.tensor([number for numbers in dealt for number in numbers], device=module.device) - batches[0][0]
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=module.device)
    names = sorted({modality for row in _everyones(sorted(parts)) for modality in row})
    dim = int(module.network_config.embedding_dim)  # type: ignore[union-attr,arg-type]
    nothing = torch.zeros(0, dim, device=module.device)
    return {each: gather_rows(torch.cat(parts.get(each, [nothing])), sizes)[place] for each in names}


def embed_texts(module: LightningModule, text: Any, texts: Sequence[str], batch_size: int = 256) -> Tensor:
    """Embed texts, on every process all of them.

    Args:
        module: the model.
        text: ``EvaluationText`` that knows their words.
        texts: n texts.
        batch_size: texts embedded at a time.

    Returns:
        ``(n, D)`` float32.
    """
    found = []
    for first in range(0, len(texts), batch_size):
        some = texts[first : first + batch_size]
        words = text.vectors(some, module.device)
        batch = ClipBatch(ids=tuple(map(str, range(len(some)))), words=words)
        found.append(module(batch).embeddings()["text"].float())
    return torch.cat(found)


def share_out(count: int, work: Callable[[int], Result], name: str, unit: str) -> list[Result]:
    """Do some work for each of several items, each on one process, and return all results in order on every process.

    Args:
        count: number of items.
        work: what is done for an item; its result can be pickled.
        name: of the benchmark, for the progress bar.
        unit: what an item is.

    Raises:
        InputError: on every process, if it ends so on one.
    """

    def tried() -> list[Result]:
        return [work(item) for item in progress(range(rank(), count, world()), name, unit)]

    parts = _tried_by_all(tried)
    return [parts[item % world()][item // world()] for item in range(count)]


def on_first(work: Callable[[], None]) -> None:
    """Do something on the first process; where it ends in an InputError, all end so."""
    _tried_by_all(work if rank() == 0 else lambda: None)


def _tried_by_all(work: Callable[[], Any]) -> list[Any]:
    """Do something on every process and return what each found.

    Raises:
        InputError: on every process, if it ends in one, or in a ValueError, on any: the others would wait for it.
    """
    found, error = None, None
    try:
        found = work()
    except ValueError as reason:
        error = str(reason)
    parts = _everyones((found, error))
    for _, reason_of_one in parts:
        if reason_of_one is not None:
            raise InputError(reason_of_one)
    return [part for part, _ in parts]


def _everyones(own: Any) -> list[Any]:
    """Return what every process has."""
    if world() == 1:
        return [own]
    parts: list[Any] = [None] * world()
    dist.all_gather_object(parts, own)
    return parts
