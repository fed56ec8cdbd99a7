"""A study on disk with a known law: records, curves, and a final run with its stages."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np

from analysis.laws.law import Law
from analysis.planning.plan import Plan
from scaling.config import CellConfig, ModelConfig
from scaling.schema import Record, Shape, write_json

E, A, B, ALPHA, BETA = 1.2, 90.0, 300.0, 0.35, 0.38
BYTES_PER_TOKEN = 3.1
SIZES = ((2, 32), (2, 48), (3, 64), (4, 80), (5, 96), (6, 128), (8, 160), (10, 208))
BUDGETS = (1e11, 3e11, 1e12, 3e12, 1e13)
SPEED = 3e10  # FLOP/s


def true_loss(params: float, tokens: float) -> float:
    """Return the loss of the study's own law, N with the head counted."""
    return E + A * params**-ALPHA + B * tokens**-BETA


def known_law() -> Law:
    """Return the study's own law, with draws and intervals."""
    parameters = {"E": E, "A": A, "B": B, "alpha": ALPHA, "beta": BETA}
    point = np.array(list(parameters.values()))
    return Law(
        form="chinchilla",
        count="with_head",
        parameters=parameters,
        objective={"name": "exact"},
        status="converged",
        draws=point * np.exp(0.01 * np.random.default_rng(0).normal(size=(100, 5))),
        n_runs=23,
        ranges={"flops": [1e11, 1e13], "flops_6nd": [1e11, 1e13]},
        intervals={
            "level": 0.9,
            "parameters": {k: [0.9 * v, 1.1 * v] for k, v in parameters.items()},
        },
    )


def write_study(folder: Path, *, noise: float = 0.002, seed: int = 0) -> Path:
    """Write an IsoFLOP-shaped study with curves, its extreme corners left out."""
    rng = np.random.default_rng(seed)
    for n_layer, width in SIZES:
        for flops in BUDGETS:
            for repeat in (0, 1) if flops == BUDGETS[0] else (0,):
                write_cell(
                    folder,
                    n_layer,
                    width,
                    flops,
                    seed=repeat,
                    scale=math.exp(noise * rng.normal()),
                )
    return folder


def write_cell(
    folder: Path, n_layer: int, width: int, flops: float, *, seed: int = 0, scale: float = 1.0
) -> Record | None:
    """Write one cell unless its tokens per parameter lie outside 0.3 to 400."""
    config = CellConfig(
        study=folder.name, model=ModelConfig(n_layer=n_layer, d_model=width), seed=seed
    )
    config.budget.flops = flops
    shape = config.model.shape(vocab_size=1024, context=128)
    tokens = int(flops / shape.flops_per_token / 512) * 512
    if not 0.3 < tokens / shape.params.with_head < 400:
        return None
    record = record_of(
        config,
        shape,
        tokens,
        loss=scale * true_loss(shape.params.with_head, tokens),
        trunk=f"t{n_layer}-{width}-{seed}",
    )
    record.write(folder / record.run_id / "record.json")
    rows = []
    for part in np.geomspace(0.05, 1, 24):
        done = int(part * tokens)
        late = true_loss(shape.params.with_head, done) * (1.03 if part < 1 else 1.0)
        rows.append(
            {
                "step": done // 512,
                "tokens": done,
                "flops": done * shape.flops_per_token,
                "train_loss": late,
                "test_loss": late,
            }
        )
    write_rows(folder / record.run_id / "metrics.jsonl", rows)
    return record


def record_of(
    config: CellConfig,
    shape: Shape,
    tokens: int,
    *,
    loss: float,
    trunk: str,
    stage: str = "pretrain",
) -> Record:
    """Return a plausible record."""
    flops = tokens * shape.flops_per_token
    return Record(
        run_id=config.run_id(),
        study=config.study,
        stage=stage,
        status="done",
        seed=config.seed,
        params=shape.params,
        tokens=tokens,
        unique_tokens=tokens,
        flops=flops,
        flops_6nd=6.0 * shape.params.with_head * tokens,
        test_loss=loss,
        test_loss_se=0.004,
        bits_per_byte=loss / (math.log(2) * BYTES_PER_TOKEN),
        train_loss=loss,
        steps=tokens // 512,
        batch_tokens=512,
        peak_lr=0.01 * 32 / shape.d_model,
        schedule="wsd",
        trunk=trunk,
        seconds=flops / SPEED,
        device="cpu",
        device_seconds=flops / SPEED,
        peak_memory_bytes=2**28,
        tokens_per_second=SPEED / shape.flops_per_token,
        mfu=None,
        config={**config.science(), "study": config.study},
        versions={"torch": "2.13.0"},
        git_sha="0123456789ab",
        started="2026-11-23T08:00:00+00:00",
        ended="2026-11-23T08:01:00+00:00",
    )


