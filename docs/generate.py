"""Write the reference pages from the code: `python docs/generate.py`, or `make docs`.

Commands and their keys come from the modules' docstrings and the dataclasses of their settings,
forms, devices, published laws and files from the objects themselves, the Python interface from
signatures and docstrings. The pages are kept in the repository, so that they read without a build;
`tests/test_docs.py` compares them with what this script writes.
"""

import argparse
import ast
import contextlib
import importlib
import inspect
import io
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml

import analysis
from analysis.estimation.fit import fit
from analysis.forms import FORMS, Form
from analysis.laws.law_file import LawFile
from analysis.laws.published import PUBLISHED
from analysis.runs.columns import Columns
from scaling.__main__ import COMMANDS, described
from scaling.app.conf_folder import conf_folder
from scaling.app.help import Block, blocks, choices_of, chosen_groups, sentences
from scaling.schema import DEVICES, Record

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
NOTE = (
    "<!-- Written by docs/generate.py from the code: change the code, then run `make docs`. -->\n\n"
)
# Forms that are no `Form`: name, formula, source, what it reads.
REGRESSIONS = (
    ("all", "the average of log L over the forms that apply", "", "params, tokens, loss"),
    ("repetition", "of the forms of repeated data the one that predicts withheld epochs best", "", "params, tokens, loss, unique_tokens, perhaps weight_decay"),
    ("downstream", "of the laws of accuracy the one that predicts withheld larger models best", "", "params, tokens, loss, error"),
    ("isoflop", "N*, D* = k C^a from the parabola of each budget", "Hoffmann et al. 2022, approach 2", "params, tokens, loss, flops"),
    ("isoflop_akima", "N*, D* = k C^a from Akima interpolation of each budget", "Porian et al. 2024", "params, tokens, loss, flops"),
    ("envelope", "N*, D* = k C^a along the lower envelope of training curves", "Hoffmann et al. 2022, approach 1", "a study's curves"),
    ("schedule", "L along a learning rate: multi-power and annealing law, averaged", "Luo et al. 2025, arXiv 2503.12811; Tissue et al. 2024, arXiv 2408.11029", "schedule, step, lr, loss; a study's curves"),
    ("lr_batch", "lr* = k N^p D^q, batch* = k D^q", "Step Law 2025, arXiv 2503.04715", "params, tokens, loss, lr, batch"),
    ("critical_batch", "B_crit = k T^p", "Merrill et al. 2025, arXiv 2505.23971", "at_tokens, batch, loss, trunk"),
)  # fmt: skip
PYTHON = {  # object: what to say of it beside its docstring
    "Reading runs": ("load_runs", "Runs", "Columns"),
    "Fitting": ("fit", "Objective"),
    "Laws": ("load_law", "Law"),
}
METHODS = (
    "predict",
    "predict_table",
    "predict_curve",
    "best_decay",
    "optimum",
    "settings",
    "flops_per_token",
    "summary",
    "read",
    "write",
)


def main() -> None:
    """Write every page; with --check only say which pages differ, and exit with status 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 on a difference"
    )
    check = parser.parse_args().check
    stale = [path for path, text in pages().items() if not _same(path, text)]
    for path in stale:
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(pages()[path], encoding="utf-8")
        sys.stdout.write(f"{'differs' if check else 'wrote'} {path.relative_to(ROOT)}\n")
    sys.exit(1 if check and stale else 0)


def pages() -> dict[Path, str]:
    """Return the text of every generated page, by its path."""
    reference = DOCS / "reference"
    written = {
        reference / "commands" / "index.md": command_index(),
        reference / "forms.md": forms_page(),
        reference / "devices.md": devices_page(),
        reference / "published_laws.md": published_page(),
        reference / "configurations.md": configurations_page(),
        reference / "files.md": files_page(),
        reference / "python.md": python_page(),
    }
    results = {"log.md": "sweeps/LOG.md", "training.md": "benchmarks/RESULTS.md"}
    for name, source in results.items():
        written[DOCS / "results" / name] = copied_page(ROOT / source)
    for name, module in COMMANDS.items():
        written[reference / "commands" / f"{name}.md"] = command_page(name, module)
    return {path: NOTE + text.rstrip() + "\n" for path, text in written.items()}


def copied_page(source: Path) -> str:
    """Return a page that is kept elsewhere in the repository, for readers of the site alone."""
    return source.read_text(encoding="utf-8")


def _same(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table; a bar in a cell is escaped."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(_cell(c) for c in row) + " |" for row in lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def command_index() -> str:
    """Return the list of commands."""
    rows = [
        (f"[`scaling {n}`]({n}.md)", f"`python -m {m}`", described(m)) for n, m in COMMANDS.items()
    ]
    return (
        "# Commands\n\nEvery command takes settings as `key=value`. `scaling COMMAND --help` prints what these pages"
        " show. A wrong key is answered with the nearest right one. The exit status is 0 on success, 1 on failure with"
        " one sentence on stderr (`HYDRA_FULL_ERROR=1` shows the traceback), 2 on wrong usage.\n\n"
        + table(("command", "as a module", "what it does"), rows)
    )


def command_page(name: str, module_name: str) -> str:
    """Return a command's page: its docstring, its choices, every key."""
    module = importlib.import_module(module_name)
    # The module of a command may be shadowed in its package by the function of the same name.
    module = sys.modules[module_name]
    text = f"# scaling {name}\n\n{docstring_text(inspect.getdoc(module) or '')}\n"
    called = _start_call(module)
    if called is None:
        return text + f"\n## Options\n\n```text\n{_printed_help(module)}```\n"
    schema, launcher = getattr(module, called["schema"]), called.get("launcher")
    config = called["config_name"]
    if groups := chosen_groups(config):
        rows = [
            (f"`{g}={d}`", ", ".join(f"`{n}`" for n in choices_of(g))) for g, d in groups.items()
        ]
        text += "\n## Choices\n\nFiles of settings that are taken by name.\n\n"
        text += table(("key and default", "names"), rows)
    written = {
        k: v
        for k, v in (yaml.safe_load((conf_folder() / f"{config}.yaml").read_text()) or {}).items()
        if k not in ("defaults", "hydra")
    }
    text += "\n## Keys\n"
    for block in blocks(schema, descriptions=written):
        text += block_text(block)
    if launcher:
        for block in blocks(getattr(module, launcher), "hydra.launcher."):
            text += block_text(block)
    return text


