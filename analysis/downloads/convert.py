"""Convert what authors published into tables of runs: one function a table.

Each function takes the downloaded files by path and returns {name: text} of our CSVs. Columns are
params (N), tokens (D), flops (C; 6 N D unless the source gave more), loss (nats per token) and what
tells experiments apart. Nothing of a file is run: JSON and CSV are parsed, literals of a notebook's
code go through `ast.literal_eval`, and pickles through `analysis.downloads.pickle_values`.
"""

import ast
import io
import json
import lzma
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from analysis.downloads.frames import value_of
from analysis.downloads.pickle_values import MOST_BYTES, plain_values

DIGITS = "%.10g"  # of numbers in our tables; losses are known to 6 or 7
EPOCH_LEFT_OUT = 5  # runs of highest loss, which Besiroglu et al. 2024 leave out of their fit
MUENNIGHOFF_CELL = 25  # of the notebook: the 182 runs that the paper's constants were fitted to
GIGA = 1e9  # tokens of one unit in the notebook's names
CONFIDENCE = (0.025, 0.975)  # quantiles of the bootstrap that Porian et al. 2024 print
PORIAN_KEYS = ("dataset", "hparams", "warmup", "decay", "param_count", "val")
GADRE_LOSSES = {  # folder of the evaluation data: our column
    "openlm": "loss_openlm",
    "c4_val": "loss_c4_val",
    "paloma_c4_en": "loss_paloma_c4_en",
    "paloma_dolma_100_programing_languages": "loss_paloma_dolma_100_programing_languages",
    "paloma_falcon-refinedweb": "loss_paloma_falcon-refinedweb",
    "paloma_ptb": "loss_paloma_ptb",
    "paloma_redpajama": "loss_paloma_redpajama",
    "de-en": "loss_val_de-en_100",
}


