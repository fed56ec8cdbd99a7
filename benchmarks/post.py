"""Fine-tuning, sampling and PPO against TRL and transformers, on the same model, data and updates.

    pip install trl==1.12.0                 # the last release with PPO
    python benchmarks/post.py --plan runs/quick/plan.yaml [--rounds 3] [--threads 1] [--only PPO]

Both sides start from the study's fine-tuned model (ours read, theirs the exported one, whose logits
are equal), take the same examples and prompts in batches of the same size, in float32, without
gradient checkpointing and with the same number of updates, at a rate near zero, so that completions
stay as long as they are. The sides take turns within a round; ratios are medians of the rounds'.
On a machine that others use too `--clock cpu` counts the process' own time.
What a library does by itself stays on: we sort rows by length into batches, TRL pads as they come.
"""

import argparse
import contextlib
import io
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "WANDB_MODE": "disabled"}

import torch
from torch import Tensor

from scaling.config import FinalConfig, LogConfig
from scaling.data.tokenizer import END
from scaling.data.tokens import open_corpus
from scaling.inference.generate import generate
from scaling.inference.hf_export import export
from scaling.inference.trained import open_trained
from scaling.stages import ppo
from scaling.stages.loop import Tally, fit, shuffled_batches
from scaling.stages.plan import load_plan, planned_cell
from scaling.stages.sft import load_pairs, sft_loss
from scaling.stages.stage import Stage, open_planned
from scaling.train import checkpoint
from scaling.train.device import pick_device

RATE = 1e-7
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
clock = CLOCKS["wall"]
Rate = Callable[[], float]


def opened(plan: str, threads: int) -> Stage:
    """Return the PPO stage of a plan that was executed up to its reward model."""
    config = load_plan(plan)
    config.machine.threads = threads
    config.log = LogConfig(wandb="disabled", every_seconds=1e9, health=False)
    cell, device = planned_cell(config), pick_device(config.machine)
    return open_planned(
        config,
        cell,
        name="ppo",
        corpus=open_corpus(cell),
        device=device,
        after=("sft", "reward"),
    )


def stage_of(stage: Stage, name: str, folder: Path, **changes: Any) -> Stage:
    """Return the stage by another name, in a folder of its own, its block changed."""
    block = replace(getattr(stage.config, name), peak_lr=RATE, **changes)
    config = replace(stage.config, **{name: block}, resume=False)
    return replace(stage, name=name, folder=folder, config=config)


def our_tuning(stage: Stage, folder: Path, n: int) -> Rate:
    """Fine-tune on n examples; return how to get examples a second."""
    stage = stage_of(stage, "sft", folder, examples=n, epochs=1)
    examples = load_pairs(stage).train[:n]
    lengths = [len(e.prompt) + len(e.completion) for e in examples]
    batch = stage.config.sft.batch_examples

    def run() -> float:
        model = tuned(stage)
        batches = shuffled_batches(n, batch=batch, epochs=1, seed=0, lengths=lengths)

        def loss_of(step: int) -> tuple[Tensor, int, float]:
            return sft_loss(model, [examples[i] for i in batches[step]])

        began = clock()
        fit(stage, model, Tally(), n_steps=len(batches), peak_lr=RATE, loss_of=loss_of)
        return n / (clock() - began)

    return run


def tuned(stage: Stage) -> Any:
    """Return the fine-tuned model."""
    model = stage.new_model()
    checkpoint.load_weights(stage.weights_of("sft"), model)
    return model


def their_tuning(stage: Stage, exported: Path, n: int) -> Rate:
    """Fine-tune with TRL's SFTTrainer."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    rows = [
        {
            "input_ids": [*e.prompt, *e.completion],
            "completion_mask": [0] * len(e.prompt) + [1] * len(e.completion),
        }
        for e in load_pairs(stage).train[:n]
    ]
    arguments = SFTConfig(
        output_dir=str(exported / "out"),
        per_device_train_batch_size=stage.config.sft.batch_examples,
        num_train_epochs=1,
        max_length=stage.cell.data.context,
        completion_only_loss=True,
        learning_rate=RATE,
        **COMMON,
    )

    def run() -> float:
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(exported),
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(exported),
        )
        return timed(trainer.train, n)

    return run


COMMON: dict[str, Any] = {
    "bf16": False,
    "gradient_checkpointing": False,
    "use_cpu": True,
    "report_to": [],
    "save_strategy": "no",
    "logging_strategy": "no",
    "disable_tqdm": True,
}


def timed(work: Callable[[], Any], n: int) -> float:
    """Return n over the seconds that some work takes, its output swallowed."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        began = clock()
        work()
        return n / (clock() - began)


def prompts_of(stage: Stage, n: int) -> list[list[int]]:
    """Return the first n training prompts."""
    room = stage.config.ppo.max_new_tokens
    return load_pairs(stage).prompts(context=stage.cell.data.context, max_new_tokens=room)[0][:n]


def our_sampling(stage: Stage, n: int) -> Rate:
    """Sample a completion of n prompts; tokens a second."""
    prompts, model = prompts_of(stage, n), tuned(stage).eval()

    def run() -> float:
        began = clock()
        found = generate(
            model,
            prompts,
            max_new_tokens=stage.config.ppo.max_new_tokens,
            temperature=1.0,
            seed=0,
        )
        return found.n_tokens / (clock() - began)

    return run


