"""When frames are shown: which of a clip's are written, and at what times."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from fractions import Fraction

from facke_core.errors import UsageError
from facke_core.video.media import Clip

__all__: list[str] = []

SECONDS = 10
"""Length of a segment."""
MAX_FPS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which frames of a clip are written, and when they are shown; plain values."""

    first: int
    """The number of the first frame that is used."""
    time_base: str
    """The unit of the times that are written."""
    shown: list[list[int]]
    """For each frame from :attr:`first` on, the times at which it is shown: one, where the rate
    stays; none, or several, where it becomes another."""
    last: int
    """How long the last one is shown, in units of the time base."""
    start: str = "0"
    """Seconds of the clip before what is written: a fraction; times begin there."""
    end: float | None = None
    """The end, in seconds of the clip. None: that of the clip."""

    @property
    def stop(self) -> int:
        """The number after that of the last frame."""
        return self.first + len(self.shown)

    @property
    def unit(self) -> Fraction:
        """The time base."""
        return Fraction(self.time_base)

    @property
    def times(self) -> list[int]:
        """When each frame that is written is shown."""
        return [time for times in self.shown for time in times]

    @property
    def parts(self) -> list[range]:
        """The segments: each begins with the first frame that is shown in ten further seconds."""
        cuts, at, zero = [self.first], 1, None
        for index, times in enumerate(self.shown, self.first):
            if not times:
                continue
            zero = times[0] if zero is None else zero
            if (times[0] - zero) * self.unit >= at * SECONDS:
                cuts.append(index)
                at = int((times[0] - zero) * self.unit / SECONDS) + 1
        return [range(a, b) for a, b in zip(cuts, [*cuts[1:], self.stop], strict=True)]

    @property
    def rate(self) -> Fraction:
        """Frames per second on average."""
        times = self.times
        span = (times[-1] - times[0] + self.last) * self.unit
        rate = Fraction(len(times)) / span if span else Fraction(25)
        return max(min(rate, Fraction(MAX_FPS)), Fraction(1, 100)).limit_denominator(1001)


def plan_of(
    clip: Clip, *, start: float | None = None, end: float | None = None, fps: float | None = None
) -> Plan:
    """Plan what is written of a clip.

    Args:
        clip: the clip.
        start: seconds; what is shown before is left out.
        end: seconds; what is shown from there on is left out.
        fps: frames per second. Frames are left out or shown again; None: each at its own time.

    Raises:
        UsageError: nothing is left of the clip, or an impossible rate.
    """
    if (start or 0) < 0 or (end is not None and end <= (start or 0)):
        raise UsageError(
            f"start={start or 0:g} and end={'the end' if end is None else f'{end:g}'} leave "
            "nothing of the clip. Use `start` from 0, and an `end` after it, in seconds."
        )
    unit = clip.unit
    shift = round(Fraction(start or 0) / unit)
    first = bisect.bisect_left(clip.times, shift) if start else 0
    stop = len(clip.times) if end is None else bisect.bisect_left(clip.times, Fraction(end) / unit)
    if first >= stop:
        ends = float((clip.times[-1] + clip.last) * unit)
        raise UsageError(
            f"No frame of the clip is shown from {start or 0:g} s on"
            f"{'' if end is None else f' and before {end:g} s'}: it ends at {ends:.2f} s. Choose "
            "another `start`."
        )
    times = [time - shift for time in clip.times[first:stop]]
    last = clip.last if stop == len(clip.times) else clip.times[stop] - clip.times[stop - 1]
    begin = str(shift * unit)
    if fps is None:
        shown = [[time] for time in times]
        return Plan(first=first, time_base=str(unit), shown=shown, last=last, start=begin, end=end)
    if not 0 < fps <= MAX_FPS:
        raise UsageError(f"fps={fps:g} is not possible. Use a number up to {MAX_FPS}.")
    rate = Fraction(fps).limit_denominator(1001)
    finer = Fraction(1, math.lcm(unit.denominator, rate.numerator))
    ticks = [int(time * unit / finer) for time in times]
    step, finish = int(1 / rate / finer), ticks[-1] + int(last * unit / finer)
    shown = [[] for _ in ticks]
    for time in range(ticks[0], max(finish, ticks[0] + 1), step):
        shown[bisect.bisect_right(ticks, time) - 1].append(time)
    return Plan(first=first, time_base=str(finer), shown=shown, last=step, start=begin, end=end)
