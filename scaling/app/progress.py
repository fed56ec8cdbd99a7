"""Progress of every long command, in one look: a bar with rate and time left, or lines in a log.

    fit  resamples  [=========>          ]  45%  312/s  0:14 gone, 0:17 left

On a terminal the line is redrawn; elsewhere it is a plain log line every `every_seconds`. `bar`
and `rest` are shared with the tables of sweeps and of `scaling status --watch`.
"""

import logging
import math
import shutil
import sys
import time

log = logging.getLogger(__name__)
BAR = 22  # characters of the bar, brackets left out
REDRAWN_SECONDS = 0.5  # The line is redrawn on a terminal this often, in seconds.
COLUMNS_LEAST = 20  # A terminal that says it is narrower is not believed.


class Progress:
    """One line of progress with rate and time left: redrawn on a terminal, plain in a log.

    what: what is done, as "sampling"
    total: how much there is to do, in `unit`
    every_seconds: time between two lines of a log
    done: how much was done before
    unit: what is counted, as "steps"; empty where the number says nothing to a reader
    """

    def __init__(
        self,
        what: str,
        *,
        total: float,
        every_seconds: float = 10.0,
        done: float = 0.0,
        unit: str = "",
    ) -> None:
        self.what, self.total, self.every, self.unit = what, total, every_seconds, unit
        self.terminal = sys.stderr.isatty()
        self._began, self._done_at_start, self._last = time.monotonic(), done, time.monotonic()

    def update(self, done: float, text: str = "") -> None:
        """Show how much of `total` is done, when it is time to."""
        now = time.monotonic()
        if now - self._last < (REDRAWN_SECONDS if self.terminal else self.every):
            return
        self._last = now
        line = self.line(done, now - self._began, text)
        if self.terminal:
            columns = max(COLUMNS_LEAST, shutil.get_terminal_size().columns) - 1
            sys.stderr.write(f"\r\033[K{line[:columns]}")
            sys.stderr.flush()
        else:
            log.info(line)

    def line(self, done: float, seconds: float, text: str = "") -> str:
        """Return the line after so many seconds."""
        share = done / self.total if self.total else 1.0
        gained = done - self._done_at_start
        speed = f"  {rate(gained / seconds, self.unit)}" if self.unit and seconds > 0 else ""
        times = f"{clock(seconds)} gone, {clock(rest(seconds, gained, self.total - done))} left"
        start = f"{self.what}  {bar(share)} " if self.terminal else f"{self.what}: "
        return f"{start}{share:4.0%}{speed}  {times}  {text}".rstrip()

    def close(self) -> None:
        """Leave the terminal line."""
        if self.terminal:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def bar(share: float) -> str:
    """Draw a share, from 0 to 1, as a bar in brackets."""
    filled = round(BAR * min(1.0, max(0.0, share)))
    return f"[{('=' * filled + '>')[:BAR] if filled < BAR else '=' * BAR:<{BAR}}]"


def rest(seconds: float, gained: float, to_do: float) -> float:
    """Return the seconds left, where `seconds` gained so much; infinite where nothing was."""
    return seconds * to_do / gained if gained > 0 else math.inf


def rate(per_second: float, unit: str) -> str:
    """Write a rate for people, as 312 steps/s, 1.2M tokens/s or 4 cells/min."""
    if 0 < per_second < 0.5:
        return f"{60 * per_second:.2g} {unit}/min"
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if per_second >= size:
            return f"{per_second / size:.3g}{letter} {unit}/s"
    return f"{per_second:.3g} {unit}/s"


def clock(seconds: float) -> str:
    """Write seconds as m:ss or h:mm:ss; an unknown time is `?`."""
    if not math.isfinite(seconds):
        return "?"
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{whole:02}" if hours else f"{minutes}:{whole:02}"
