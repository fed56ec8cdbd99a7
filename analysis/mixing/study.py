"""The cells of a study of mixtures as a table: shares from data.weights, losses from test_sets."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.runs.cells import sha256_of
from scaling.schema import Record, read_records


def read_swarm(folder: Path) -> tuple[pd.DataFrame, list[dict[str, str]], dict[str, Any]]:
    """Return the table of a study's cells, the cells that were left out, and `inputs`.

    folder: of the study

    Columns are run, params, tokens, seed, share_SOURCE and loss_SET (nats per token). Raises
    ValueError for a study without mixtures or named test sets, or of several sizes.
    """
    rows, left_out = [], []
    records = read_records(folder)
    if not records:
        raise ValueError(f"{folder} holds no record.json; run the sweep first or check the path")
    for record in records:
        if why := _why_not(record):
            left_out.append({"run": record.run_id, "why": why})
        else:
            rows.append(_row(record))
    if not rows:
        whys = "; ".join(sorted({d["why"] for d in left_out}))
        raise ValueError(
            f"{folder} has {len(records)} records but none of a mixture ({whys}); sweep one, as"
            " scaling sweep -m sweeps=mixture"
        )
    table = pd.DataFrame(rows)
    sizes = Counter(zip(table["params"], table["tokens"], strict=True))
    if len(sizes) > 1:
        words = ", ".join(f"{n} of N={p}, D={d}" for (p, d), n in sizes.items())
        raise ValueError(
            f"the cells of {folder} have several sizes ({words}), and a law of mixtures is of one;"
            " give each size a study of its own"
        )
    if lacking := sorted({name for row in rows for name in table.columns if name not in row}):
        raise ValueError(
            f"cells of {folder} have different {', '.join(lacking)}; a law of mixtures needs one"
            " list of sources and of test sets"
        )
    return table, left_out, {"source": folder.as_posix(), "sha256": sha256_of(folder)}


def _why_not(record: Record) -> str:
    """Say why a record is no trained mixture; empty where it is one."""
    if record.stage != "pretrain":
        return f"stage is {record.stage}, not pretrain"
    if record.status != "done":
        return f"status is {record.status}"
    if not record.config.get("data", {}).get("weights"):
        return "it has no data.weights"
    return "" if record.test_sets else "it has no eval.sets"


def _row(record: Record) -> dict[str, Any]:
    data = record.config["data"]
    weights = np.asarray(data["weights"], dtype=float)
    names = source_names(data["train"])
    shares = dict(zip(names, weights / weights.sum(), strict=True))
    return {
        "run": record.run_id,
        "params": record.params.total,
        "tokens": record.tokens,
        "seed": record.seed,
        **{f"share_{name}": float(share) for name, share in shares.items()},
        **{f"loss_{name}": score.loss for name, score in record.test_sets.items()},
    }


def source_names(entries: Sequence[str]) -> list[str]:
    """Name the entries of data.train: by the file without endings, of a glob by its folder.

    Entries of one name keep their whole text.
    """
    names = []
    for entry in entries:
        path = Path(entry)
        last = path.parent.name if re.search(r"[*?\[]", path.name) else path.name
        names.append(last.split(".")[0] or entry)
    twice = {name for name, n in Counter(names).items() if n > 1}
    return [e if name in twice else name for e, name in zip(entries, names, strict=True)]
