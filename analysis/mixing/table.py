"""Trained mixtures as a table: shares and losses by row, from a table's columns or from records.

Shares of a row add to 1; rows whose rounded shares add to nearly 1 are divided by their sum. A row
without a share or a loss is refused by its number.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.alarms.alarm import named_rows
from analysis.forms import Array
from analysis.mixing.laws import MixtureLaw
from analysis.mixing.options import MixtureConfig
from analysis.mixing.study import read_swarm
from analysis.runs.condition import rows
from analysis.runs.files import read_file
from scaling.schema import did_you_mean

SUM_ERROR = 0.015  # rounding of up to 30 shares to three digits, 30 x .0005
PERCENT = 100.0  # what the shares of a row add to where they are percentages
SHOWN_SUMS = 3  # sums of rows that a refusal shows


@dataclass(frozen=True, kw_only=True)
class Swarm:
    """Trained mixtures.

    sources: names of the J sources
    domains: names of the domains whose losses are known
    shares: (n, J), rows add to 1
    losses: (n, domains), nats per token
    columns: names of the columns of `losses` in the table, in order
    inputs: where it was read from, with sha256
    left_out: why cells of a study were left out
    """

    sources: tuple[str, ...]
    domains: tuple[str, ...]
    shares: Array
    losses: Array
    columns: tuple[str, ...]
    inputs: dict[str, Any]
    left_out: list[dict[str, str]] = field(default_factory=list)


def load_swarm(config: MixtureConfig) -> Swarm:
    """Read the trained mixtures; FileNotFoundError or ValueError for what no law can be fitted to.

    config: `runs`, `where`, and the names of the columns
    """
    path, left_out = Path(config.runs), []
    if path.is_dir():
        raw, left_out, inputs = read_swarm(path)
        share_names, loss_names = "share_*", "loss_*"
    else:
        raw, inputs = read_file(path)
        share_names, loss_names = config.shares, config.losses
    if config.where:
        matching = rows(raw, config.where)
        if not matching.any():
            raise ValueError(f"where={config.where} matches no row; change or drop it")
        raw = raw.assign(row=np.arange(1, len(raw) + 1)).loc[matching]
    sources = columns_of(raw, share_names, "shares")
    domains = columns_of(raw, loss_names, "losses")
    shares = shares_of(raw, list(sources.values()), config.runs)
    losses = _numbers(raw, list(domains.values()), config.runs)
    if not (losses > 0).all():
        at = named_rows(raw, np.asarray((losses <= 0).any(axis=1)))
        raise ValueError(
            f"{config.runs}: {at} have a loss that is not positive; losses are in nats per token"
        )
    _refuse_constant(sources, shares)
    return Swarm(
        sources=tuple(sources),
        domains=tuple(domains),
        shares=shares,
        losses=losses,
        columns=tuple(domains.values()),
        inputs=inputs,
        left_out=left_out,
    )


def check_size(swarm: Swarm, law: MixtureLaw) -> None:
    """Raise ValueError for fewer different mixtures than the law of a domain has parameters."""
    different, size = len(np.unique(swarm.shares, axis=0)), law.size(len(swarm.sources))
    if different < size:
        raise ValueError(
            f"{swarm.inputs['source']} has {different} different mixtures, and {law.name} has"
            f" {size} parameters for {len(swarm.sources)} sources; train {size - different} or more"
            " further mixtures, twice as many for useful intervals"
        )


def read_shares(path: str, swarm: Swarm, pattern: str) -> Array:
    """Return the shares (m, J) of another table, in the order of the swarm's sources.

    path: of the table
    swarm: whose sources it must have
    pattern: of the columns, with one *
    """
    raw, _ = read_file(Path(path))
    names = [pattern.replace("*", source) for source in swarm.sources]
    if missing := [name for name in names if name not in raw]:
        raise ValueError(
            f"predict={path} has no column {', '.join(missing)}; it needs the share of every"
            " source of runs"
        )
    own = columns_of(raw, pattern, "shares")
    unknown = [own[s] for s in own if s not in swarm.sources]
    if unknown and np.any(_numbers(raw, unknown, path) > 0):
        raise ValueError(
            f"predict={path} has shares of {', '.join(unknown)}, which runs has not; the law knows"
            " nothing of them: train mixtures with them"
        )
    return shares_of(raw, names, path)


def columns_of(raw: pd.DataFrame, pattern: str, key: str) -> dict[str, str]:
    """Return {name: column} of the columns that meet a pattern with one *; ValueError for none."""
    head, _, tail = pattern.partition("*")
    found = re.compile(re.escape(head) + "(.+)" + re.escape(tail))
    names = {m[1]: str(c) for c in raw.columns if (m := found.fullmatch(str(c)))}
    if not names:
        raise ValueError(
            f"the table has no column that meets {key}={pattern}; its columns are"
            f" {', '.join(map(str, raw.columns[:12]))}; name them, as {key}='PREFIX_*'"
        )
    return names


def shares_of(raw: pd.DataFrame, columns: Sequence[str], source: str) -> Array:
    """Return the shares (n, J) of a table, each row divided by its sum.

    raw: the table
    columns: of the shares
    source: of the table, for messages

    Raises ValueError for what is no number from 0 to 1, and for rows that do not add to 1.
    """
    values = _numbers(raw, columns, source)
    sums = values.sum(axis=1)
    wrong = ~(np.abs(sums - 1) <= SUM_ERROR)
    if wrong.any():
        shown = ", ".join(f"{s:.4g}" for s in sums[wrong][:SHOWN_SUMS])
        percent = np.allclose(sums, PERCENT, atol=SUM_ERROR * PERCENT)
        fix = "divide them by 100" if percent else "repair them, or name all share columns"
        raise ValueError(
            f"{source}: the shares of {named_rows(raw, wrong)} add to {shown} and not to 1; {fix}"
        )
    if (values < 0).any():
        at = named_rows(raw, np.asarray((values < 0).any(axis=1)))
        raise ValueError(f"{source}: {at} have a share below 0; shares lie between 0 and 1")
    return values / sums[:, None]


def weights_of(
    values: Mapping[str, float], names: Sequence[str], key: str, noun: str
) -> Array | None:
    """Return the values of a setting by name, 0 where it has none; None where it is empty.

    values: the setting, {name: value}
    names: the legal names, in order
    key: the setting's name
    noun: what a name is, as source or domain

    Raises ValueError for a name that there is not.
    """
    for name in values:
        if name not in names:
            raise ValueError(
                f"{key} names {name}, which is no {noun} of runs{did_you_mean(name, names)};"
                f" choose among {', '.join(names)}"
            )
    return np.array([float(values.get(n, 0.0)) for n in names]) if values else None


def natural_shares(config: MixtureConfig, swarm: Swarm) -> Array:
    """Return the natural shares (J,): of the setting, else the mean of the swarm's.

    Raises ValueError for a source that there is not, and for shares that do not add to 1.
    """
    own = weights_of(config.natural, swarm.sources, "natural", "source")
    if own is None:
        return swarm.shares.mean(axis=0)
    if abs(own.sum() - 1) > SUM_ERROR:
        raise ValueError(
            f"natural={dict(config.natural)} adds to {own.sum():.4g} and not to 1; give the share"
            " of every source that is not 0"
        )
    return own / own.sum()


def _numbers(raw: pd.DataFrame, columns: Sequence[str], source: str) -> Array:
    """Return columns as finite numbers (n, columns); ValueError names rows that are not."""
    values = raw.loc[:, list(columns)].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)
    bad = np.asarray(~np.isfinite(values))
    if bad.any():
        column = columns[int(np.flatnonzero(bad.any(axis=0))[0])]
        at = named_rows(raw, np.asarray(bad.any(axis=1)))
        raise ValueError(
            f"{source}: column {column} holds no number in {at}; fill it, or leave these rows out"
            " with where="
        )
    return values


def _refuse_constant(sources: Mapping[str, str], shares: Array) -> None:
    constant = np.ptp(shares, axis=0) < 1e-9
    if constant.any():
        name = list(sources.values())[int(np.flatnonzero(constant)[0])]
        value = shares[0, int(np.flatnonzero(constant)[0])]
        raise ValueError(
            f"{name} is {value:.3g} in every row, so what this source is worth cannot be told;"
            " train mixtures in which it varies"
            + (", or leave the column out" if value == 0 else "")
        )
