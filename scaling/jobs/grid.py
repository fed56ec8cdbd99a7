"""The cells of a multirun, composed from its overrides."""

import logging
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from scaling.app.application import to_dataclass
from scaling.budget import resolve
from scaling.config import CellConfig

log = logging.getLogger(__name__)


def compose_cells(
    loader: Any, config: DictConfig, job_overrides: Sequence[Sequence[str]]
) -> list[CellConfig]:
    """Compose each cell of a multirun; drop those outside the limits of `grid`."""
    composed: dict[tuple[str, ...], DictConfig] = {}
    standing: dict[tuple[str, ...], dict[str, Any]] = {}  # the values that each config has now
    cells, split = [], Splitter(loader)
    for overrides in job_overrides:
        groups, values = split(overrides)
        if groups not in composed:
            composed[groups] = compose_cell(loader, config, groups)
            standing[groups] = {}
        if standing[groups].keys() - dict(values):  # an override that only some cells have
            composed[groups], standing[groups] = compose_cell(loader, config, groups), {}
        for key, value in values:
            if key not in standing[groups] or standing[groups][key] != value:
                OmegaConf.update(composed[groups], key, value)
                standing[groups][key] = value
        cells.append(to_dataclass(composed[groups], CellConfig))
    kept = [c for c in cells if in_grid(c)]
    if len(kept) < len(cells):
        log.info("grid: %d of %d cells lie within its limits", len(kept), len(cells))
    return kept


class Splitter:
    """Part the overrides that need composing from plain values, which are set far faster.

    Each override is parsed once for the whole grid: Hydra takes a sixth of a second for a cell's.
    """

    def __init__(self, loader: Any) -> None:
        self.loader, self.parser = loader, OverridesParser.create()
        self.plain: dict[str, tuple[str, Any] | None] = {}
        self.is_group: dict[str, bool] = {}

    def __call__(self, overrides: Sequence[str]) -> tuple[tuple[str, ...], list[tuple[str, Any]]]:
        """Return the overrides to compose, and the keys and values to set."""
        found = [(text, self.parse(text)) for text in overrides]
        return tuple(t for t, plain in found if plain is None), [p for _, p in found if p]

    def parse(self, text: str) -> tuple[str, Any] | None:
        """Return key and value of a plain override, None for one that must be composed."""
        if text not in self.plain:
            parsed = self.parser.parse_override(text)
            key = parsed.key_or_group
            if key not in self.is_group:
                self.is_group[key] = bool(self.loader.get_group_options(key))
            odd = parsed.is_add() or parsed.is_delete() or parsed.package or self.is_group[key]
            self.plain[text] = None if odd else (key, parsed.value())
        return self.plain[text]


def compose_cell(loader: Any, config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Compose one config of the multirun, without Hydra's own part."""
    cell = loader.load_sweep_config(config, list(overrides))
    with open_dict(cell):
        cell.pop("hydra")
    OmegaConf.set_struct(cell, True)
    return cell


def in_grid(cell: CellConfig) -> bool:
    """Say whether a cell lies within its grid's limits (0 for no limit)."""
    grid, r = cell.grid, resolve(cell)
    return (
        r.n_steps >= grid.min_steps
        and r.tokens_per_param >= grid.min_tokens_per_param
        and (not grid.max_tokens_per_param or r.tokens_per_param <= grid.max_tokens_per_param)
        and (not grid.max_flops or r.flops <= grid.max_flops * 1.05)
        and (
            not grid.max_flops_repeated
            or cell.seed == 0
            or r.flops <= grid.max_flops_repeated * 1.05
        )
    )
