"""Messages about training videos that are skipped, or lack a modality."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from mcn_lightning.batch import MODALITIES, BadVideo, ClipBatch
from mcn_lightning.errors import InputError

logger = logging.getLogger(__name__)


class SkippedVideos:
    """Counts the training videos that cannot be used.

    The reason of each video is logged once, and the number of videos and captions once an epoch.

    Args:
        max_share: largest share of the training videos that may be unusable.
        total: number of training videos.
    """

    def __init__(self, max_share: float, total: int = 0) -> None:
        self.max_share, self.total = max_share, total
        self.videos: set[str] = set()
        self.captions = ""  # text with the number of dropped captions of usable videos
        self._reasons: set[str] = set()
        self._epoch: int | None = None
        self._in_epoch = 0

    def begin(self, epoch: int) -> None:
        """Begin an epoch, unless it is the present one, and log the counts of the previous one."""
        if epoch != self._epoch:
            self.end()
            self._epoch = epoch

    def end(self) -> None:
        """Log the counts of the epoch."""
        if self._epoch is not None and self._in_epoch:
            logger.warning("epoch %d went without %d of %d videos", self._epoch + 1, self._in_epoch, self.total)
        if self._epoch is not None and self.captions:
            logger.warning("epoch %d went without %s", self._epoch + 1, self.captions)
        self._epoch, self._in_epoch = None, 0

    def add(self, skipped: Sequence[BadVideo]) -> None:
        """Count videos.

        Raises:
            InputError: if more than the allowed share are unusable.
        """
        self._in_epoch += len(skipped)
        for bad in skipped:
            known = bad.video in self.videos or bad.reason in self._reasons  # a lost shard is one reason of many videos
            self.videos.add(bad.video)
            self._reasons.add(bad.reason)
            if not known:
                logger.warning("skipped video %s (%d so far): %s", bad.video, len(self.videos), bad.reason)
        # distinct videos: one that is skipped in every epoch counts once
        if skipped and len(self.videos) > self.max_share * self.total:
            found = f"{len(self.videos)} of {self.total} training videos ({len(self.videos) / self.total:.1%})"
            limit, last = f"--data.max_bad_share {self.max_share:g}", skipped[-1].reason
            raise InputError(f"{found} are unusable, more than {limit} allows; last: {last}")


class MissingModalities:
    """Counts the training videos that lack a modality.

    The first video without a modality is logged, and the number of videos once an epoch.

    Args:
        modalities: modalities of the data.
    """

    def __init__(self, modalities: Sequence[str]) -> None:
        self.modalities = [name for name in MODALITIES if name in modalities]
        self._logged: set[str] = set()
        self._epoch: int | None = None
        self._counts = dict.fromkeys(self.modalities, 0)
        self._videos = 0

    def add(self, epoch: int, batch: ClipBatch) -> None:
        """Count the videos of a batch, and log the first that lacks a modality."""
        if epoch != self._epoch:
            self.end()
            self._epoch = epoch
        # ids end in the number of the clip; all clips of a video have the same modalities
        videos = {name.rsplit(":", 1)[0]: row for row, name in enumerate(batch.ids)}
        self._videos += len(videos)
        if batch.present is None:
            return
        rows = dict(zip(videos, batch.present[list(videos.values())].tolist(), strict=True))
        for name in self.modalities:
            missing = [video for video, present in rows.items() if not present[MODALITIES.index(name)]]
            self._counts[name] += len(missing)
            if missing and name not in self._logged:
                self._logged.add(name)
                logger.warning("video %s has no %s, and trains without it (--data.allow_missing)", missing[0], name)

    def end(self) -> None:
        """Log the counts of the epoch."""
        counts = ", ".join(f"{count} had no {name}" for name, count in self._counts.items() if count)
        if self._epoch is not None and counts:
            logger.warning("epoch %d: of %d videos %s", self._epoch + 1, self._videos, counts)
        self._epoch, self._videos, self._counts = None, 0, dict.fromkeys(self.modalities, 0)