def block_text(block: Block) -> str:
    """Return the keys of one dataclass as a table."""
    head = f"\n### {block.name}\n\n{block.line}\n\n" if block.name else f"\n{block.line}\n\n"
    return head + table(
        ("key", "default", "meaning"),
        [(f"`{k.name}`", f"`{k.default}`", k.sentence) for k in block.keys],
    )


def _start_call(module: Any) -> dict[str, str] | None:
    """Return the keywords that a command gives `start`, as names; None where argparse reads them."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "start":
            values = {k.arg: k.value for k in node.keywords}
            return {
                str(k): v.value if isinstance(v, ast.Constant) else getattr(v, "id", "")
                for k, v in values.items()
            }
    return None


def _printed_help(module: Any) -> str:
    out, before = io.StringIO(), sys.argv
    sys.argv = ["scaling", "--help"]
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            module.parse_arguments()
    finally:
        sys.argv = before
    return re.sub(r"\n{3,}", "\n\n", out.getvalue())


def forms_page() -> str:
    """Return the page of forms."""
    text = (
        "# Forms\n\n`form=NAME` chooses the law that [`scaling fit`](commands/fit.md) fits. "
        "[The laws](../explanations/laws.md) explains each, [Choose a form](../how_to/choose_a_form.md) says which to"
        " take. A form is one short file in `analysis/forms/`.\n\n"
    )
    rows = [(f"[`{f.name}`](#{f.name})", f"`{f.formula}`", f.source) for f in FORMS.values()]
    text += table(("form", "formula", "source"), rows)
    text += "\n## Regressions and the average\n\n"
    text += table(
        ("name", "result", "source", "columns"), [(f"`{a}`", b, c, d) for a, b, c, d in REGRESSIONS]
    )
    return text + "".join(form_text(form) for form in FORMS.values())


def form_text(form: Form) -> str:
    """Return one form's section."""
    bounds = ", ".join(f"{k} in [{low:g}, {high:g}]" for k, (low, high) in form.bounds.items())
    rows = [
        ("formula", f"`{form.formula}`"),
        ("source", form.source),
        ("parameters", ", ".join(f"`{p}`" for p in form.parameters)),
        (
            "columns",
            ", ".join(
                f"`{v}`" + (" (optional)" if v in form.optional else "") for v in form.variables
            ),
        ),
        ("predicts", f"`{form.target}`"),
        ("objective", f"`{form.objective}`"),
        ("stage", form.stage),
    ]
    rows += [("bounds", bounds)] if bounds else []
    module = _module_doc(form)
    return f"\n## {form.name}\n\n{module}" + table(("", ""), rows)


def _module_doc(form: Form) -> str:
    for module in list(sys.modules.values()):
        if not getattr(module, "__name__", "").startswith("analysis.forms."):
            continue
        values = [v for v in vars(module).values() if isinstance(v, Form)]
        held = [
            f
            for v in vars(module).values()
            if isinstance(v, tuple)
            for f in v
            if isinstance(f, Form)
        ]
        if any(f is form for f in [*values, *held]):
            return docstring_text(inspect.getdoc(module) or "") + "\n\n"
    return ""


