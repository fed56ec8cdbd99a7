"""Settings of the machine, the logs and the launcher."""

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any

from scaling.config.ranges import MOST_BATCH, SECONDS
from scaling.schema import OneOf, Range, check_settings, checked


@dataclass(kw_only=True)
@checked("machine")
class MachineConfig:
    """What may differ between machines without changing what is measured."""

    device: Annotated[str, OneOf("auto", "cpu", "cuda")] = "auto"
    """Device to train on; auto takes a GPU where there is one."""
    precision: Annotated[str, OneOf("auto", "fp32", "bf16")] = "auto"
    """Precision of the passes; bf16 keeps weights and optimiser in fp32. auto is decided once a
    study and kept in its folder: bf16 where models large enough for it take most of the compute,
    and where a pilot is faster with it and ends within .002 nats of fp32; else fp32."""
    compile: bool = False
    """Compile each block (for GPUs; on a CPU the passes that are written out are faster)."""
    deterministic: bool = False
    """Have every operation give the same bits each time, or refuse to run. A CPU does so without
    it, for a given number of threads."""
    micro_batch: Annotated[int, Range(0, MOST_BATCH, note="0 is all rows of a step at once")] = 0
    """Rows that go through the model at once while the gradients add up; 0 takes all rows of a
    step."""
    activation_checkpointing: bool = False
    """Compute each block's activations again in the backward pass instead of keeping them: less
    memory, about a third more compute."""
    shard: bool = False
    """Divide weights, gradients and moments among the ranks (FSDP2; Rajbhandari et al. 2020, stage
    3). All ranks must then see the folder of runs."""
    ranks: Annotated[int, Range(1, 100_000, note="1 is alone")] = 1
    """Processes that train a model together, each with a GPU or with threads of its own, each on
    its share of a step's rows. Stages after pretraining take one."""
    meet_seconds: Annotated[float, Range(0, 1e7, above=True)] = 600.0
    """Seconds that ranks wait for each other at the start."""
    threads: Annotated[int, Range(1, 4096)] = 1
    """CPU threads of each process. Another number may change the last bits of a loss."""
    workers: Annotated[int, Range(0, 4096, note="0 is one a core")] = 0
    """Processes that train cells, or tokenise the corpus, at the same time; 0 is one a core, or
    one a GPU for training."""
    cache: str = ""
    """Folder of tokens and vocabularies; empty takes .cache in the folder of runs."""
    checkpoint_seconds: Annotated[float, SECONDS] = 60.0
    """Seconds between checkpoints: the most work that a kill loses. 0 writes one at each step."""
    stack: Annotated[int, Range(-1, 4096, note="-1 is as measured, 0 never")] = -1
    """Small trunks of one shape that train together in one process, which is faster on a CPU; a
    record's seconds are then its share. -1 takes what was measured to be fastest, 0 never stacks,
    any other number holds for a model of any size and on any device."""
    stopped_seconds: Annotated[float, Range(0, 1e7, above=True)] = 60.0
    """Seconds after which a sweep ends a process that was stopped (SIGSTOP); its cells go on from
    their checkpoints."""
    hang_seconds: Annotated[float, Range(0, 1e7, above=True)] = 1800.0
    """Seconds without a step or a score after which a sweep ends a process as hung, if these are
    also twenty times its slowest step so far. A rank that gives no sign of life for as long, or
    that the others wait for, ends the run and is named."""


@dataclass(kw_only=True)
@checked("log")
class LogConfig:
    """Progress lines, and the mirror of the curve, which is always written to disk."""

    health: bool = True
    """Add the size of activations, attention logits and steps to the curve's rows."""
    every_seconds: Annotated[float, SECONDS] = 10.0
    """Seconds between lines of progress."""
    wandb: Annotated[str, OneOf("offline", "online", "disabled")] = "offline"
    """Mode of Weights & Biases, which mirrors the curve; offline writes files to sync later."""
    project: str = "scaling"
    """Project of Weights & Biases."""
    tags: list[str] = field(default_factory=list)
    """Tags of the runs in Weights & Biases."""


@dataclass(kw_only=True)
class LauncherOptions:
    """Where a sweep's cells run: hydra/launcher=local, slurm or none (`scaling work`).

    Hydra leaves these options untyped (conf/hydra/launcher holds their values, with the same
    defaults); `check_launcher` checks their ranges.
    """

    workers: Annotated[int, Range(0, 4096, note="0 is one a core or GPU")] = 0
    """Processes of the local pool; 0 is machine.workers, else one a core, or one a GPU."""
    partition: str | None = None
    """SLURM partition; null is the cluster's default."""
    account: str | None = None
    """SLURM account that pays; null is the cluster's default."""
    qos: str | None = None
    """SLURM quality of service; null is the cluster's default."""
    constraint: str | None = None
    """Features that a node must have, as a100|h100; null takes any node."""
    timeout_min: Annotated[float, Range(1, 1e6)] = 60
    """Minutes that a job may take. A job that runs out of time leaves a checkpoint and goes back
    into the queue."""
    signal_seconds: Annotated[float, Range(1, 1e6)] = 90
    """Seconds before the limit at which a job begins to end: more than a checkpoint takes."""
    cpus_per_task: Annotated[int, Range(1, 100_000)] = 1
    """CPU cores of a job."""
    mem_gb: Annotated[float, Range(0, 1e6, above=True)] = 4
    """Memory of a job in GB."""
    gpus_per_node: Annotated[int, Range(0, 1000)] = 0
    """GPUs of a job; a job with several trains as many trunks at the same time."""
    array_parallelism: Annotated[int, Range(1, 1e6)] = 64
    """Jobs of an array that run at the same time."""
    array_size: Annotated[int, Range(0, 1e6, note="0 is the cluster's limit")] = 0
    """Jobs of an array; 0 stays just below the cluster's MaxArraySize."""
    setup: list[str] = field(default_factory=list)
    """Shell lines before the job's command, as [module load cuda]."""
    container: str = ""
    """Words before python, as apptainer exec --nv --bind /data image.sif; empty runs without a
    container."""
    probe: bool = True
    """Let a node look for the folder of runs before anything is submitted."""
    poll_seconds: Annotated[float, Range(0, 1e6, above=True)] = 5
    """Seconds between two questions to SLURM."""
    additional: dict[str, Any] | None = None
    """Any other sbatch options, as {reservation: name, exclusive: true}; null adds none."""


def check_launcher(options: dict[str, Any]) -> None:
    """Refuse a launcher's number that is out of its range; null leaves it to the cluster."""
    names = {f.name for f in dataclasses.fields(LauncherOptions)}
    values = {k: v for k, v in options.items() if k in names}
    check_settings(LauncherOptions(**values), "hydra.launcher")
