"""The commands of a report: those that rebuild it, and the one that follows."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from analysis.laws.law import Law
from analysis.number_text import power
from analysis.page.contents import Material
from scaling.schema import CONFIRMING, Command, read_commands

FURTHER = 10.0  # times the largest C: the budget of a plan that the page suggests


@dataclass(frozen=True, kw_only=True)
class Step:
    """A command that follows, and why."""

    why: str
    command: str


def next_step(material: Material) -> Step:
    """Return the command that follows: what is missing first, then the next budget."""
    law, plan, final = material.law, material.plan, material.final
    runs = shlex.quote(material.folder.as_posix())
    settings = f" {material.measure.settings}" if material.measure.settings else ""
    law_file = shlex.quote((material.law_path or Path("law.json")).as_posix())
    if law is None and material.mixture:
        return _train_mixtures(material, runs)
    if law is None:
        return Step(why="Fit the law.", command=f"python -m analysis.fit runs={runs}{settings}")
    largest = law.ranges.get("flops", law.ranges.get("flops_6nd", [0.0, 0.0]))[1]
    further = power(FURTHER * largest)
    of_study = f" runs={runs}" if material.table is None else ""
    if not law.usable:
        return Step(
            why="The runs do not determine the law: ask which runs to add.",
            command=f"python -m analysis.design runs={runs} target.flops={further}",
        )
    planning = f"python -m analysis.plan law={law_file}{of_study}{settings} flops={further}"
    if plan is None:
        return Step(why=f"Plan a run of {FURTHER:g} times the largest C.", command=planning)
    if "pretrain" not in final.stages:
        path = shlex.quote(material.plan_path.as_posix())
        return Step(why="Train the planned run.", command=f"python -m scaling.final plan={path}")
    return Step(
        why=f"The planned run has ended. Plan the next one, of {FURTHER:g} times the largest C"
        " fitted.",
        command=planning,
    )


def _train_mixtures(material: Material, runs: str) -> Step:
    """Return the command that trains the proposed and the natural mixture of a study."""
    why = "Train the proposed and the natural mixture with three seeds each."
    if material.table is not None:
        return Step(why=why, command=f"python -m analysis.mixture runs={runs}")
    mixture = material.mixture or {}
    rows = [
        "[" + ",".join(f"{max(share, 0.001):.3f}" for share in mixture[name].values()) + "]"
        for name in ("weights", "natural")
    ]
    name = material.records[0].study
    return Step(
        why=why,
        command=f"python -m scaling.sweep -m sweeps={name} study={name}_test swarm.draws=0"
        f" seed=1,2,3 'data.weights={','.join(rows)}'",
    )


def commands(material: Material) -> str:
    """Return the commands that rebuild the page from an empty folder, as they were typed.

    A study of an earlier version did not keep them: its commands follow from its files.
    """
    runs, plan, law = shlex.quote(material.folder.as_posix()), material.plan, material.law
    if material.table is not None:
        return _of_table(material)
    sweeps = [c.line() for c in read_commands(material.folder) if c.module == "scaling.sweep"]
    finals = _final_commands(material)
    confirming = material.folder.with_name(f"{material.folder.name}{CONFIRMING}") / "final"
    confirmations = [c.line() for c in read_commands(confirming)]
    lines = sweeps or [
        f"python -m scaling.sweep -m sweeps={shlex.quote(material.records[0].study)}"
    ]
    measure = material.measure
    settings = f" {measure.settings}" if measure.settings else ""
    lines.append(_fit_command(law, runs, settings))
    if plan:
        bare = (
            f"python -m analysis.plan law={runs}/{measure.file('law.json')} runs={runs}{settings}"
        )
        command = plan.command or f"{bare} flops={plan.budget.flops!r}"
        lines.append(shlex.join(shlex.split(command)))  # a stranger's plan is quoted anew
        if confirmations:  # a row of the law and the plan that follow
            lines += [*confirmations, *lines[-2:]]
        lines += finals or [f"python -m scaling.final plan={runs}/{measure.file('plan.yaml')}"]
    return "\n".join([*lines, f"python -m analysis.report runs={runs}{settings}"])


def _final_commands(material: Material) -> list[str]:
    """Return the commands of the final run that name this plan; all where no plan is named."""
    names = {material.measure.file("plan.yaml"), material.plan_path.name}
    kept = []
    for command in read_commands(material.folder / "final"):
        plans = [a.removeprefix("plan=") for a in command.arguments if a.startswith("plan=")]
        if not plans or Path(plans[-1]).name in names:
            kept.append(command.line())
    return kept


def _fit_command(law: Law | None, runs: str, settings: str) -> str:
    """Return the command of the fit: as it was typed, else what follows from the law."""
    arguments = law.inputs.get("arguments") if law else None
    if isinstance(arguments, list):
        return Command(module="analysis.fit", arguments=arguments).line()
    return f"python -m analysis.fit runs={runs}{settings}{_fit_options(law)}"


def _fit_options(law: Law | None) -> str:
    """Return the arguments of the fit that are no defaults."""
    if law is None:
        return ""
    options = {
        "form": law.comparison[0].get("asked", "all") if law.comparison else law.form,
        "count": law.count,
        **{k: law.inputs.get(k) for k in ("where", "within")},
    }
    usual = {"form": "chinchilla", "count": "total", "where": None, "within": None}
    arguments = [shlex.quote(f"{k}={v}") for k, v in options.items() if v != usual[k]]
    arguments += [f"+fixed.{k}={v!r}" for k, v in law.fixed.items()]
    return "".join(f" {a}" for a in arguments)


def _of_table(material: Material) -> str:
    """Return the commands of a page over a table of runs."""
    runs = shlex.quote(material.folder.as_posix())
    named = f" law={shlex.quote(material.law_path.as_posix())}" if material.law_path else ""
    fit = [_fit_command(material.law, runs, "")] if named else []
    return "\n".join([*fit, f"python -m analysis.report runs={runs}{named}"])
