"""Progress with the time left: redrawn on a terminal, plain lines in a log."""

import logging
import math
import sys
import time

log = logging.getLogger(__name__)


class Progress:
    """One line of progress with the time left: redrawn on a terminal, a plain line in a log."""

    def __init__(
        self, what: str, *, total: float, every_seconds: float = 10.0, done: float = 0.0
    ) -> None:
        self.what, self.total, self.every = what, total, every_seconds
        self.terminal = sys.stderr.isatty()
        self._began, self._done_at_start, self._last = time.monotonic(), done, time.monotonic()

    def update(self, done: float, text: str = "") -> None:
        """Show how much of `total` is done, when it is time to."""
        now = time.monotonic()
        if now - self._last < (0.5 if self.terminal else self.every):
            return
        self._last = now
        gained = done - self._done_at_start
        rest = (now - self._began) * (self.total - done) / gained if gained > 0 else math.inf
        times = f"{clock(now - self._began)} gone, {clock(rest)} left"
        line = f"{self.what}: {done / self.total:4.0%}, {times}  {text}".rstrip()
        if self.terminal:
            sys.stderr.write(f"\r\033[K{line}")
            sys.stderr.flush()
        else:
            log.info(line)

    def close(self) -> None:
        """Leave the terminal line."""
        if self.terminal:
            sys.stderr.write("\r\033[K")


def clock(seconds: float) -> str:
    """Write seconds as m:ss or h:mm:ss; an unknown time is `?`."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