def devices_page() -> str:
    """Return the page of devices."""
    rows = [
        (f"`{name}`", f"{d.peak / 1e12:,.4g}", f"{d.memory / 1e9:,.0f}", d.source)
        for name, d in DEVICES.items()
    ]
    return (
        "# Devices\n\n`device=NAME` of [`scaling plan`](commands/plan.md) knows these. Any other device is given by"
        " `peak_flops=` and `memory_gib=`, where the command has these keys. Peaks are dense products in bf16 without"
        " sparsity.\n\n" + table(("name", "peak, TFLOP/s", "memory, GB", "source"), rows)
    )


def published_page() -> str:
    """Return the page of published laws."""
    rows = []
    for name, law in PUBLISHED.items():
        values = ", ".join(f"{k} {v:.6g}" for k, v in law.parameters.items())
        rows.append((f"`{name}`", f"`{law.form}`", values, law.source))
    return (
        "# Published laws\n\n`law=NAME` of [`scaling plan`](commands/plan.md) and [`scaling design`](commands/design.md),"
        " `analysis.load_law(NAME)` in Python.\n\n"
        + table(("name", "form", "parameters", "source"), rows)
    )


def configurations_page() -> str:
    """Return the page of the model ladder, the kinds of data and the studies of sweeps/."""
    folder = conf_folder()
    text = "# Model ladder and studies\n\nNames that are taken as `model=NAME`, `data=NAME`, `sweeps=NAME`.\n\n## Models\n\nA rung is named by its non-embedding parameters.\n\n"
    rows = []
    for name in choices_of("model"):
        values = yaml.safe_load((folder / "model" / f"{name}.yaml").read_text()) or {}
        rows.append(
            (f"`{name}`", *(str(values.get(k, "")) for k in ("n_layer", "d_model", "d_head")))
        )
    text += table(("model", "layers", "width", "head size"), rows)
    text += "\n## Data\n\n"
    rows = [(f"`{n}`", _head_comment(folder / "data" / f"{n}.yaml")) for n in choices_of("data")]
    text += table(("data", "what it is"), rows)
    text += "\n## Studies\n\nFiles of `sweeps/`. What was found with them stands in `sweeps/LOG.md`.\n\n"
    rows = [(f"`{p.stem}`", _head_comment(p)) for p in sorted((ROOT / "sweeps").glob("*.yaml"))]
    return text + table(("study", "question, command, cost"), rows)


def _head_comment(path: Path) -> str:
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# @package") or not line.strip():
            continue
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


def files_page() -> str:
    """Return the page of the files between the commands."""
    text = (
        "# Files\n\nEverything that one command hands to the next is a small readable file with a schema number, the"
        " code's version and the sha256 of what it was made from. Files of earlier versions stay readable.\n\n"
        + table(
            ("file", "written by", "read by", "what it holds"),
            [
                (
                    "`runs/NAME/CELL/record.json`",
                    "sweep",
                    "fit, report, status",
                    "one trained cell, written last and atomically ([fields](#record))",
                ),
                (
                    "`runs/NAME/CELL/metrics.jsonl`",
                    "sweep",
                    "fit, report",
                    "the curve: a row every few steps",
                ),
                (
                    "`runs/NAME/CELL/model.safetensors`",
                    "sweep",
                    "evaluate, sample, export, stages",
                    "the weights; the tokenizer's files lie beside them",
                ),
                (
                    "`runs/NAME/CELL/attempts/NNNN.json`",
                    "sweep",
                    "sweep, status",
                    "lease, heartbeat and history of a cell",
                ),
                ("`runs/NAME/jobs.jsonl`", "sweep", "status", "jobs that were submitted"),
                (
                    "`runs/NAME/precision.json`",
                    "sweep",
                    "sweep, final",
                    "the precision that `machine.precision=auto` chose, with its pilot",
                ),
                (
                    "`runs/NAME/commands.jsonl`",
                    "sweep, fit, plan, final",
                    "report",
                    "the commands that made the folder",
                ),
                (
                    "`law.json`",
                    "fit",
                    "plan, design, report",
                    "a law with intervals and alarms ([fields](#law))",
                ),
                (
                    "`plan.yaml`",
                    "plan",
                    "final, report",
                    "the final run: every value, its reason beside it in `reasons`",
                ),
                (
                    "`runs/NAME/final/STAGE/record.json`",
                    "final",
                    "report",
                    "a stage of the final run, fields as of a cell",
                ),
                (
                    "`runs/forecasts.jsonl`",
                    "final",
                    "plan, report",
                    "forecasts that were sealed before a run, and how they scored",
                ),
                ("`report.html`", "report", "you", "one self-contained page"),
            ],
        )
    )
    text += "\nA table from outside is CSV, Parquet or JSONL with `params`, `tokens`, `loss`. "
    text += "`columns.KEY=NAME` renames a column:\n\n"
    text += table(
        ("key", "meaning"), [(f"`columns.{k}`", v) for k, v in sentences(Columns).items()]
    )
    for title, schema in (("Record", Record), ("Law", LawFile)):
        text += f"\n## {title}\n\n"
        hints, said = get_type_hints(schema), sentences(schema)
        text += table(
            ("field", "type", "meaning"),
            [
                (f"`{f.name}`", f"`{type_text(hints[f.name])}`", said.get(f.name, ""))
                for f in fields(schema)
            ],
        )
    return text


