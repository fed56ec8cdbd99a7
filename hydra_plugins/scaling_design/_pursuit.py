"""The loop of the design sweeper: read the records, choose a batch of cells, run it, repeat.

The loop keeps its state on disk: the records, and runs/NAME/design.jsonl with one line for each
batch, written before the batch is launched. The same command therefore goes on after an
interruption, with the same choices. The module's name begins with `_` because Hydra imports every
other module of a plugin at start.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from analysis.designing.batch_file import Batch, append_batch, batch_lines, cell_rows, read_batches
from analysis.designing.candidates import Candidate, candidate_of, flops_of, reached_by
from analysis.designing.goal import Goal, check_goal
from analysis.designing.next_step import Options, Step, next_step
from analysis.laws.published import load_law
from analysis.runs.table import load_runs
from scaling.app.next_command import next_command
from scaling.app.values import pasted
from scaling.budget import branch_of, resolve
from scaling.config import CellConfig
from scaling.jobs.cells import resolve_corpus, unique
from scaling.schema import Record, read_records
from scaling.study.places import study_folder

log = logging.getLogger(__name__)
# Statuses of records that are a result. A failed cell is no result: it runs again.
SETTLED = ("done", "diverged")


def pursue(cells: list[CellConfig], run: Callable[[list[CellConfig]], object]) -> list[Batch]:
    """Run batches of cells until the target is reached, or the budget or the pool is spent.

    cells: the pool, all with the same `target`
    run: trains cells and returns when they have ended

    ValueError for a target that cannot be pursued. A dry run prints the next batch and runs none.
    """
    goal, options = goal_of(cells), options_of(cells)
    prior = load_law(cells[0].target.prior)
    if cells[0].dry_run:
        run(cells)
    cells = resolve_corpus(unique(cells))
    folder, count = study_folder(cells[0]), cells[0].target.count
    check_goal(goal, largest=max(resolve(c).flops for c in cells))
    pool = {c.run_id(): candidate(c, count) for c in cells}
    by_id = {c.run_id(): c for c in cells}
    while True:
        records = settled(folder)
        batches = read_batches(folder)
        pending = [i for b in batches[-1:] for i in b.run_ids if i in by_id and i not in records]
        if pending and not cells[0].dry_run:
            log.info(
                "design %d goes on: %d of its cells have no result", len(batches), len(pending)
            )
            run([by_id[i] for i in pending])
            continue
        waiting = [c for i, c in pool.items() if i not in records]
        done = [r for r in records.values() if r.status == "done"]
        step = next_step(
            load_runs(folder, count=count) if done else None,
            waiting,
            goal,
            prior=prior,
            spent=spent_on(records, batches),
            reached=reached_by(records.values()),
            options=options,
        )
        batch = batch_of(step, waiting, goal, spent=spent_on(records, batches), number=len(batches))
        for line in batch_lines(batch, goal):
            log.info("%s", line)
        if cells[0].dry_run:
            return batches
        if not step.stop or not batches or batches[-1].stop != step.stop:
            append_batch(folder, batch)
        if step.stop:
            say_next(step, folder, goal, count=count, form=options.form)
            return read_batches(folder)
        run([by_id[i] for i in batch.run_ids])


def goal_of(cells: list[CellConfig]) -> Goal:
    """Return the goal that the cells' `target` sets; ValueError for one that cannot be pursued."""
    if not cells:
        raise ValueError("the pool has no cells; widen grid.* or the sweep's lists")
    first = cells[0]
    target = first.target
    if not target.flops:
        raise ValueError(
            "target.flops is not set; hydra/sweeper=design needs the final run's FLOPs, as"
            " target.flops=1e15"
        )
    if not target.precision and not target.max_flops:
        raise ValueError(
            "neither target.precision nor target.max_flops is set, so the design would run its"
            " whole pool; set one, or take hydra/sweeper=grid"
        )
    if first.detach:
        raise ValueError(
            "detach=true cannot choose the next batch, which follows from the records of this one;"
            " leave it out, and continue with the same command after an interruption"
        )
    stages = {c.stage for c in cells} - {"pretrain"}
    if stages:
        raise ValueError(f"stage={min(stages)} has no design; it chooses pretraining cells alone")
    return Goal(
        flops=target.flops,
        quantity=target.quantity,
        precision=target.precision,
        max_flops=target.max_flops,
        level=target.level,
    )


def options_of(cells: list[CellConfig]) -> Options:
    """Return the sizes of the first batch and the next ones, and the form of the law."""
    target = cells[0].target
    return Options(start=target.start, batch=target.batch, form=target.form)


def candidate(cell: CellConfig, count: str) -> Candidate:
    """Return a cell of the pool as a candidate; `count` says which parameters are its N."""
    r, (leaves, _) = resolve(cell), branch_of(cell)
    return Candidate(
        name=cell.run_id(),
        params=getattr(r.shape.params, count),
        tokens=r.n_tokens,
        flops_per_token=r.shape.flops_per_token,
        trunk=cell.trunk_id(),
        leaves=leaves * r.batch_tokens,
        seed=cell.seed,
    )


def settled(folder: Path) -> dict[str, Record]:
    """Return the pretraining records of a study that are a result, by id."""
    records = read_records(folder) if folder.is_dir() else []
    return {r.run_id: r for r in records if r.status in SETTLED and r.stage == "pretrain"}


def spent_on(records: dict[str, Record], written: list[Batch]) -> float:
    """Return the FLOPs that the study has spent: on its batches, and on cells trained before."""
    batched = {i for b in written for i in b.run_ids}
    before = [candidate_of(r, "total") for i, r in records.items() if i not in batched]
    return flops_of(before) + sum(b.cost for b in written if set(b.run_ids) & set(records))


def batch_of(step: Step, left: list[Candidate], goal: Goal, *, spent: float, number: int) -> Batch:
    """Return a step as a line of design.jsonl.

    step: the choice
    left: the candidates that have no result yet
    goal: the target
    spent: FLOPs spent so far
    number: batches so far
    """
    now, law = step.standing, step.law
    return Batch(
        number=number + 1,
        spent=spent,
        n_runs=law.n_runs if law else 0,
        status=law.status if law else "",
        value=now.value if now else None,
        interval=[now.low, now.high] if now else [],
        half=now.half if now else None,
        wanted=goal.precision or None,
        quantity=goal.quantity,
        target_flops=goal.flops,
        level=goal.level,
        cost=sum(p.flops for p in step.planned[: step.batch]),
        cells=cell_rows(step.planned[: step.batch], left, step.halves),
        planned=len(step.planned),
        planned_cost=sum(p.flops for p in step.planned),
        why=step.why,
        stop=step.stop,
    )


def say_next(step: Step, folder: Path, goal: Goal, *, count: str, form: str) -> None:
    """Log the commands that fit the same law and plan from it.

    step: the last step, with its law
    folder: the study's folder
    goal: the target
    count: which parameters are N
    form: of the law
    """
    if step.law is None or not step.law.usable:
        return
    options = f" form={form}" * (form != "chinchilla") + f" count={count}" * (count != "total")
    options += f" intervals.level={goal.level:g}" * (goal.level != 0.9)
    log.info("%s%s", next_command("fit", runs=folder), options)
    law = pasted(f"law={folder}/law.json")
    log.info("then scaling plan %s flops=%g", law, goal.flops)
