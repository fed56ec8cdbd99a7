"""The cells of one sweep: drop repeated ones, resolve their corpus, collect their records."""

import logging
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scaling.budget import resolve
from scaling.config import CellConfig
from scaling.data.batches import Batches
from scaling.data.tokens import open_corpus
from scaling.data.vocabulary_files import changed_source
from scaling.jobs.cell_states import CellStates
from scaling.schema import Record, Status, find_record, read_json, write_json
from scaling.study.places import record_path, study_folder, trained_at
from scaling.train.test_files import check_texts, sets_sha256

log = logging.getLogger(__name__)


MOST_REASONS = 12  # Lines about cells without a result at the end of a sweep: half a screen.


def log_models_needed(cells: list[CellConfig]) -> None:
    """Log how many models must be trained before the stages that start from them."""
    before = {b.run_id() for c in cells if (b := c.before()) and not trained_at(b)}
    if before:
        log.info("%d models that these start from are trained first", len(before))


def unique(cells: list[CellConfig]) -> list[CellConfig]:
    """Drop repeated cells.

    Raises ValueError where two cells with one run id differ in settings outside their identity.
    """
    firsts: dict[str, CellConfig] = {}
    for cell in cells:
        first = firsts.setdefault(cell.run_id(), cell)
        if (one := run_settings(first)) != (other := run_settings(cell)):
            name = next(n for n in one if one[n] != other[n])
            raise ValueError(
                f"{name}={one[name]} and {name}={other[name]} make one cell, {cell.run_id()}: it "
                f"is known by what it trains, not by how; start each with a study of its own"
            )
    return list(firsts.values())


def run_settings(cell: CellConfig) -> dict[str, Any]:
    """Return the settings of a cell that are no part of its identity."""
    values = {"study": cell.study, "runs": cell.runs}
    for group in ("machine", "log"):
        values |= {f"{group}.{k}": v for k, v in asdict(getattr(cell, group)).items()}
    return values


def resolve_corpus(cells: list[CellConfig]) -> list[CellConfig]:
    """Put the content hashes of corpus and policy into every cell: they are part of its identity.

    A corpus that is not cached is tokenised here, once, before any process starts.
    """
    hold_sources(cells)
    hashes: dict[str, str] = {}
    for cell in cells:
        key = repr((cell.data, cell.tokenizer, cell.eval.test_tokens))
        if key not in hashes:
            hashes[key] = open_corpus(cell).sha256
        cell.data.sha256 = hashes[key]
        cell.eval.sets_sha256 = sets_sha256(cell.eval.sets)
    if any(c.stage in ("reward", "ppo") and c.reward.policy for c in cells):
        from scaling.stages.cells import resolve_policies  # for speed: it loads torch

        resolve_policies(cells)
    if any(c.stage != "pretrain" for c in cells):
        from scaling.stages.cells import refuse_changed_files

        refuse_changed_files(cells)
    return unique(cells)


SOURCES = (
    "sources.json"  # The file of a study: the vocabularies of others that it was started with.
)


def hold_sources(cells: list[CellConfig]) -> None:
    """Refuse a `tokenizer.source` that holds another vocabulary than when the study was started.

    What it holds is written into the study's folder, unless nothing is trained (`dry_run`).
    """
    path = study_folder(cells[0]) / SOURCES
    sha256_by_source: dict[str, str] = read_json(path) if path.is_file() else {}
    hashes = {c.tokenizer.source: c.tokenizer.sha256 for c in cells if c.tokenizer.source}
    for source, sha256 in hashes.items():
        before = sha256_by_source.setdefault(str(Path(source).expanduser().resolve()), sha256)
        if before != sha256:
            raise ValueError(changed_source(source, sha256, before))
    if hashes and not cells[0].dry_run:
        write_json(path, sha256_by_source)


def check_test_sets(cells: list[CellConfig]) -> dict[str, dict[str, int]]:
    """Read the named test sets before anything is submitted; return the bytes of each, by cell id.

    Sets that several cells share are read once. The errors are those of check_texts.
    """
    read: dict[str, dict[str, int]] = {}
    for cell in cells:
        key = repr((cell.eval.sets, cell.data.source, cell.data.text_key, cell.tokenizer))
        if key not in read:
            read[key] = check_texts(cell)
        read[cell.run_id()] = read[key]
    return {cell.run_id(): read[cell.run_id()] for cell in cells}


def check_corpus(cells: list[CellConfig]) -> None:
    """Resolve every cell before the first one trains; warn of budgets that repeat the corpus."""
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
    """Read the records of the cells; RuntimeError where a cell has no result.

    A diverged cell is a result; a warning names it.
    """
    records = [r for c in cells if (r := find_record(record_path(c))) is not None]
    diverged = [r.run_id for r in records if r.status == Status.DIVERGED]
    if diverged:
        log.warning("diverged: %s", ", ".join(diverged))
    with_result = {r.run_id for r in records if r.status != Status.FAILED}
    without = [c for c in cells if c.run_id() not in with_result]
    if without:
        reasons = why_without_result(without)
        for line in reasons[:-1]:
            log.error("%s", line)
        why = f"; {reasons[-1]}" if reasons else ""
        raise RuntimeError(
            f"{len(without)} of {len(cells)} cells have no result{why}; run the same command "
            "again to retry them"
        )
    return records


def why_without_result(cells: list[CellConfig]) -> list[str]:
    """Return, in at most MOST_REASONS lines, why cells have no result, as scaling status has it."""
    folder = study_folder(cells[0])
    states = CellStates(folder)
    states.refresh()
    lines = []
    for status in states.cells([c.run_id() for c in cells]):
        why = status.error or disk_error(folder)
        lines.append(f"{status.run_id} {status.state}" + (f": {why}" if why else ""))
    if len(lines) <= MOST_REASONS:
        return lines
    rest = len(lines) - MOST_REASONS
    more = f"and {rest} more, which scaling status {shlex.quote(str(folder))} lists"
    return [*lines[: MOST_REASONS - 1], more, lines[MOST_REASONS - 1]]


def disk_error(folder: Path) -> str:
    """Say why a study's folder cannot be written to; empty where it can."""
    probe = folder / ".probe"
    try:
        probe.write_text("x" * 4096)
        probe.unlink()
    except OSError as error:
        return f"{folder} cannot be written: {error.strerror}"
    return ""


def first_names(names: list[str]) -> str:
    """Return the first MOST_REASONS names and the number of the others."""
    more = f" and {len(names) - MOST_REASONS} more" if len(names) > MOST_REASONS else ""
    return ", ".join(names[:MOST_REASONS]) + more
