"""How a fit reports its progress: long steps call `on_progress(stage, done, total)`."""

from collections.abc import Callable

from scaling.app.progress import Progress

FEW = 20  # steps, below which a rate says nothing
OnProgress = Callable[[str, int, int], None]


def no_progress(stage: str, done: int, total: int) -> None:
    """Show nothing."""


def progress_on_stderr() -> OnProgress:
    """Return a callback that shows one line a stage on stderr, with the time left."""
    lines: dict[str, Progress] = {}

    def on_progress(stage: str, done: int, total: int) -> None:
        line = lines.setdefault(
            stage, Progress(stage, total=total, unit=stage if total >= FEW else "")
        )
        line.update(done)
        if done == total:
            lines.pop(stage).close()

    return on_progress
