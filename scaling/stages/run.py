"""Which function runs each stage after pretraining, and the rule that a finished stage is kept."""

import logging
from collections.abc import Callable

from scaling.schema import Record
from scaling.stages.plan import StageName
from scaling.stages.ppo import run_ppo
from scaling.stages.reward import run_reward
from scaling.stages.sft import run_sft
from scaling.stages.stage import Stage, finished_record

log = logging.getLogger(__name__)

RUN: dict[str, Callable[[Stage], Record]] = {
    StageName.SFT: run_sft,
    StageName.REWARD: run_reward,
    StageName.PPO: run_ppo,
}


def run_or_keep(stage: Stage) -> Record:
    """Run a stage; where it is finished with the same inputs, return its record instead."""
    record = finished_record(stage)
    if record is not None:
        log.info("%s: done before, kept", stage.name)
        return record
    return RUN[stage.name](stage)
