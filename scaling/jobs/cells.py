"""The cells of one sweep: made unique, their corpus resolved, their records collected."""

import logging
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scaling.config import CellConfig
from scaling.jobs.cell_states import Survey
from scaling.schema import Record, find_record
from scaling.study.places import record_path, study_folder, trained_at

log = logging.getLogger(__name__)


MOST_REASONS = 12  # lines about cells without a result at the end of a sweep: half a screen


def say_models(cells: list[CellConfig]) -> None:
    """Say how many models must be trained before the stages that start from them."""
    before = {b.run_id() for c in cells if (b := c.before()) and not trained_at(b)}
    if before:
        log.info("%d models that these start from are trained first", len(before))


def unique(cells: list[CellConfig]) -> list[CellConfig]:
    """Drop cells that are the same as one before.

    Raises ValueError where they differ in how they are run, which tells no cells apart.
    """
    kept: dict[str, CellConfig] = {}
    for cell in cells:
        first = kept.setdefault(cell.run_id(), cell)
        if (one := settings(first)) != (other := settings(cell)):
            name = next(n for n in one if one[n] != other[n])
            raise ValueError(
                f"{name}={one[name]} and {name}={other[name]} make one cell, {cell.run_id()}: it "
                f"is known by what it trains, not by how; start each with a study of its own"
            )
    return list(kept.values())


def settings(cell: CellConfig) -> dict[str, Any]:
    """Return what a sweep may set of a cell without making it another."""
    named = {"study": cell.study, "runs": cell.runs}
    for group in ("machine", "log"):
        named |= {f"{group}.{k}": v for k, v in asdict(getattr(cell, group)).items()}
    return named


def resolve_corpus(cells: list[CellConfig]) -> list[CellConfig]:
    """Put the content hashes of corpus and policy into every cell: others make another cell.

    Tokenises what is not cached yet, once, before any process starts.
    """
    from scaling.data.tokens import open_corpus

    known: dict[str, str] = {}
    for cell in cells:
        key = repr((cell.data, cell.tokenizer))
        if key not in known:
            known[key] = open_corpus(cell).sha256
        cell.data.sha256 = known[key]
    if any(c.stage in ("reward", "ppo") and c.reward.policy for c in cells):
        from scaling.stages.cells import resolve_policies

        resolve_policies(cells)
    if any(c.stage != "pretrain" for c in cells):
        from scaling.stages.cells import refuse_changed_files

        refuse_changed_files(cells)
    return unique(cells)


def check_corpus(cells: list[CellConfig]) -> None:
    """Resolve every cell before the first trains; say which budgets repeat the corpus."""
    from scaling.budget import resolve
    from scaling.data.batches import Batches
    from scaling.data.tokens import open_corpus

    largest = max(cells, key=lambda c: resolve(c).n_tokens)
    budget, corpus = resolve(largest), open_corpus(largest)
    batches = Batches.of(corpus, largest.data, rows=budget.rows, seed=largest.seed)
    if (epochs := batches.epochs(budget.n_tokens)) > 1:
        log.warning(
            "the largest budget takes %s tokens, of which %s are unique: up to %.1f epochs; "
            "records keep unique_tokens",
            f"{budget.n_tokens:,}",
            f"{batches.unique(budget.n_tokens):,}",
            epochs,
        )


def collect(cells: list[CellConfig]) -> list[Record]:
    """Read the records back; say what diverged and why, raise for what failed."""
    found = [find_record(record_path(c)) for c in cells]
    records = [r for r in found if r is not None]
    diverged = [r.run_id for r in records if r.status == "diverged"]
    if diverged:
        log.warning("diverged: %s", ", ".join(diverged))
    settled = {r.run_id for r in records if r.status != "failed"}
    without = [c for c in cells if c.run_id() not in settled]
    if without:
        reasons = why_without(without)
        for line in reasons[:-1]:
            log.error("%s", line)
        why = f"; {reasons[-1]}" if reasons else ""
        raise RuntimeError(
            f"{len(without)} of {len(cells)} cells have no result{why}; run the same command "
            "again to retry them"
        )
    return records


def why_without(cells: list[CellConfig]) -> list[str]:
    """Return why cells have no result, a line each, as scaling.status gives it; MOST_REASONS."""
    folder = study_folder(cells[0])
    survey = Survey(folder)
    survey.refresh()
    lines = []
    for status in survey.cells([c.run_id() for c in cells]):
        why = status.error or disk_error(folder)
        lines.append(f"{status.run_id} {status.state}" + (f": {why}" if why else ""))
    if len(lines) <= MOST_REASONS:
        return lines
    rest = len(lines) - MOST_REASONS
    more = f"and {rest} more, which python -m scaling.status {shlex.quote(str(folder))} lists"
    return [*lines[: MOST_REASONS - 1], more, lines[MOST_REASONS - 1]]


def disk_error(folder: Path) -> str:
    """Say why nothing can be written to a study's folder; empty where it can."""
    probe = folder / ".probe"
    try:
        probe.write_text("x" * 4096)
        probe.unlink()
    except OSError as error:
        return f"{folder} cannot be written: {error.strerror}"
    return ""


def few(names: list[str]) -> str:
    """Return some names and how many more there are."""
    more = f" and {len(names) - MOST_REASONS} more" if len(names) > MOST_REASONS else ""
    return ", ".join(names[:MOST_REASONS]) + more
