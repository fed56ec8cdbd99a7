"""How the planned pretraining is computed: precision, compilation, and the ranks that share it.

The law holds for what the study was trained with, and the cost was worked out for a number of
devices. The plan records both, so that the final run keeps to them.
"""

from typing import Any

from analysis.planning.layout import MOST_ROWS, Layout
from analysis.planning.plan import MachineBlock, Reasons
from scaling.schema import DEVICES

ONE_MACHINE = 8  # accelerators of a usual machine: more ranks are started by srun
KALAMKAR = "Kalamkar et al. 2019 (1905.12322): bf16 products, fp32 weights and sums"


def precision_of(trained: dict[str, Any], device: str) -> tuple[str, str]:
    """Return the precision of the final run and its reason.

    trained: the machine settings of a cell of the study, {} without a study
    device: the accelerator that was asked for, "" where it is the study's own
    """
    own = trained.get("precision")
    if device.lower() in DEVICES:
        beside = f"; the study was trained in {own}" if own and own != "bf16" else ""
        return "bf16", f"that of the speed of {device}, {KALAMKAR}{beside}"
    if own:
        return own, "as the study was trained"
    return "fp32", "that of the speed of an unknown device"


def ranks_of(rows: int, devices: int) -> int:
    """Return how many devices can share the rows of a step evenly."""
    return max(n for n in range(1, min(devices, rows) + 1) if rows % n == 0)


def machine_block(
    trained: dict[str, Any],
    *,
    rows: int,
    devices: int,
    layout: Layout,
    precision_reason: str,
) -> tuple[MachineBlock, Reasons]:
    """Return the machine settings of the final run and their reasons.

    trained: the machine settings of a cell of the study, {} without a study
    rows: sequences of one optimizer step; every rank takes the same number of them
    devices: how many the cost was worked out for
    layout: how they share the training
    precision_reason: of the layout's precision
    """
    ranks = ranks_of(rows, devices)
    rank_reason = f"devices={devices}"
    if ranks < devices:
        rank_reason += f", of which {ranks} can share the {rows} rows of a step"
    if 1 < ranks <= ONE_MACHINE:
        rank_reason += ": a process each; on several machines srun starts as many instead"
    elif ranks > 1:
        rank_reason += (
            f": a process each, on {-(-ranks // ONE_MACHINE)} or more machines; there srun"
            f" starts them, srun --ntasks={ranks} --gpus-per-task=1 python -m scaling.final"
            " plan=PLAN stages=pretrain"
        )
    block = MachineBlock(
        precision=layout.precision,
        compile=trained.get("compile", False),
        activation_checkpointing=layout.checkpointing,
        ranks=ranks,
        shard=layout.sharded and ranks > 1,
        micro_batch=layout.rows if layout.known or layout.rows < rows // ranks else None,
    )
    reasons = {
        "precision": precision_reason,
        "compile": "as the study was trained" if trained else "try it on the machine first",
        "activation_checkpointing": layout.why,
        "ranks": rank_reason,
        "shard": layout.why,
    }
    if block.micro_batch:
        most = "the most that fit" if layout.known else f"at most {MOST_ROWS}"
        reasons["micro_batch"] = (
            f"rows at once of the {rows // ranks} of a rank, {most}; gradients add up"
        )
    return block, reasons