def their_sampling(stage: Stage, exported: Path, n: int) -> Rate:
    """Sample with `transformers.generate`, all prompts in one padded batch."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(exported, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(exported).eval()
    batch = tokenizer.pad({"input_ids": prompts_of(stage, n)}, return_tensors="pt")

    def run() -> float:
        began = clock()
        with torch.inference_mode():
            found = model.generate(
                **batch,
                max_new_tokens=stage.config.ppo.max_new_tokens,
                do_sample=True,
                top_k=0,
            )
        seconds = clock() - began
        rows = found[:, batch["input_ids"].shape[1] :]
        ended = (rows == END).int().cumsum(1) - (rows == END).int()
        return int((ended == 0).sum()) / seconds

    return run


def our_ppo(stage: Stage, folder: Path, n: int) -> Rate:
    """Run PPO on n episodes; episodes a second."""
    stage = stage_of(stage, "ppo", folder, episodes=n, kl_coefficient=0.05, adaptive=False)
    stage = replace(stage, config=without_gold(stage.config))
    prompts = prompts_of(replace(stage, config=replace(stage.config, sft=stage_sft(stage))), 10**6)

    def run() -> float:
        models = ppo.load_models(stage)
        tally = Tally(values={"coefficient": 0.05, "recent_kl": []})
        began = clock()
        ppo.train_policy(stage, models, tally, prompts=prompts)
        return n / (clock() - began)

    return run


def without_gold(config: FinalConfig) -> FinalConfig:
    """Return a plan whose completions no judge scores, as in TRL."""
    return replace(config, sft=replace(config.sft, data="none"))


def stage_sft(stage: Stage) -> Any:
    """Return the block of fine-tuning that has the prompts."""
    return replace(stage.config.sft, data="docstrings")


def their_ppo(stage: Stage, exported: Path, n: int) -> Rate:
    """Run TRL's PPOTrainer: four networks, the same batch, epochs and completion length."""
    from datasets import Dataset
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
    )
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    block = stage.config.ppo
    tokenizer = AutoTokenizer.from_pretrained(exported, padding_side="left")
    arguments = PPOConfig(
        output_dir=str(exported / "out"),
        per_device_train_batch_size=block.batch_episodes,
        gradient_accumulation_steps=1,
        num_mini_batches=block.batch_episodes // block.minibatch_episodes,
        num_ppo_epochs=block.inner_epochs,
        total_episodes=n,
        response_length=block.max_new_tokens,
        stop_token_id=END,
        local_rollout_forward_batch_size=block.batch_episodes,
        temperature=1.0,
        kl_coef=0.05,
        num_sample_generations=0,
        learning_rate=RATE,
        **COMMON,
    )
    rows = Dataset.from_list([{"input_ids": p} for p in prompts_of(stage, max(n, 512))])

    def scorer() -> Any:
        return AutoModelForSequenceClassification.from_pretrained(exported, num_labels=1)

    def run() -> float:
        with contextlib.redirect_stderr(io.StringIO()):
            trainer = PPOTrainer(
                args=arguments,
                processing_class=tokenizer,
                model=AutoModelForCausalLM.from_pretrained(exported),
                ref_model=AutoModelForCausalLM.from_pretrained(exported),
                reward_model=scorer(),
                value_model=scorer(),
                train_dataset=rows,
                eval_dataset=rows.select(range(block.batch_episodes)),
                data_collator=DataCollatorWithPadding(tokenizer),
            )
        return timed(trainer.train, n)

    return run


def quiet() -> None:
    """Silence the progress bars of the other libraries."""
    from datasets.utils.logging import disable_progress_bar
    from transformers.utils import logging as hub_logging

    disable_progress_bar()
    hub_logging.disable_progress_bar()


def main() -> None:
    """Print a line a comparison."""
    parser = argparse.ArgumentParser(description="Post-training against TRL and transformers.")
    parser.add_argument("--plan", required=True, help="a plan executed up to its reward model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--examples", type=int, default=1024)
    parser.add_argument("--episodes", type=int, default=512)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--only", default="", help="the comparison's first word, all without it")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    given = parser.parse_args()
    global clock
    clock = CLOCKS[given.clock]
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    quiet()
    stage = opened(given.plan, given.threads)
    sources = open_trained(stage.sources["sft"], stage.device, tokenizer=str(
        stage.corpus.tokenizer_path))  # fmt: skip
    n = sum(p.numel() for p in sources.model.parameters())
    out = sys.stdout.write
    out(f"{n:,} parameters, vocabulary {sources.model.vocab_size}, {given.threads} threads\n")
    with tempfile.TemporaryDirectory() as place:
        exported = Path(place) / "exported"
        export(sources, exported)
        pairs: dict[str, tuple[Rate, Rate]] = {
            "fine-tuning, examples/s": (
                our_tuning(stage, Path(place) / "sft", given.examples),
                their_tuning(stage, exported, given.examples),
            ),
            "sampling, tokens/s": (
                our_sampling(stage, given.prompts),
                their_sampling(stage, exported, given.prompts),
            ),
            "PPO, episodes/s": (
                our_ppo(stage, Path(place) / "ppo", given.episodes),
                their_ppo(stage, exported, given.episodes),
            ),
        }
        for name, (ours, theirs) in pairs.items():
            if not name.startswith(given.only):
                continue
            rates = [(ours(), theirs()) for _ in range(1 + given.rounds)][1:]  # one to warm up
            ratio = statistics.median(a / b for a, b in rates)
            middle = [statistics.median(side) for side in zip(*rates, strict=True)]
            out(f"{name:24} ours {middle[0]:9.1f}  theirs {middle[1]:9.1f}  ratio {ratio:.2f}\n")


if __name__ == "__main__":
    main()
