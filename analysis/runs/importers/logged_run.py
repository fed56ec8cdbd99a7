"""What every importer returns: logged runs with their settings, metrics by step and last values.

An importer puts a metric under the name that its tool gives it. `analysis.runs.importers.rows`
then chooses the loss, the parameters, the tokens and the rest by these names.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

MOST_RUNS = 10_000  # runs of one source; a law needs some hundreds
MOST_ROWS = 2_000_000  # logged steps of one run, a step every 1,000 tokens of 2e9
MOST_NAMES = 1_000  # settings of a run, and metrics of a run, that are read
LONGEST_TEXT = 200  # characters of a setting's text that are read
DEEPEST = 12  # mappings inside one another in a configuration
DAMAGE = (  # what a damaged file of a tool raises while it is read
    ValueError, TypeError, KeyError, IndexError, AttributeError, OSError, OverflowError,
    RecursionError,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LoggedRun:
    """One run as a tool logged it.

    name: of the run in its source: a path below the folder, or the tracker's name
    settings: {dotted name: number, text or boolean} of the configuration
    history: {metric: {step: value}}, finite values alone
    summary: {metric: last value} that the tool states itself, without a step
    stated: our own columns that the tool states (params, tokens, lr, batch, flops, planned_steps);
        `tokens` may be {step: tokens}
    last_step: the last step that was logged, None where the tool counts no steps
    ended: whether the run ended as planned; None where the tool does not say
    why: why it did not, for a run with ended=False
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    history: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    summary: Mapping[str, float] = field(default_factory=dict)
    stated: Mapping[str, Any] = field(default_factory=dict)
    last_step: int | None = None
    ended: bool | None = None
    why: str = ""

    def last(self, metric: str) -> tuple[float | None, int | None]:
        """Return a metric's last value and its step, None where there is none.

        A value of the summary that was not logged at a step is of the run's end.
        """
        values = self.history.get(metric)
        step = max(values) if values else self.last_step
        if metric in self.summary:
            of_end = values and values[max(values)] != self.summary[metric]
            return self.summary[metric], self.last_step if of_end else step
        return (values[max(values)], step) if values else (None, None)

    @property
    def metrics(self) -> list[str]:
        """The names of all metrics, those with steps first."""
        return list(dict.fromkeys((*self.history, *self.summary)))


@dataclass(frozen=True, kw_only=True)
class Logs:
    """All runs of a source.

    tool: that logged them, as a sentence names it
    runs: that could be read
    left_out: [{"run", "why"}] of runs that could not
    losses: names of the tool's losses on held-out text, the usual one first; each may hold `*`
    notes: sentences on what was read and how
    files: that were read, for their hashes; none of an online tracker
    """

    tool: str
    runs: list[LoggedRun]
    left_out: list[dict[str, str]] = field(default_factory=list)
    losses: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


def read_each(
    found: Iterable[tuple[str, Any]], read: Callable[[str, Any], LoggedRun]
) -> tuple[list[LoggedRun], list[dict[str, str]]]:
    """Read runs one by one; return those that were read, and those that were not with the reason.

    found: (name, what `read` takes) of each run
    read: takes a name and that; raises one of `DAMAGE` for a run that cannot be read
    """
    runs, left_out = [], []
    for number, (name, source) in enumerate(found):
        if number >= MOST_RUNS:
            left_out.append({"run": name, "why": f"beyond the {MOST_RUNS:,} runs that are read"})
            continue
        try:
            runs.append(read(name, source))
        except DAMAGE as error:
            left_out.append({"run": name, "why": f"it cannot be read: {_reason(error)}"})
    return runs, left_out


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:LONGEST_TEXT]
    return text if isinstance(error, ValueError | OSError) else f"{type(error).__name__} {text}"


def finite(value: Any) -> float | None:
    """Return a number as a float; None for text, booleans, NaN and infinities."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def flat(values: Any, prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """Return {dotted name: number, text or boolean} of a nested configuration; lists are left out.

    Raises ValueError for one that is nested too deep.
    """
    if depth > DEEPEST:
        raise ValueError(f"its configuration is nested more than {DEEPEST} deep")
    leaves: dict[str, Any] = {}
    for key, value in values.items() if isinstance(values, dict) else ():
        name = f"{prefix}{key}"[:LONGEST_TEXT]
        if isinstance(value, dict):
            leaves |= flat(value, f"{name}.", depth + 1)
        elif isinstance(value, str):
            leaves[name] = printable(value)
        elif isinstance(value, bool) or finite(value) is not None:
            leaves[name] = value
        if len(leaves) >= MOST_NAMES:
            break
    return leaves


def printable(text: str) -> str:
    """Return a text without characters that steer a terminal, shortened to `LONGEST_TEXT`."""
    return "".join(c if c.isprintable() else "?" for c in text[:LONGEST_TEXT])


class History:
    """Collects metrics by step; refuses more rows than `MOST_ROWS`, skips names beyond the most."""

    def __init__(self) -> None:
        self.values: dict[str, dict[int, float]] = {}
        self.last_step: int | None = None
        self._count = 0

    def add(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Add the finite values of a step; a later value of the same step replaces an earlier."""
        self._count += 1
        if self._count > MOST_ROWS:
            raise ValueError(f"it logged more than {MOST_ROWS:,} steps")
        if step < 0:
            raise ValueError(f"it logged the step {step}")
        self.last_step = max(step, self.last_step or 0)
        for name, value in metrics.items():
            number = finite(value)
            if number is None:
                if isinstance(value, float) and name in self.values:
                    self.values[name].pop(step, None)
                continue
            if name not in self.values and len(self.values) >= MOST_NAMES:
                continue
            self.values.setdefault(printable(name), {})[step] = number


_QUANTITY = re.compile(r"\s*([0-9][0-9_,]*(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)\s*([kKmMbBgGtT]?)\s*$")
_SUFFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}


def quantity(value: Any) -> float | None:
    """Return a number, or a text as `125M`, `1.3B` or `6,139,136`, as a float; None for others."""
    if not isinstance(value, str):
        return finite(value)
    match = _QUANTITY.match(value)
    if not match:
        return None
    return finite(float(re.sub("[_,]", "", match[1])) * _SUFFIXES[match[2].lower()])
