"""What the planned pretraining costs: FLOPs, device hours, wall time, memory, money, deadweight.

Deadweight is 1 - C_eq / C, the share of C that rounding and constraints cost (LAWS 8, step 8). C_eq
is the compute at which the law's optimum reaches the loss of the plan's N and D. C_eq and C count
FLOPs as the law does, so that attention, which no split avoids, does not count as waste.
"""

from dataclasses import replace

from analysis.alarms.alarm import Alarm
from analysis.laws.law import Law
from analysis.planning.budgets import Budget
from analysis.planning.layout import GIB, USABLE, Layout
from analysis.planning.plan import CostBlock, PpoBlock, PretrainBlock, RewardBlock, SftBlock
from analysis.planning.split import Split, compute_reaching
from scaling.app.plurals import plural
from scaling.schema import DEVICES, Shape, device_named


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
    layout: Layout,
    stage_flops: dict[str, float] | None = None,
) -> CostBlock:
    """Return the costs with their reasons, None where nothing is known.

    law: the law that says how much less compute would do (deadweight)
    budget: C, devices, speed and price
    split: N and D before rounding, with the tokens to serve
    pretrain: the planned pretraining
    shape: the planned model
    layout: how the devices share the training
    stage_flops: the most FLOPs of each later stage
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
        memory_per_device_gib=layout.memory_gib,
        stage_hours={k: v / speed / 3600 for k, v in stage_flops.items()}
        if speed and stage_flops
        else None,
        money=None if hours is None or price is None else hours * price,
        deadweight=deadweight(law, float(split.loss(n, d)), counted) if gives_loss else None,
        reasons=_reasons(budget, context=pretrain.context, layout=layout),
    )


def _reasons(budget: Budget, *, context: int, layout: Layout) -> dict[str, str]:
    """Return the reason of each cost."""
    price = budget.price_per_hour
    speed_reason = budget.speed_reason if budget.flops_per_second else "no speed is known"
    return {
        "flops": "counted exactly, forward and backward",
        "serving_flops": "2N a token served (Sardana et al. 2023, 2401.00448)",
        "share_of_budget": "of the budget; the rest is reserve and whole steps",
        "device_hours": f"FLOPs / speed / 3600: {speed_reason}",
        "wall_hours": f"on {plural(budget.devices, 'device')}, no time lost between them",
        "params_total": "embeddings and every expert: what memory holds",
        "memory_per_device_gib": (
            f"{layout.precision}, {_sequences(layout.rows)} of {context} at a time"
            f"{_share_of_memory(budget.device, layout.memory_gib)}"
        ),
        "stage_hours": (
            "at most, on one device: every example as long as the context; 6N a token and pass of"
            " sft, twice that a pair of reward, (8 + 12 epochs) N of ppo (sampling, scoring and"
            " update); decoding is bound by memory and slower"
        ),
        "money": (
            f"device hours x {price:g}" if price is not None else "no price_per_hour is given"
        ),
        "deadweight": (
            "share of C that the optimum would not need for the same loss: what constraints"
            " and rounding cost"
        ),
    }


def later_flops(
    shape: Shape, *, sft: SftBlock, reward: RewardBlock, ppo: PpoBlock
) -> dict[str, float]:
    """Return the most FLOPs of each stage after pretraining, every example as long as the context.

    A token costs f / 3 in a forward pass and f in a training step, f the exact FLOPs per token.
    PPO samples, scores by reference, reward model and critic, and updates policy and critic.
    """
    step = shape.flops_per_token
    passes = {
        "sft": sft.examples * sft.epochs,
        "reward": 2 * reward.pairs * reward.epochs,
        "ppo": ppo.episodes * (4 / 3 + 2 * ppo.inner_epochs),
    }
    return {stage: step * shape.context * n for stage, n in passes.items()}


def memory_alarm(device: str, layout: Layout) -> Alarm | None:
    """Return an alarm where a known device is too small for every layout that the trainer has."""
    if layout.fits or device not in DEVICES:
        return None
    room = device_named(device).memory / GIB
    remedy = "more devices" if layout.sharded else "devices= and sharded=true"
    more = "" if layout.checkpointing else ", activation_checkpointing=true"
    return Alarm(
        code="memory",
        sentence=f"training takes {layout.memory_gib:.3g} GiB a device and {device} has {room:.3g},"
        f" of which {USABLE * room:.3g} are usable; give {remedy}{more}, max_memory_gib= or a"
        " shorter shape.context=",
    )


def idle_alarm(rows: int, devices: int) -> Alarm | None:
    """Return an alarm where the rows of a step leave devices without work."""
    ranks = max(n for n in range(1, min(devices, rows) + 1) if rows % n == 0)
    if ranks == devices:
        return None
    return Alarm(
        code="idle_devices",
        sentence=f"the {rows} rows of a step can be shared by {ranks} of {devices} devices, and the"
        f" hours assume all; plan with devices={ranks}, or a batch that {devices} divides",
    )


def _sequences(rows: int) -> str:
    return "one sequence" if rows == 1 else f"{rows} sequences"


def _share_of_memory(device: str, memory: float) -> str:
    if device not in DEVICES:
        return ""
    room = device_named(device).memory / GIB
    return f"; {100 * memory / room:.3g}% of the {room:.3g} GiB of {device}"
