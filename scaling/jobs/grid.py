"""Compose the cells of a multirun from its overrides."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from scaling.app.application import to_dataclass
from scaling.budget import resolve
from scaling.config import CellConfig, TokenizerConfig
from scaling.data.vocabulary_files import with_source
from scaling.jobs.swarm import swarm_of

log = logging.getLogger(__name__)


def compose_cells(
    loader: Any, config: DictConfig, job_overrides: Sequence[Sequence[str]]
) -> list[CellConfig]:
    """Compose each cell of a multirun; drop those outside the limits of `grid`.

    One config is composed for each combination of groups; plain values are set in it.
    """
    composed: dict[tuple[str, ...], DictConfig] = {}
    current: dict[tuple[str, ...], dict[str, Any]] = {}  # values that each config holds now
    vocabularies: dict[str, TokenizerConfig] = {}
    cells, split = [], Splitter(loader)
    for overrides in job_overrides:
        groups, values = split(overrides)
        if groups not in composed:
            composed[groups] = compose_cell(loader, config, groups)
            current[groups] = {}
        if current[groups].keys() - dict(values):  # the cell lacks an override of the one before
            composed[groups], current[groups] = compose_cell(loader, config, groups), {}
        for key, value in values:
            if key not in current[groups] or current[groups][key] != value:
                OmegaConf.update(composed[groups], key, value)
                current[groups][key] = value
        cell = to_dataclass(composed[groups], CellConfig)
        key = repr(cell.tokenizer)
        if key not in vocabularies:
            vocabularies[key] = with_source(cell.tokenizer)
            refuse_two_sizes(dict(values), vocabularies[key])
        cells += swarm_of(replace(cell, tokenizer=vocabularies[key]))
    within = [c for c in cells if in_grid(c)]
    if len(within) < len(cells):
        log.info("grid: %d of %d cells lie within its limits", len(within), len(cells))
    return within


def refuse_two_sizes(values: dict[str, Any], vocabulary: TokenizerConfig) -> None:
    """Raise ValueError where an override sets another size than the vocabulary of the source has.

    values: the plain overrides of a cell
    vocabulary: the settings with the source's size
    """
    size = values.get("tokenizer.vocab_size", vocabulary.vocab_size)
    if vocabulary.source and size != vocabulary.vocab_size:
        raise ValueError(
            f"tokenizer.vocab_size={size} and tokenizer.source={vocabulary.source}, of"
            f" {vocabulary.vocab_size} tokens, both set the vocabulary; leave one of them out"
        )


class Splitter:
    """Divides overrides into those that must be composed and plain values, which are set faster.

    It parses each override once for the whole grid: Hydra takes a sixth of a second for one cell.
    """

    def __init__(self, loader: Any) -> None:
        self.loader, self.parser = loader, OverridesParser.create()
        self.plain: dict[str, tuple[str, Any] | None] = {}
        self.is_group: dict[str, bool] = {}

    def __call__(self, overrides: Sequence[str]) -> tuple[tuple[str, ...], list[tuple[str, Any]]]:
        """Return the overrides to compose, and the keys and values to set."""
        parsed = [(text, self.parse(text)) for text in overrides]
        return tuple(t for t, plain in parsed if plain is None), [p for _, p in parsed if p]

    def parse(self, text: str) -> tuple[str, Any] | None:
        """Return key and value of a plain override; None for one that must be composed."""
        if text not in self.plain:
            parsed = self.parser.parse_override(text)
            key = parsed.key_or_group
            if key not in self.is_group:
                self.is_group[key] = bool(self.loader.get_group_options(key))
            special = parsed.is_add() or parsed.is_force_add() or parsed.is_delete()
            special = special or parsed.package or self.is_group[key]
            self.plain[text] = None if special else (key, parsed.value())
        return self.plain[text]


def compose_cell(loader: Any, config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Compose one config of the multirun, without the settings of Hydra itself."""
    cell = loader.load_sweep_config(config, list(overrides))
    with open_dict(cell):
        cell.pop("hydra")
    OmegaConf.set_struct(cell, True)
    return cell


def in_grid(cell: CellConfig) -> bool:
    """Say whether a cell lies within its grid's limits; a limit of 0 is none."""
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
