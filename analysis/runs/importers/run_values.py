"""Our columns of one logged run: N, D, C, rate, batch and seed, at the step of its loss.

A value comes from the CSV beside the logs, else from what the tool states, else from a setting or
metric of a usual name (`analysis.runs.importers.names`).
"""

from collections.abc import Mapping
from typing import Any

from analysis.runs.importers import names
from analysis.runs.importers.logged_run import LoggedRun, finite, quantity
from analysis.runs.importers.options import LogsConfig


class ValuesOf:
    """Finds the values of one run.

    run: the run
    step: of the loss; None where the tool counts no steps
    options: what the logs do not say
    beside: the run's row of the CSV beside the logs
    seen: collects a sentence for each name whose values were converted
    """

    def __init__(
        self,
        run: LoggedRun,
        step: int | None,
        options: LogsConfig,
        beside: Mapping[str, Any],
        seen: dict[str, str],
    ) -> None:
        self._run, self._step, self._options = run, step, options
        self._beside, self._seen = beside, seen

    def ours(self) -> dict[str, float]:
        """Return the values that are known, by our names."""
        values = {
            "params": self._params(),
            "tokens": self._tokens(),
            "flops": self._flops(),
            "lr": self._lr(),
            "batch": self._batch(),
            "seed": self._given("seed") or first_number(self._run.settings, names.SEED),
        }
        known = {k: self._given(k) for k in self._beside if k in ("loss", "unique_tokens")}
        return {k: v for k, v in {**values, **known}.items() if v is not None}

    def _params(self) -> float | None:
        given = self._given("params")
        return given if given is not None else self._by_name(names.PARAMS)

    def _tokens(self) -> float | None:
        """Return the tokens at the step of the loss."""
        if (given := self._given("tokens", stated=False)) is not None:
            return given
        by_step = self._run.stated.get("tokens")
        if by_step is None and (found := names.named(self._run.history, names.TOKENS)):
            by_step = self._run.history[found[0]]
        batch, step = self._batch(), self._step
        if isinstance(by_step, Mapping) and step is not None:
            if step in by_step:
                return by_step[step]
            nearest = min(by_step, key=lambda logged: abs(logged - step))
            if batch is None and nearest > 0:  # the tokens of a step are taken as constant
                return by_step[nearest] / nearest * step
        elif (number := finite(by_step)) is not None and step in (None, self._run.last_step):
            return number
        return batch * step if batch is not None and step else self._by_name(names.TOKENS)

    def _batch(self) -> float | None:
        """Return the tokens of a step."""
        if (given := self._given("batch", stated=False)) is not None:
            return given
        if self._options.tokens_per_step is not None:
            return self._options.tokens_per_step
        if (stated := finite(self._run.stated.get("batch"))) is not None:
            return stated
        if (number := self._by_name(names.BATCH)) is not None:
            return number
        sequences = first_number(self._run.settings, names.SEQUENCES)
        context = first_number(self._run.settings, names.CONTEXT)
        return sequences * context if sequences and context else None

    def _flops(self) -> float | None:
        stated = self._run.stated.get("flops")
        if "flops" not in self._beside and isinstance(stated, Mapping):
            return stated.get(self._step)
        if (given := self._given("flops")) is not None:
            return given
        per_token, tokens = finite(self._run.stated.get("flops_per_token")), self._tokens()
        if per_token and tokens:
            return per_token * tokens
        found = names.named(self._run.metrics, names.FLOPS)
        value, step = self._run.last(found[0]) if found else (None, None)
        return value if step == self._step else None

    def _lr(self) -> float | None:
        """Return the peak rate: of the settings, else the highest that was logged."""
        if (given := self._given("lr")) is not None:
            return given
        if (number := first_number(self._run.settings, names.LR_SETTING)) is not None:
            return number
        series = {} if names.RELATIVE_RATE in self._run.history else rate_of(self._run)
        return max(series.values(), default=0.0) or None

    def _given(self, name: str, *, stated: bool = True) -> float | None:
        if name in self._beside:
            return self._number(self._beside[name], f"{name} of logs.beside")
        return finite(self._run.stated.get(name)) if stated else None

    def _by_name(self, wanted: tuple[str, ...]) -> float | None:
        """Return the number of the first usual name among settings and last values."""
        values = {name: self._run.last(name)[0] for name in self._run.metrics}
        values |= self._run.settings
        for name in names.named(values, wanted):
            number = self._number(values[name], name)
            if number is not None and number > 0:
                return number
        return None

    def _number(self, value: Any, name: str) -> float | None:
        """Return a number with the unit that its text or its name gives, and say so."""
        number, factor = quantity(value), names.scale_of(names.plain(name))[1]
        if number is None:
            return None
        if isinstance(value, str) and value.strip()[-1:].isalpha():
            self._seen.setdefault(
                name, f"{name}: texts as {value.strip()} are read as numbers, as {number:.6g}"
            )
        elif factor != 1.0 and number < factor:
            self._seen.setdefault(name, f"{name} is multiplied by {factor:g}, as its name says")
            return number * factor
        return number


def rate_of(run: LoggedRun) -> Mapping[int, float]:
    """Return the learning rate by step: of the first metric that is called one; {} for none."""
    found = [m for m in run.history if names.LR_METRIC.search(names.plain(m))]
    return run.history[min(found, key=len)] if found else {}


def first_number(values: Mapping[str, Any], wanted: tuple[str, ...]) -> float | None:
    """Return the first positive number of a usual name; None for none."""
    for name in names.named(values, wanted):
        number = quantity(values[name])
        if number is not None and number > 0:
            return number
    return None
