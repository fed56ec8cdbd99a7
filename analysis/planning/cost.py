"""What the planned pretraining costs: FLOPs, device hours, wall time, memory, money, deadweight.

Deadweight is 1 - C_eq / C, where C_eq is the compute at which the law's optimum reaches the loss of
the plan's N and D: the share of C that rounding and constraints cost (LAWS 8, step 8). Both sides
are 6ND, so that attention, which no split avoids, does not count as waste.
"""

from dataclasses import replace
from typing import Any

from analysis.laws.law import Law
from analysis.planning.budgets import Budget
from analysis.planning.devices import DEVICES, device_named
from analysis.planning.split import Split, compute_reaching
from scaling.schema import Shape

BYTES_PER_PARAM = 16  # weight, gradient and two moments in fp32 (Rajbhandari et al. 2020)
GIB = 2.0**30


def memory_gib(shape: Shape, *, devices: int, sharded: bool, checkpointing: bool) -> float:
    """Estimate GiB of one device while it trains on one sequence at a time, all in fp32.

    Sharded (ZeRO-3, Rajbhandari et al. 2020, 1910.02054), every device keeps its part of weights,
    gradients and moments; with checkpointing, the input of each layer and one layer's activations.
    """
    held = BYTES_PER_PARAM * shape.params.total / (devices if sharded else 1)
    sequence = shape.training_bytes(shape.context) - shape.training_bytes(0)
    if checkpointing:
        head = 4 * shape.context * 3 * shape.vocab_size
        inputs = 4 * shape.context * shape.d_model * shape.n_layer
        sequence = head + inputs + (sequence - head) / shape.n_layer
    return (held + sequence) / GIB


def deadweight(law: Law, loss: float, flops: float) -> float | None:
    """Return 1 - C_eq / C of a loss bought for C = 6ND; None where no optimum reaches it."""
    law = replace(law, draws=None)
    equal = compute_reaching(law, loss, most=flops)
    return None if equal is None else max(0.0, 1 - equal / flops)


def cost_block(
    law: Law,
    budget: Budget,
    split: Split,
    pretrain: dict[str, Any],
    *,
    shape: Shape,
    memory: float,
) -> dict[str, Any]:
    """Return the costs with their reasons; those that nothing is known of are None."""
    speed, flops = budget.flops_per_second, pretrain["flops"]
    hours = flops / speed / 3600 if speed else None
    n, d = pretrain["params"], pretrain["tokens"]
    wasted = (
        deadweight(law, float(split.loss(n, d)), 6.0 * n * d)
        if split.optimum.loss is not None
        else None
    )
    served = 2.0 * pretrain["params"] * (split.constraints.inference_tokens or 0.0)
    told = "no speed is known" if hours is None else budget.speed_reason
    price = budget.price_per_hour
    return {
        "flops": flops,
        "serving_flops": served or None,
        "share_of_budget": (flops + served) / budget.flops,
        "device_hours": hours,
        "wall_hours": None if hours is None else hours / budget.devices,
        "params_total": shape.params.total,
        "memory_per_device_gib": memory,
        "money": None if hours is None or price is None else hours * price,
        "deadweight": wasted,
        "reasons": {
            "flops": "counted exactly, forward and backward",
            "serving_flops": "2N a token served (Sardana et al. 2023, 2401.00448)",
            "share_of_budget": "of the budget; the rest is reserve and whole steps",
            "device_hours": f"FLOPs / speed / 3600: {told}",
            "wall_hours": f"on {budget.devices} devices, no time lost between them",
            "params_total": "embeddings and every expert: what memory holds",
            "memory_per_device_gib": (
                f"fp32, one sequence of {pretrain['context']} at a time"
                f"{_room(budget.device, memory)}"
            ),
            "money": (
                f"device hours x {price:g}" if price is not None else "no price_per_hour is given"
            ),
            "deadweight": (
                "share of 6ND that the optimum would not need for the same loss: what constraints"
                " and rounding cost"
            ),
        },
    }


def memory_alarm(device: str, memory: float, *, spread: bool) -> tuple[str, str] | None:
    """Say so where a known device is too small for the training state."""
    if device not in DEVICES or memory * GIB <= device_named(device).memory:
        return None
    room = device_named(device).memory / GIB
    mend = "more devices" if spread else "devices= and sharded=true"
    return (
        "memory",
        f"training takes {memory:.3g} GiB a device and {device} has {room:.3g}; give {mend},"
        " activation_checkpointing=true, max_memory_gib= or split each layer over devices",
    )


def _room(device: str, memory: float) -> str:
    if device not in DEVICES:
        return ""
    room = device_named(device).memory / GIB
    return f"; {100 * memory / room:.3g}% of the {room:.3g} GiB of {device}"