def epoch(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the runs that Besiroglu et al. 2024 (2404.10102) read off Chinchilla's figure 4."""
    (data,) = files.values()
    source = pd.read_csv(io.BytesIO(data))
    n, c = source["Model Size"], source["Training FLOP"]
    loss = source["loss"]
    table = pd.DataFrame({"params": n, "tokens": c / (6 * n), "flops": c, "loss": loss})
    table["dropped_by_authors"] = (loss.rank(ascending=False) <= EPOCH_LEFT_OUT).astype(int)
    return {"chinchilla_epoch245.csv": _csv(table)}


def gadre(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the runs of Gadre et al. 2024 (2403.08540), a JSON file each, with eight losses."""
    rows = []
    for name in sorted(files):
        run = json.loads(files[name])
        settings = run["hyperparameters"]
        n, d = settings["params"], settings["tokens"]
        losses = {
            GADRE_LOSSES[PurePosixPath(result["val_data"][0]).parent.name]: result["loss"]
            for result in run["results"]
        }
        rows.append(
            {
                "params": n,
                "tokens": d,
                "flops": 6.0 * n * d,
                "loss": losses["loss_c4_val"],
                "group": run["dataset_name"],
                "params_no_embed": settings["params_no_embed"],
                "model": PurePosixPath(settings["model"]).name.removesuffix(".json"),
                "chinchilla_multiplier": float(settings["chinchilla_multiplier"]),
                **{column: losses[column] for column in GADRE_LOSSES.values()},
            }
        )
    return {"gadre2024_overtraining.csv": _csv(pd.DataFrame(rows))}


def muennighoff(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the runs of Muennighoff et al. 2023 (2305.16264), from literals of their notebook.

    A run is called by its parameters, tokens and unique tokens, as 2b832b4b: 2.8e9 parameters,
    32e9 tokens of 4e9 unique ones. A loss of 0 marks a run that had not ended.
    """
    (data,) = files.values()
    literals = _literals("".join(json.loads(data)["cells"][MUENNIGHOFF_CELL]["source"]))
    sizes, counts = literals["PARAMS_MAP"], literals["TOKENS_MAP"]
    rows = []
    for name, loss in literals["NAMES_TO_VAL_LOSSES"].items():
        if loss == 0 or name.endswith("dedup"):
            continue
        size = min((s for s in sizes if name.startswith(s)), key=len)
        d, unique = _tokens_of(name.removeprefix(size), counts)
        n = float(sizes[size])
        row = {"params": n, "tokens": d, "unique_tokens": unique, "epochs": d / unique}
        rows.append({**row, "flops": 6 * n * d, "loss": loss, "run": name})
    return {"muennighoff2023_datablations182.csv": _csv(pd.DataFrame(rows))}


def porian(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the IsoFLOP points of Porian et al. 2024 (2406.19146), and what they print of them.

    The points count N as their experiment does. The second table has the exponents of N* = k C^a
    with the intervals of the authors' bootstrap.
    """
    parts, rows = [], []
    for group, fits, pairs in _experiments(files):
        for i, flops in enumerate(pairs["flops"]):
            n, d, loss = (value_of(pairs[k][i]) for k in ("n_vals", "t_vals", "loss_vals"))
            here = {"params": n, "tokens": d, "flops": flops, "loss": loss, "group": group}
            parts.append(pd.DataFrame(here))
        rows.append({"config": group, **_printed(fits, pairs)})
    return {
        "porian2024_isoflop.csv": _csv(pd.concat(parts)),
        "porian2024_published_fits.csv": pd.DataFrame(rows).to_csv(
            index=False, lineterminator="\n"
        ),
    }


def _printed(fits: Mapping[str, Any], pairs: Mapping[str, Any]) -> dict[str, float]:
    """Return the exponent of an experiment, its interval, and what it was fitted to."""
    best = {k: value_of(v) for k, v in fits["bs_median_weighted"].items()}
    draws = [v["n_exponent"] for v in fits["bootstrap_weighted"] if "n_exponent" in v]
    low, high = np.quantile(list(map(value_of, draws)), CONFIDENCE)
    return {
        "a": best["n_exponent"],
        "a_coef": best["n_coef"],
        "a_r2": best["n_r2"],
        "b": best["t_exponent"],
        "a_lo": low,
        "a_hi": high,
        "nboot": len(draws),
        "n_pairs": int(np.isfinite(pairs["n"].astype(float)).sum()),
        "basic_a": value_of(fits["basic"]["n_exponent"]),
        "weighted_a": value_of(fits["weighted"]["n_exponent"]),
    }


def _csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, float_format=DIGITS, lineterminator="\n")


def _experiments(files: Mapping[str, bytes]) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Return name, fits and IsoFLOP points of every experiment, in the order of the files."""
    rows = []
    for data in files.values():
        frame = value_of(plain_values(_unpacked(data)))
        for i in range(len(frame["dataset"])):
            group = "_".join(str(frame[key][i]) for key in PORIAN_KEYS)
            rows.append((group, frame["fit_results"][i], value_of(frame["optimal_pairs"][i])))
    return rows


def _unpacked(data: bytes) -> bytes:
    """Unpack xz, to a bounded size."""
    unpacker = lzma.LZMADecompressor(format=lzma.FORMAT_XZ)
    unpacked = unpacker.decompress(data, max_length=MOST_BYTES)
    if not unpacker.eof:
        raise ValueError(f"the file unpacks to more than {MOST_BYTES:,} bytes, or is cut short")
    return unpacked


def _literals(code: str) -> dict[str, Any]:
    """Return the dictionaries that a piece of code assigns as literals; the code is not run."""
    frames = {}
    for node in ast.parse(code).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            (target,) = node.targets
            frames[ast.unparse(target)] = ast.literal_eval(node.value)
    return frames


def _tokens_of(text: str, counts: Mapping[str, float]) -> tuple[float, float]:
    """Split `32b4b` or `4b81b5` into tokens and unique tokens, which are never more.

    counts: billions of tokens of the names that do not say them themselves (`400m`)
    """
    for end in range(1, len(text)):
        d, unique = _billions(text[:end], counts), _billions(text[end:], counts)
        if d is not None and unique is not None and unique <= d:
            return d * GIGA, unique * GIGA
    raise ValueError(f"{text} does not name tokens and unique tokens")


def _billions(text: str, counts: Mapping[str, float]) -> float | None:
    """Return the number that a name says: 12 of `12b`, 4.8 of `4b8`."""
    if text in counts:
        return float(counts[text])
    return float(text.replace("b", ".")) if re.fullmatch(r"\d+b\d*", text) else None