def type_text(kind: Any) -> str:
    """Return a type as it is written in code, without modules."""
    text = (
        kind.__name__
        if isinstance(kind, type) and not getattr(kind, "__args__", None)
        else str(kind)
    )
    return re.sub(r"[\w.]+\.(\w+)", r"\1", text)


def python_page() -> str:
    """Return the page of the Python interface."""
    text = (
        '# Python\n\n<!-- test: long -->\n```python\nfrom analysis import fit, load_law, load_runs\n\nlaw = fit(load_runs("example"), "all", resamples=200)\n'
        "print(law.optimum(1e13))\nprint(law.predict(3e5, 1e6, level=0.9))\nprint(law.summary())\n```\n\n"
        "N parameters, D tokens, C training FLOPs, L nats per token. The names below are imported from `analysis`."
        " [Use the library from Python](../how_to/python.md) shows more.\n"
    )
    for title, names in PYTHON.items():
        text += f"\n## {title}\n"
        for name in names:
            # The command of that name takes the function's place in the package once it is imported.
            text += object_text(name, fit if name == "fit" else getattr(analysis, name))
    from analysis.laws.law import Optimum, Prediction

    text += "\n## What a law returns\n"
    for thing in (Prediction, Optimum):
        text += object_text(thing.__name__, thing)
    return text


def object_text(name: str, thing: Any) -> str:
    """Return the section of a function or class."""
    text = f"\n### {name}\n\n"
    if inspect.isfunction(thing):
        text += f"```text\n{signature_text(name, thing)}\n```\n\n"
    text += docstring_text(inspect.getdoc(thing) or "") + "\n"
    for method in METHODS if name == "Law" else ():
        function = getattr(thing, method)
        text += f"\n#### Law.{method}\n\n```text\n{signature_text(method, function)}\n```\n\n"
        text += docstring_text(inspect.getdoc(function) or "") + "\n"
    return text


def signature_text(name: str, function: Callable[..., Any]) -> str:
    """Return a signature, one parameter a line where it is long."""
    signature = inspect.signature(function)
    parameters = [
        re.sub(r"<function (\w+) at \w+>|[\w.]+\.(\w+)", r"\1\2", str(p))
        for p in signature.parameters.values()
        if p.name != "self"
    ]
    kinds = [p.kind for p in signature.parameters.values() if p.name != "self"]
    first = next((i for i, k in enumerate(kinds) if k is inspect.Parameter.KEYWORD_ONLY), None)
    if first is not None:
        parameters.insert(first, "*")
    line = f"{name}({', '.join(parameters)})"
    return (
        line if len(line) < 90 else f"{name}(\n" + "".join(f"    {p},\n" for p in parameters) + ")"
    )


def docstring_text(docstring: str) -> str:
    """Return a docstring as Markdown: indented lines as code, lists of parameters as lists."""
    parts = []
    for paragraph in re.split(r"\n\s*\n", docstring.strip()):
        lines = paragraph.splitlines()
        if all(line.startswith("    ") for line in lines):
            parts.append("```text\n" + inspect.cleandoc(paragraph) + "\n```")
        elif re.match(r"[a-z_]\w*(, \w+)*: ", lines[0]):
            parts.append("\n".join(_items(lines)))
        else:
            parts.append(_escaped(" ".join(line.strip() for line in lines)))
    return "\n\n".join(parts)


def _items(lines: list[str]) -> Iterator[str]:
    """Yield a list item for each parameter, its continuation lines joined."""
    item = ""
    for line in lines:
        if not line.startswith(" ") and item:
            yield item
            item = ""
        if not item:
            name, _, rest = line.partition(": ")
            item = f"- `{name}`: {_escaped(rest)}"
        else:
            item += f" {_escaped(line.strip())}"
    yield item


def _escaped(text: str) -> str:
    """Return prose whose stars and angle brackets Markdown leaves alone, code spans as they are."""
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [re.sub(r"([*_<\[\]])", r"\\\1", p) for p in parts[::2]]
    return "".join(parts)


if __name__ == "__main__":
    main()
