"""What the planned pretraining costs: FLOPs, device hours, wall time, memory, money, deadweight.

Deadweight is 1 - C_eq / C, the share of C that rounding and constraints cost (LAWS 8, step 8). C_eq
is the compute at which the law's optimum reaches the loss of the plan's N and D. C_eq and C count
FLOPs as the law does, so that attention, which no split avoids, does not count as waste.
"""

from dataclasses import replace

from analysis.alarms.alarm import Alarm
from analysis.laws.law import Law
from analysis.planning.budgets import Budget
from analysis.planning.devices import DEVICES, device_named
from analysis.planning.plan import CostBlock, PretrainBlock
from analysis.planning.split import Split, compute_reaching
from scaling.schema import Shape

BYTES_PER_PARAM = 16  # weight, gradient and two moments in fp32 (Rajbhandari et al. 2020)
GIB = 2.0**30  # bytes


def memory_gib(shape: Shape, *, devices: int, sharded: bool, checkpointing: bool) -> float:
    """Estimate the GiB that one device needs to train on one sequence at a time, all in fp32.

    shape: the model
    devices: how many devices train it
    sharded: whether each device holds its part alone of weights, gradients and moments (ZeRO-3,
        Rajbhandari et al. 2020, 1910.02054)
    checkpointing: whether it keeps the input of each layer and the activations of one layer alone
    """
    state = BYTES_PER_PARAM * shape.params.total / (devices if sharded else 1)
    sequence = shape.training_bytes(shape.context) - shape.training_bytes(0)
    if checkpointing:
        head = 4 * shape.context * 3 * shape.vocab_size
        inputs = 4 * shape.context * shape.d_model * shape.n_layer
        sequence = head + inputs + (sequence - head) / shape.n_layer
    return (state + sequence) / GIB


def deadweight(law: Law, loss: float, flops: float) -> float | None:
    """Return 1 - C_eq / C for a loss that costs C; None where no optimum reaches the loss."""
    law = replace(law, draws=None)
    equal = compute_reaching(law, loss, most=flops)
    return None if equal is None else max(0.0, 1 - equal / flops)


def cost_block(
    law: Law,
    budget: Budget,
    split: Split,
    pretrain: PretrainBlock,
    *,
    shape: Shape,
    memory: float,
) -> CostBlock:
    """Return the costs with their reasons, None where nothing is known.

    law: the law that says how much less compute would do (deadweight)
    budget: C, devices, speed and price
    split: N and D before rounding, with the tokens to serve
    pretrain: the planned pretraining
    shape: the planned model
    memory: GiB that one device needs
    """
    speed, flops, n, d = budget.flops_per_second, pretrain.flops, pretrain.params, pretrain.tokens
    hours = flops / speed / 3600 if speed else None
    served = 2.0 * n * (split.constraints.inference_tokens or 0.0)
    price = budget.price_per_hour
    gives_loss = split.optimum.loss is not None
    counted = 6.0 * n * d if law.flop_count is None else flops
    return CostBlock(
        flops=flops,
        serving_flops=served or None,
        share_of_budget=(flops + served) / budget.flops,
        device_hours=hours,
        wall_hours=None if hours is None else hours / budget.devices,
        params_total=shape.params.total,
        memory_per_device_gib=memory,
        money=None if hours is None or price is None else hours * price,
        deadweight=deadweight(law, float(split.loss(n, d)), counted) if gives_loss else None,
        reasons=_reasons(budget, context=pretrain.context, memory=memory),
    )


def _reasons(budget: Budget, *, context: int, memory: float) -> dict[str, str]:
    """Return the reason of each cost."""
    price = budget.price_per_hour
    speed_reason = budget.speed_reason if budget.flops_per_second else "no speed is known"
    return {
        "flops": "counted exactly, forward and backward",
        "serving_flops": "2N a token served (Sardana et al. 2023, 2401.00448)",
        "share_of_budget": "of the budget; the rest is reserve and whole steps",
        "device_hours": f"FLOPs / speed / 3600: {speed_reason}",
        "wall_hours": f"on {budget.devices} devices, no time lost between them",
        "params_total": "embeddings and every expert: what memory holds",
        "memory_per_device_gib": (
            f"fp32, one sequence of {context} at a time{_share_of_memory(budget.device, memory)}"
        ),
        "money": (
            f"device hours x {price:g}" if price is not None else "no price_per_hour is given"
        ),
        "deadweight": (
            "share of C that the optimum would not need for the same loss: what constraints"
            " and rounding cost"
        ),
    }


def memory_alarm(device: str, memory: float, *, spread: bool) -> Alarm | None:
    """Return an alarm where a known device is too small for the training state.

    device: the accelerator's name
    memory: GiB that one device needs
    spread: whether the state is sharded over several devices already
    """
    if device not in DEVICES or memory * GIB <= device_named(device).memory:
        return None
    room = device_named(device).memory / GIB
    remedy = "more devices" if spread else "devices= and sharded=true"
    return Alarm(
        code="memory",
        sentence=f"training takes {memory:.3g} GiB a device and {device} has {room:.3g}; give"
        f" {remedy}, activation_checkpointing=true, max_memory_gib= or split each layer over"
        " devices",
    )


def _share_of_memory(device: str, memory: float) -> str:
    if device not in DEVICES:
        return ""
    room = device_named(device).memory / GIB
    return f"; {100 * memory / room:.3g}% of the {room:.3g} GiB of {device}"
