"""The entry point: `scaling sweep ...` is `python -m scaling.sweep ...`, and so on.

`scaling` alone, `scaling --help` and `python -m scaling` list the commands. Each is described by
the first line of its module's docstring, which is read without importing it (torch takes seconds).
"""

import ast
import difflib
import runpy
import sys
from pathlib import Path

from scaling import VERSION_LINE

COMMANDS = {  # the word after `scaling`: the module that is run
    "sweep": "scaling.sweep",
    "status": "scaling.status",
    "work": "scaling.work",
    "final": "scaling.final",
    "fit": "analysis.fit",
    "backtest": "analysis.backtest",
    "plan": "analysis.plan",
    "design": "analysis.design",
    "report": "analysis.report",
    "compare": "analysis.compare",
    "table": "analysis.table",
    "mixture": "analysis.mixture",
    "published_tables": "analysis.published_tables",
    "evaluate": "scaling.evaluate",
    "export": "scaling.export",
    "sample": "scaling.sample",
    "corpus": "scaling.corpus",
    "coordinates": "scaling.coordinates",
    "best_of_n": "scaling.best_of_n",
}
ROOT = Path(__file__).resolve().parents[1]  # of both packages
USAGE = "scaling COMMAND [key=value ...]"


def main() -> None:
    """Run the command that is named first; exit with status 2 where there is no such command."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        sys.stdout.write(listing())
    elif name == "--version":
        sys.stdout.write(f"{VERSION_LINE}\n")
    elif name in COMMANDS:
        sys.argv[1:] = arguments
        runpy.run_module(COMMANDS[name], run_name="__main__", alter_sys=True)
    else:
        sys.stderr.write(f"error: {refusal(name)}\n")
        sys.exit(2)


def listing() -> str:
    """Return the usage and a line for each command."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {described(module)}" for name, module in COMMANDS.items()]
    head = f"usage: {USAGE}\n\n"
    tail = (
        "\n\n`scaling COMMAND --help` lists the settings of a command, `--version` the version.\n"
    )
    return head + "\n".join(lines) + tail


def described(module: str) -> str:
    """Return the first line of a module's docstring."""
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return docstring.partition("\n")[0]


def refusal(name: str) -> str:
    """Say that there is no such command, and which is the nearest."""
    near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ";"
    return f"{name!r} is no command of scaling{hint} choose one of {', '.join(COMMANDS)}"


if __name__ == "__main__":
    main()
