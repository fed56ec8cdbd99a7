"""A final run that a signal stops leaves a checkpoint, from which the same command goes on."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from scaling.final import run_final
from scaling.study.lease import Pulse
from scaling.study.stop_signals import SIGNALS, stop_on_signal


@pytest.mark.parametrize(
    ("number", "outcome"),
    [(signal.SIGINT, "stopped"), (signal.SIGTERM, "stopped"), (signal.SIGUSR2, "preempted")],
)
def test_the_first_signal_asks_and_the_second_ends_at_once(number, outcome):
    before = [signal.getsignal(n) for n in SIGNALS]
    pulse = Pulse()
    with stop_on_signal(pulse):
        os.kill(os.getpid(), number)
        assert pulse.stop == outcome
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert [signal.getsignal(n) for n in SIGNALS] == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "loop"), [("pretrain", "scaling.train.trunk"), ("sft", "scaling.stages.loop")]
)
def test_a_stage_told_to_stop_leaves_a_checkpoint_and_the_same_command_goes_on(
    final_config, monkeypatch, stage, loop
):
    stages = "pretrain,sft" if stage == "sft" else stage
    quiet = run_final(replace(final_config, study="quiet", stages=stages))[-1]
    steps = []

    def told() -> None:
        steps.append(None)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    config = replace(final_config, stages=stages)
    if stage == "sft":
        run_final(replace(config, stages="pretrain"))
    with monkeypatch.context() as patch:
        patch.setattr(f"{loop}.moved", told)
        with pytest.raises(RuntimeError, match=rf"stage {stage} was stopped at step [23], after"):
            run_final(config)
    folder = Path(config.runs) / "tiny/final" / stage
    assert list(folder.rglob("checkpoint.safetensors"))
    assert not (folder / "record.json").exists()
    assert run_final(config)[-1].test_loss == quiet.test_loss
