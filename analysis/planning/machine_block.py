"""How the planned pretraining is computed: precision, compilation, and the ranks that share it.

The law holds for what the study was trained with, and the cost was worked out for a number of
devices. The plan records both, so that the final run keeps to them.
"""

from typing import Any

from analysis.planning.devices import DEVICES
from analysis.planning.plan import MachineBlock, Reasons


def machine_block(
    config: dict[str, Any],
    *,
    rows: int,
    device: str,
    devices: int,
    sharded: bool,
    checkpointing: bool,
) -> tuple[MachineBlock, Reasons]:
    """Return the machine settings of the final run and their reasons.

    config: the config of a cell of the study, {} without a study
    rows: sequences of one optimizer step; every rank takes the same number of them
    device: the accelerator's name, "" where it is not known
    devices: how many of it the cost was worked out for
    sharded: whether weights, gradients and moments are divided among the ranks (ZeRO-3)
    checkpointing: whether activations are computed again in the backward pass
    """
    trained = config.get("machine", {})
    usual = "bf16" if device.lower() in DEVICES else "fp32"
    ranks = max(n for n in range(1, min(devices, rows) + 1) if rows % n == 0)
    rank_reason = f"devices={devices}"
    if ranks < devices:
        rank_reason += f", of which {ranks} can share the {rows} rows of a step"
    if ranks > 1:
        rank_reason += ": a process each; on several machines srun starts as many instead"
    block = MachineBlock(
        precision=trained.get("precision", usual),
        compile=trained.get("compile", False),
        activation_checkpointing=checkpointing,
        ranks=ranks,
        shard=sharded and ranks > 1,
    )
    of_study = "as the study was trained" if trained else ""
    reasons = {
        "precision": of_study or f"that of the speed of {device or 'an unknown device'}",
        "compile": of_study or "nothing is known of the machine",
        "activation_checkpointing": "of the memory planned with (activation_checkpointing=)",
        "ranks": rank_reason,
        "shard": "of the memory planned with (sharded=)",
    }
    return block, reasons
