"""A command that trains in its own process writes a checkpoint before a signal ends it."""

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from scaling.study.lease import Pulse
from scaling.study.states import Outcome

log = logging.getLogger(__name__)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


@contextmanager
def stop_on_signal(pulse: Pulse) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGUSR2 set `pulse.stop`; the second one ends the work at once.

    pulse: of the training inside, which then writes a checkpoint and raises Stopped

    The handlers from before are back afterwards. Call it in the main thread.
    """

    def stop(number: int, frame: object) -> None:
        if pulse.stop:
            raise KeyboardInterrupt
        preempted = number == signal.SIGUSR2
        pulse.stop = Outcome.PREEMPTED if preempted else Outcome.STOPPED
        log.info("asked to stop: ends after a checkpoint; ask again to end at once without one")

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