def write_final(folder: Path, *, plan: Plan, loss: float = 2.4) -> None:
    """Write the final run of a plan whose four stages have ended, with samples of markup."""
    planned = plan.pretrain
    tokens = planned.tokens
    config = CellConfig(study=folder.name, model=ModelConfig(**planned.model))
    config.budget.n_tokens = tokens
    config.data.context = planned.context
    config.optim.weight_decay = planned.weight_decay
    config.schedule.name = planned.schedule
    shape = config.model.shape(vocab_size=1024, context=128)
    base = record_of(config, shape, tokens, loss=loss, trunk="final")
    curves = stage_curves(tokens, flops=base.flops, loss=loss)
    metrics = {
        "pretrain": {},
        "sft": {"test_loss_before": 3.1},
        "reward": {"accuracy": 0.71},
        "ppo": {
            "reward_before": 0.02,
            "reward_after": 1.4,
            "gold_before": 0.9,
            "gold_after": 1.8,
            "kl": 5.1,
            "entropy": 1.7,
        },
    }
    for stage, rows in curves.items():
        record = dataclasses.replace(
            base, stage=stage, run_id=f"{stage}0001", metrics=metrics[stage]
        )
        record.write(folder / "final" / stage / "record.json")
        write_rows(folder / "final" / stage / "metrics.jsonl", rows)
    prompt = 'def clamp(x, low, high):\n    """Keep <x> between low & high."""\n'
    sample = {
        "prompt": prompt,
        "before": "    <script>alert(1)</script>\n    x x x",
        "after": "    return max(low, min(x, high))",
    }
    scores = {"reward_before": -0.4, "reward_after": 1.2, "gold_before": 1.0, "gold_after": 2.0}
    write_json(folder / "final" / "ppo" / "samples.json", [{**sample, **scores}] * 3)


def stage_curves(tokens: int, *, flops: float, loss: float) -> dict[str, list[dict]]:
    """Return smooth metrics of 40 steps a stage; held-out figures at every eighth step."""
    rows = {"pretrain": [], "sft": [], "reward": [], "ppo": []}
    for step in range(1, 41):
        done, now = step / 40, loss + 3 / step
        near = {"train_loss": now, "test_loss": now - 3 / 40}
        rows["pretrain"].append(
            {"step": step, "tokens": int(done * tokens), "flops": done * flops, **near}
        )
        seen = step % 8 == 0
        sft = {
            "step": step,
            "tokens": step * 4096,
            "flops": float(step),
            "train_loss": 2.2 + 1 / step,
        }
        rows["sft"].append({**sft, **({"test_loss": 2.25 + 1 / step} if seen else {})})
        held_out = {"test_loss": 0.69 - 0.003 * step, "test_accuracy": 0.5 + 0.005 * step}
        reward = {"step": step, "train_loss": 0.69 - 0.004 * step}
        rows["reward"].append({**reward, **(held_out if seen else {})})
        rows["ppo"].append(
            {
                "step": step,
                "reward": 1.5 * (1 - math.exp(-step / 15)),
                "gold_reward": 1.1 * (1 - math.exp(-step / 12)),
                "kl": 5.6 * (1 - math.exp(-step / 20)),
                "kl_coefficient": 0.29,
                "clip_fraction": 0.1,
                "explained_variance": 0.4,
                "entropy": 2.5 - 0.02 * step,
            }
        )
    return rows


def write_rows(path: Path, rows: list[dict]) -> None:
    """Write a metrics.jsonl."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
