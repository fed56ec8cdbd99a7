"""How the devices share the planned training: sharding, recomputation, rows at once, memory.

The trainer knows data parallelism, FSDP2 (weights, gradients and moments divided among all ranks:
Rajbhandari et al. 2020, 1910.02054, stage 3; Zhao et al. 2023, 2304.11277) and recomputed
activations (Chen et al. 2016, 1604.06174). The simplest layout that fits a device is taken: whole
copies, then sharded, then sharded with recomputation. Memory is in GiB.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scaling.schema import DEVICES, Shape, device_named, training_memory_bytes

GIB = 2.0**30  # bytes
USABLE = 0.9  # of a device's memory: the rest is the allocator's slack, kernels and communication
MOST_ROWS = 64  # rows at once beyond which a device is no faster


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one device takes part.

    sharded: whether weights, gradients and moments are divided among the devices
    checkpointing: whether activations are computed again in the backward pass
    precision: of the products, fp32 or bf16
    rows: sequences that go through the model at once
    memory_gib: what one device needs
    known: whether the device's memory is known
    fits: whether a known device has that much, with a tenth to spare; True for an unknown one
    why: the reason of the choice
    """

    sharded: bool
    checkpointing: bool
    precision: str
    rows: int
    memory_gib: float
    known: bool
    fits: bool
    why: str


def layout_of(
    shape: Shape,
    *,
    rows: int,
    device: str,
    devices: int,
    precision: str,
    sharded: bool | None = None,
    checkpointing: bool | None = None,
    most_gib: float | None = None,
) -> Layout:
    """Return the simplest layout that fits, or the leanest one where none does.

    shape: the model
    rows: sequences of one device's share of an optimizer step
    device: the accelerator's name; one that is not known fits everything
    devices: how many train the model
    precision: fp32 or bf16
    sharded, checkpointing: what the user set; None chooses
    most_gib: what the user allows on a device
    """
    named = device.lower() in DEVICES
    room = USABLE * device_named(device).memory / GIB if named else float("inf")
    room = min(room, most_gib or float("inf"))
    known = room < float("inf")
    may_shard = devices > 1 and sharded is None
    options = [
        (shard, again)
        for again in ((False, True) if checkpointing is None else (checkpointing,))
        for shard in ((False, True) if may_shard else (bool(sharded),))
        if not (again and not shard and may_shard and checkpointing is None)
    ]

    def needed(rows_at_once: int, choice: tuple[bool, bool]) -> float:
        return memory_gib(shape, rows_at_once, choice, devices=devices, precision=precision)

    fitting = [choice for choice in options if needed(1, choice) <= room]
    choice = (fitting or options[-1:])[0] if known else options[0]
    divisors = [n for n in range(1, min(rows, MOST_ROWS) + 1) if rows % n == 0]
    at_once = max([1, *(n for n in divisors if needed(n, choice) <= room)])
    return Layout(
        sharded=choice[0],
        checkpointing=choice[1],
        precision=precision,
        rows=at_once,
        memory_gib=needed(at_once, choice),
        known=known,
        fits=bool(fitting),
        why=_why(
            shape,
            choice,
            devices=devices,
            precision=precision,
            room=room,
            device=device,
            given=[
                f"{name}={str(value).lower()}"
                for name, value in (
                    ("sharded", sharded),
                    ("activation_checkpointing", checkpointing),
                )
                if value is not None
            ],
        ),
    )


def memory_gib(
    shape: Shape, rows: int, choice: tuple[bool, bool], *, devices: int, precision: str
) -> float:
    """Return the GiB that one device needs to train (`scaling.schema.memory`).

    shape: the model
    rows: sequences that go through it at once
    choice: whether the state is sharded, whether activations are recomputed
    devices: how many share a sharded state
    precision: fp32 or bf16
    """
    sharded, checkpointing = choice
    return (
        training_memory_bytes(
            shape,
            rows,
            precision=precision,
            ranks=devices if sharded else 1,
            checkpointing=checkpointing,
        )
        / GIB
    )


def _why(
    shape: Shape,
    choice: tuple[bool, bool],
    *,
    devices: int,
    precision: str,
    room: float,
    device: str,
    given: Sequence[str],
) -> str:
    """Say why a layout was chosen: what a whole copy would take, or the settings `given`."""
    whole = memory_gib(shape, 1, (False, False), devices=devices, precision=precision)
    if room == float("inf"):
        if given:
            return f"as set ({', '.join(given)}): the device's memory is not known"
        return (
            "a whole copy on each device and nothing computed again: the device's memory is not"
            " known; sharded=true or activation_checkpointing=true changes it"
        )
    text = (
        f"a whole copy takes {whole:.3g} GiB on each of {devices}, and {room:.3g} of"
        f" {device or 'a device'} are used at most"
    )
    if choice == (False, False):
        return f"{text}: data parallelism alone"
    parts = []
    if choice[0]:
        parts.append(f"weights, gradients and moments divided among {devices} (FSDP2)")
    if choice[1]:
        parts.append("activations computed again in the backward pass")
    return f"{text}: {' and '.join(parts)}"
