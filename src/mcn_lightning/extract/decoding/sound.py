"""The sound of a file as one row of samples from time zero on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import av

    from mcn_lightning.extract.decode import SoundSink

GAP = 0.1
"""Seconds between timestamp and sound from which on silence is filled in, or what overlaps is dropped."""
DRIFT = 0.01
"""The same for the mean over some frames. Single timestamps are rounded, and often late by more."""
STEADY = 8
"""Frames over which that mean is taken."""


class SoundWriter:
    """Resamples sound, takes the mean of its channels, and puts it where its timestamps say.

    Args:
        sink: what takes the samples.
    """

    def __init__(self, sink: SoundSink) -> None:
        self._sink = sink
        self._written = 0  # samples that the sink has
        self._surplus = 0  # samples to drop, as they lie before zero or were given already
        self.next_time = 0.0  # when the next frame is heard, if the sound goes on
        self._drift = 0.0
        self._resampler: av.AudioResampler | None = None
        self._format: tuple[object, ...] = ()

    def write(self, frame: av.AudioFrame, time: float) -> None:
        """Take decoded sound that is heard from ``time`` on."""
        import av

        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        late = time - self.next_time
        self._drift += (late - self._drift) / STEADY
        if self._resampler is None or kind != self._format or abs(late) > GAP or abs(self._drift) > DRIFT:
            self._flush()
            self._move_to(round(time * self._sink.sample_rate))
            self._resampler, self._format = av.AudioResampler(format="fltp", rate=self._sink.sample_rate), kind
            self.next_time, self._drift = time, 0.0
        self.next_time += frame.samples / frame.sample_rate
        frame.pts = None  # the place is known, and the resampler would fill gaps in its own way
        self._give(self._resampler.resample(frame))

    def close(self) -> float:
        """Give what the resampler still holds, and return the seconds of sound."""
        self._flush()
        return self._written / self._sink.sample_rate

    def _flush(self) -> None:
        if self._resampler is not None:
            self._give(self._resampler.resample(None))
            self._resampler = None

    def _move_to(self, sample: int) -> None:
        """Let the next sample be this one: silence before it, or what is given already is dropped."""
        # a second at a time, as a gap may last for hours
        silence = np.zeros(self._sink.sample_rate, dtype=np.float32)
        while sample > self._written:
            part = silence[: sample - self._written]
            self._sink.take(part)
            self._written += len(part)
        self._surplus = self._written - sample

    def _give(self, frames: list[av.AudioFrame]) -> None:
        for frame in frames:
            samples = frame.to_ndarray().mean(axis=0)[self._surplus :]
            self._surplus -= min(self._surplus, frame.samples)
            self._written += len(samples)
            # one damaged number would be in the mean of all
            self._sink.take(np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0))
