"""Settings of the machine, the logs and the launcher."""

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any

from scaling.config.ranges import MOST_BATCH, SECONDS, one_of
from scaling.schema import (
    Range,
    check_ranges,
)


@dataclass(kw_only=True)
class MachineConfig:
    """What may differ between machines without changing what is measured.

    `compile` compiles each block (for GPUs; on a CPU the passes written out are faster).
    `deterministic` has every operation give the same bits each time, or refuse; on a CPU they do
    without it, for a given number of threads. `micro_batch` rows go through the model at once (0:
    all of a step's), the gradients add up; `activation_checkpointing` computes each block's
    activations again in the backward pass instead of keeping them. `ranks` processes, each with a
    GPU or `threads` of its own, train a model together (scaling.train.local_ranks), each on its
    share of a step's rows; stages after pretraining take one. `shard` divides weights, gradients
    and moments among the ranks (FSDP2; Rajbhandari et al. 2020, stage 3), whose folder `runs` must
    then be one that all of them see. Ranks wait `meet_seconds` for each other at the start; one
    that gives no sign of life, or that the others wait for, longer than `hang_seconds` ends the
    run, named.

    `stack` bounds how many small trunks of one shape train together in one process
    (scaling.stacked.turns; the seconds of a record are then its share). -1 leaves it to what was
    measured, 0 is never, a number holds for a model of any size and on any device.

    A sweep ends a process that it has seen stopped (SIGSTOP) for `stopped_seconds`, and one that
    has made no step, and scored and sampled nothing, for `hang_seconds` and for twenty times its
    slowest step before; its cells go on from their checkpoints.
    """

    device: str = "auto"
    precision: str = "fp32"
    compile: bool = False
    deterministic: bool = False
    micro_batch: Annotated[int, Range(0, MOST_BATCH, note="0 is all rows of a step at once")] = 0
    activation_checkpointing: bool = False
    shard: bool = False
    ranks: Annotated[int, Range(1, 100_000, note="1 is alone")] = 1
    meet_seconds: Annotated[float, Range(0, 1e7, above=True)] = 600.0
    threads: Annotated[int, Range(1, 4096)] = 1
    workers: Annotated[int, Range(0, 4096, note="0 is one a core")] = 0
    cache: str = ""
    checkpoint_seconds: Annotated[float, SECONDS] = 60.0
    stack: Annotated[int, Range(-1, 4096, note="-1 is as measured, 0 never")] = -1
    stopped_seconds: Annotated[float, Range(0, 1e7, above=True)] = 60.0
    hang_seconds: Annotated[float, Range(0, 1e7, above=True)] = 1800.0

    def __post_init__(self) -> None:
        """Check device, precision and numbers."""
        check_ranges(self, "machine")
        one_of("machine.device", self.device, ("auto", "cpu", "cuda"))
        one_of("machine.precision", self.precision, ("fp32", "bf16"))


@dataclass(kw_only=True)
class LogConfig:
    """The curve on disk is always written; wandb mirrors it.

    `health` adds activations, attention logits and the size of a step to its rows.
    """

    health: bool = True
    every_seconds: Annotated[float, SECONDS] = 10.0
    wandb: str = "offline"
    project: str = "scaling"
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Check the wandb mode and the numbers."""
        check_ranges(self, "log")
        one_of("log.wandb", self.wandb, ("offline", "online", "disabled"))


@dataclass(kw_only=True)
class LauncherNumbers:
    """The numbers among a launcher's options (conf/hydra/launcher), which Hydra leaves untyped."""

    workers: Annotated[int, Range(0, 4096, note="0 is one a core or GPU")] = 0
    timeout_min: Annotated[float, Range(1, 1e6)] = 60
    signal_seconds: Annotated[float, Range(1, 1e6)] = 90
    cpus_per_task: Annotated[int, Range(1, 100_000)] = 1
    mem_gb: Annotated[float, Range(0, 1e6, above=True)] = 4
    gpus_per_node: Annotated[int, Range(0, 1000)] = 0
    array_parallelism: Annotated[int, Range(1, 1e6)] = 64
    array_size: Annotated[int, Range(0, 1e6, note="0 is the cluster's limit")] = 0
    poll_seconds: Annotated[float, Range(0, 1e6, above=True)] = 5


def check_launcher(options: dict[str, Any]) -> None:
    """Refuse a launcher's option that is out of its range; null leaves one to the cluster."""
    known = {f.name for f in dataclasses.fields(LauncherNumbers)}
    given = {k: v for k, v in options.items() if k in known}
    check_ranges(LauncherNumbers(**given), "hydra.launcher")
