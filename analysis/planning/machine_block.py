"""How the planned pretraining is computed: precision, compilation, and the processes that share it.

The law holds for what the study was trained with, and what a run costs was worked out for so many
devices: both go into the plan, so that the final run does as was planned.
"""

from typing import Any

from analysis.planning.devices import DEVICES


def machine_block(
    config: dict[str, Any],
    *,
    rows: int,
    device: str,
    devices: int,
    sharded: bool,
    checkpointing: bool,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the plan's machine settings and their reasons.

    `config` is a cell of the study, `rows` are a step's, of which each rank takes as many.
    """
    trained = config.get("machine", {})
    usual = "bf16" if device.lower() in DEVICES else "fp32"
    ranks = max(n for n in range(1, min(devices, rows) + 1) if rows % n == 0)
    shared = f"devices={devices}"
    if ranks < devices:
        shared += f", of which {ranks} can share the {rows} rows of a step"
    if ranks > 1:
        shared += ": a process each; on several machines srun starts as many instead"
    values = {
        "precision": trained.get("precision", usual),
        "compile": trained.get("compile", False),
        "activation_checkpointing": checkpointing,
        "ranks": ranks,
        "shard": sharded and ranks > 1,
    }
    of_study = "as the study was trained" if trained else ""
    reasons = {
        "precision": of_study or f"that of the speed of {device or 'an unknown device'}",
        "compile": of_study or "nothing is known of the machine",
        "activation_checkpointing": "of the memory planned with (activation_checkpointing=)",
        "ranks": shared,
        "shard": "of the memory planned with (sharded=)",
    }
    return values, reasons
