"""Run the planned final run: pretraining, fine-tuning, reward model, PPO.

    python -m scaling.final plan=plan.yaml [stages=pretrain,sft,reward,ppo] [ppo.episodes=4096 ...]

The plan is merged strictly into FinalConfig; overrides apply on top of it. The forecast is sealed
in runs/NAME/final/forecast.json before pretraining starts, and scored in runs/forecasts.jsonl when
it ends; a plan far beyond what was fitted waits for its confirmation run. A stage that is done with
the same inputs is not run again, a killed one resumes from its checkpoint.
"""

import logging
from typing import TYPE_CHECKING

from scaling.app.application import start, store
from scaling.config import (
    FinalConfig,
)
from scaling.schema import (
    Record,
)
from scaling.train.rank_exit import run_to_end

if TYPE_CHECKING:
    pass
from scaling.stages.final_run import run_stages
from scaling.stages.outcome import summary
from scaling.stages.plan import chosen_stages, load_plan

log = logging.getLogger(__name__)


store("final", FinalConfig)


def run_final(config: FinalConfig) -> list[Record]:
    """Run the stages that are asked for, in order; return their records.

    ValueError when a stage diverges, so that no later one starts from it.
    """
    from scaling.train.ranks import started_ranks

    wanted = chosen_stages(config.stages)
    if started_ranks() == 1:
        return run_stages(config, wanted)
    if wanted != ["pretrain"]:
        raise ValueError(
            "ranks of torchrun or srun train pretraining alone; set stages=pretrain, then run "
            "the other stages without them"
        )
    from scaling.jobs.external_ranks import pretrain_on_ranks

    return pretrain_on_ranks(
        lambda world, begin: run_stages(config, wanted, world=world, begin=begin),
        config.machine,
    )


def main(config: FinalConfig) -> None:
    """Run the final run of `config.plan`."""
    from hydra.core.hydra_config import HydraConfig

    if not config.plan:
        raise ValueError(
            "no plan is named; give plan=plan.yaml (python -m analysis.plan writes one)"
        )
    planned = load_plan(config.plan, list(HydraConfig.get().overrides.task))
    for line in summary(planned, run_final(planned)):
        log.info(line)


if __name__ == "__main__":
    run_to_end(lambda: start(main, config_name="final", schema=FinalConfig))
