"""Run the planned final run: pretraining, fine-tuning, reward model, PPO.

    scaling final plan=plan.yaml [stages=pretrain,sft,reward,ppo] [ppo.episodes=4096 ...]

The plan is read strictly: an unknown key is an error. Settings of the command apply on top of it.
The forecast is sealed in runs/NAME/final/forecast.json before pretraining starts, and scored in
runs/forecasts.jsonl when it ends; a plan far beyond the compute that was fitted waits for its
confirmation run. A stage that is done with the same inputs is not run again; a killed stage resumes
from its checkpoint. Every stage is checked before the first one trains; check=all ends then.
"""

import logging
from collections.abc import Callable

from hydra.core.hydra_config import HydraConfig

from scaling.app.application import start, store
from scaling.config import FinalConfig
from scaling.schema import Record
from scaling.stages.final_run import run_stages
from scaling.stages.outcome import following, summary
from scaling.stages.plan import StageName, chosen_stages, load_plan
from scaling.train.rank_exit import run_to_end

log = logging.getLogger(__name__)

store("final", FinalConfig)


def run_final(
    config: FinalConfig, ended: Callable[[Record], None] = lambda record: None
) -> list[Record]:
    """Run the stages that `config.stages` names, in order; return their records.

    config: the plan
    ended: called with the record of each stage that is done, before the next one starts

    ValueError when a stage diverges, so that no later stage starts from it, and for other stages
    than pretraining under torchrun or srun.
    """
    # torch takes seconds to import: `main` refuses a wrong plan before.
    from scaling.train.ranks import started_ranks

    stages = chosen_stages(config.stages)
    if started_ranks() == 1:
        return run_stages(config, stages, ended=ended)
    if stages != [StageName.PRETRAIN]:
        raise ValueError(
            "ranks of torchrun or srun train pretraining alone; set stages=pretrain, then run "
            "the other stages without them"
        )
    from scaling.jobs.external_ranks import pretrain_on_ranks

    return pretrain_on_ranks(
        lambda world, begin: run_stages(config, stages, world=world, begin=begin, ended=ended),
        config.machine,
    )


def main(config: FinalConfig) -> None:
    """Read the plan, run its stages, log the closing lines."""
    if not config.plan:
        raise ValueError("no plan is named; give plan=plan.yaml (scaling plan writes one)")
    planned = load_plan(config.plan, list(HydraConfig.get().overrides.task))
    records: list[Record] = []
    try:
        run_final(planned, records.append)
    finally:  # a stage that is refused late must not hide the results of those before it
        for line in summary(planned, records):
            log.info(line)
    if records:
        log.info(following(planned))


if __name__ == "__main__":
    run_to_end(lambda: start(main, config_name="final", schema=FinalConfig))
