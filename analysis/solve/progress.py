"""Telling how far a fit is: what takes long calls `tell(stage, done, total)`."""

from collections.abc import Callable

from scaling.app.progress import Progress

Tell = Callable[[str, int, int], None]


def silent(stage: str, done: int, total: int) -> None:
    """Tell nothing."""


def shown() -> Tell:
    """Return what shows each stage that takes long on stderr, with the time left."""
    lines: dict[str, Progress] = {}

    def tell(stage: str, done: int, total: int) -> None:
        line = lines.setdefault(stage, Progress(stage, total=total))
        line.update(done)
        if done == total:
            lines.pop(stage).close()

    return tell
