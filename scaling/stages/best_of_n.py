"""Best-of-n sampling: reward models choose among completions, the gold judge scores the choice.

A pool of completions is sampled once. Each judge (a reward model, or the gold judge itself) scores
the pool, and from the scores follows what the best of n gains for every n. Gains are written for
each prompt, so that a fit can resample prompts. scaling/best_of_n.py is the command.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np

from scaling.app.progress import Progress
from scaling.config import check, described
from scaling.data.file_hashes import read_hashed, write_hashed
from scaling.inference.generate import Samples, generate
from scaling.inference.trained import WEIGHTS, open_trained, trained_folder
from scaling.model.transformer import Transformer
from scaling.schema import Range, Seed, checked, sha256_json
from scaling.stages.loop import Tally
from scaling.stages.plan import StageName, final_folder
from scaling.stages.preferences import Group, first_groups, gold_of, load_groups, n_pairs
from scaling.stages.reward import judge_reward_model, train_reward_model
from scaling.stages.reward_model import RewardModel, new_reward_model, score_all
from scaling.stages.sft import load_pairs
from scaling.stages.stage import Stage
from scaling.train import checkpoint

log = logging.getLogger(__name__)

# Where a smaller share of a prompt's completions differ, the command says that the KL is a bound.
REPEATED = 0.9
FOLDER = "best_of_n"  # within the folder of the final run


@dataclass(kw_only=True)
@checked()
class BestOfNConfig:
    """The final run, what is sampled from it, and the reward models that choose."""

    plan: str = ""
    """The plan's file, as runs/NAME/plan.yaml; its reward stage must be done. Must be set."""
    prompts: Annotated[int, Range(2, 1e9)] = 64
    """Number of held-out prompts."""
    n: Annotated[int, Range(2, 1e9)] = 256
    """Number of completions of each prompt."""
    pairs: list[Annotated[int, Range(1, 1e12)]] = field(default_factory=list)
    """Numbers of pairs, as [64,256]: a reward model is trained on each and judges beside the run's
    own."""
    bodies: list[str] = field(default_factory=list)
    """Folders of pretrained cells of other sizes, whose reward models judge too; they need
    pairs."""
    seed: Seed = 0
    """Seed of sampling."""

    def __post_init__(self) -> None:
        """Check that a plan is named, and that other bodies have pairs."""
        check("plan", self.plan, bool(self.plan), "is missing; give runs/NAME/plan.yaml")
        alone = not self.bodies or bool(self.pairs)
        check("bodies", self.bodies, alone, "are trained on pairs; give pairs=[N,...] too")


@dataclass(frozen=True, kw_only=True)
class Pool:
    """`n` completions of each of P prompts."""

    prompts: list[list[int]]
    completions: list[list[int]]  # those of the first prompt, then those of the second, ...
    gold: np.ndarray  # (P, n) their gold scores

    def scores(self, model: RewardModel) -> np.ndarray:
        """Return a reward model's scores of all completions, (P, n)."""
        n = self.gold.shape[1]
        repeated = [p for p in self.prompts for _ in range(n)]
        return np.reshape(score_all(model, repeated, self.completions), self.gold.shape)

    @property
    def distinct(self) -> float:
        """Different completions of a prompt as a share of n, averaged over prompts."""
        n = self.gold.shape[1]
        parts = [self.completions[i : i + n] for i in range(0, len(self.completions), n)]
        return sum(len({tuple(c) for c in part}) for part in parts) / len(self.completions)


@dataclass(frozen=True, kw_only=True)
class Judge:
    """What chooses among completions: a reward model, or the gold judge."""

    name: str
    scores: np.ndarray  # (P, n) of the pool's completions
    params: int = 0
    pairs: int = 0  # pairs it was trained on
    accuracy: float = math.nan  # on held-out pairs


def kl_of_best(n: int) -> float:
    """Return KL(best of n || one) in nats, log n - (n-1)/n (Gao et al. 2022, section 2)."""
    return math.log(n) - (n - 1) / n


def best_of(values: np.ndarray, scores: np.ndarray, n: int) -> np.ndarray:
    """Return the mean value of the best-scored of n, over all draws of n from N, (P,).

    The completion of rank i, counted from the worst, is the best of n with probability
    C(i-1, n-1) / C(N, n) (Nakano et al. 2021, 2112.09332, appendix I). Among equal scores each is
    as likely to be taken. `values` and `scores` are (P, N).
    """
    size = values.shape[1]
    rank = np.arange(size, n, -1)  # the weight of rank i-1 is that of i times (i - n) / (i - 1)
    weights = np.zeros(size)
    weights[n - 1 :] = np.cumprod([n / size, *((rank - n) / (rank - 1))])[::-1]
    means = []
    for value, score in zip(values, scores, strict=True):
        _, group = np.unique(score, return_inverse=True)
        mean = np.bincount(group, value) / np.bincount(group)
        means.append(mean[np.sort(group)] @ weights)
    return np.asarray(means)


def curve(judge: Judge, pool: Pool) -> list[dict[str, object]]:
    """Return the rows of a judge, one for each n and prompt: the gain over a single completion.

    `reward` is the gain in gold score; `proxy` is the gain in the judge's own score, in deviations
    of its scores within the pool.
    """
    rows: list[dict[str, object]] = []
    standard = (judge.scores - judge.scores.mean()) / max(judge.scores.std(), 1e-12)
    sizes = [2**i for i in range(1, pool.gold.shape[1].bit_length())]
    for n in sizes:
        gains = [
            best_of(values, judge.scores, n) - values.mean(1) for values in (pool.gold, standard)
        ]
        rows += [
            {
                "judge": judge.name,
                "reward_params": judge.params,
                "reward_pairs": judge.pairs,
                "accuracy": judge.accuracy,
                "trunk": f"prompt {prompt}",
                "n": n,
                "kl": kl_of_best(n),
                "reward": float(gold),
                "proxy": float(proxy),
            }
            for prompt, (gold, proxy) in enumerate(zip(*gains, strict=True))
        ]
    return rows


def sample_pool(stage: Stage, tuned: Transformer, config: BestOfNConfig) -> Pool:
    """Sample and score completions of held-out prompts, or read the pool that is kept.

    ValueError where there are fewer held-out prompts than `config.prompts`.
    """
    ppo, folder = stage.config.ppo, final_folder(stage.config) / FOLDER
    settings = {"sft": stage.inputs["sft"], "prompts": config.prompts, "n": config.n}
    settings |= {"seed": config.seed, "length": ppo.max_new_tokens, "heat": ppo.temperature}
    path = folder / f"pool-{sha256_json(settings)[:10]}.json"
    pool = read_hashed(path)
    if pool is None:
        held_out = load_pairs(stage).prompts(
            context=stage.cell.data.context, max_new_tokens=ppo.max_new_tokens
        )[1]
        if len(held_out) < config.prompts:
            raise ValueError(f"there are {len(held_out)} held-out prompts; set prompts to fewer")
        order = np.random.default_rng(config.seed).permutation(len(held_out))[: config.prompts]
        pool = {"prompts": [], "completions": [], "gold": []}
        progress = Progress("sampling", total=config.prompts, unit="prompts")
        for number, index in enumerate(order):
            prompts = [held_out[index]] * config.n
            samples: Samples = generate(
                tuned,
                prompts,
                max_new_tokens=ppo.max_new_tokens,
                temperature=ppo.temperature,
                seed=config.seed * 1_000_003 + number,
            )
            pool["prompts"].append(held_out[index])
            pool["completions"] += samples.completions
            pool["gold"].append(gold_of(stage, prompts, samples))
            progress.update(number + 1)
        progress.close()
        write_hashed(path, pool)
    return Pool(
        prompts=pool["prompts"],
        completions=pool["completions"],
        gold=np.asarray(pool["gold"]),
    )


def trained_judge(
    stage: Stage, body: Transformer, name: str, groups: tuple[list[Group], list[Group]], pool: Pool
) -> Judge:
    """Train a reward model, or read it where it is trained already; return it as a judge.

    stage: the reward stage, with `reward.pairs` and the folder of this model
    body: the language model that the reward model starts from
    name: of the judge
    groups: training and held-out groups; the first training groups are used
    pool: what the judge scores
    """
    fresh = replace(stage, cell=replace(stage.cell, model=body.config))
    model = new_reward_model(fresh).start_from(body)
    train = first_groups(groups[0], stage.config.reward.pairs)
    checkpoint.set_aside_damaged(stage.folder, Path(WEIGHTS).stem)
    if (stage.folder / WEIGHTS).is_file():
        checkpoint.load_weights(stage.folder / WEIGHTS, model)
    else:
        train_reward_model(stage, model, train, Tally())
        checkpoint.save(stage.folder, model=model, name="model", state={})
        (stage.folder / "checkpoint.safetensors").unlink(missing_ok=True)
    return judge_of(model, name, n_pairs(train), groups[1], pool)


def judge_of(
    model: RewardModel, name: str, pairs: int, held_out: Sequence[Group], pool: Pool
) -> Judge:
    """Score the pool and the held-out pairs by a reward model; return it as a judge.

    model: the reward model
    name: of the judge
    pairs: how many pairs the model was trained on
    held_out: the groups that measure its accuracy
    pool: what the judge scores
    """
    return Judge(
        name=name,
        scores=pool.scores(model),
        params=sum(w.numel() for w in model.parameters()),
        pairs=pairs,
        accuracy=judge_reward_model(model, held_out)["accuracy"],
    )


def judges(stage: Stage, tuned: Transformer, config: BestOfNConfig, pool: Pool) -> list[Judge]:
    """Return the gold judge, the run's own reward model, and those that the config adds.

    stage: the reward stage of the final run
    tuned: the fine-tuned model
    config: `pairs` and `bodies`
    pool: what the judges score

    ValueError for more pairs than the reward stage has, and for a body of another corpus,
    vocabulary or context.
    """
    groups = load_groups(stage, tuned, Tally())
    trained_on = n_pairs(groups[0])
    if config.pairs and max(config.pairs) > trained_on:
        raise ValueError(
            f"pairs={max(config.pairs)} are more than the {trained_on} of the reward stage; ask for"
            " fewer, or raise reward.pairs in the plan and run the stage again"
        )
    own = new_reward_model(stage)
    checkpoint.load_weights(stage.weights_of(StageName.REWARD), own)
    result = [
        Judge(name="gold", scores=pool.gold, accuracy=1.0),
        judge_of(own, "own", trained_on, groups[1], pool),
    ]
    for body, model in open_bodies(stage, tuned, config.bodies).items():
        for pairs in config.pairs:
            name = f"{body}, {pairs} pairs"
            block = replace(stage.config.reward, pairs=pairs)
            key = sha256_json([stage.inputs, described(block), asdict(model.config)])[:8]
            folder = final_folder(stage.config) / FOLDER / f"{body}-{pairs}-{key}"
            judge_stage = replace(stage, config=replace(stage.config, reward=block), folder=folder)
            log.info("reward model of %s", name)
            result.append(trained_judge(judge_stage, model, name, groups, pool))
    return result


def open_bodies(stage: Stage, tuned: Transformer, paths: Sequence[str]) -> dict[str, Transformer]:
    """Return the language models that reward models start from, by name: `tuned` comes first.

    ValueError for a path whose model has another corpus, vocabulary or context.
    """
    bodies = {"fine-tuned": tuned}
    for path in paths:
        trained = open_trained(trained_folder(path), stage.device)
        model, context = trained.model, stage.cell.data.context
        if trained.record.inputs.get("corpus") != stage.inputs["corpus"] or (
            model.vocab_size != tuned.vocab_size or model.context != context
        ):
            raise ValueError(
                f"body {path} has another corpus, vocabulary or context than {context} tokens; "
                "name a cell of the study that the plan was made from"
            )
        bodies[trained.record.run_id] = model
    return bodies


def summary(rows: Sequence[dict], pool: Pool) -> list[str]:
    """Return one line for each judge: its gold gain at some n, with the error over prompts."""
    lines = []
    for name in dict.fromkeys(r["judge"] for r in rows):
        of_judge = [r for r in rows if r["judge"] == name]
        sizes = sorted({r["n"] for r in of_judge})
        gains = {n: np.asarray([r["reward"] for r in of_judge if r["n"] == n]) for n in sizes}
        best = max(sizes, key=lambda n: gains[n].mean())
        shown = ", ".join(
            f"n={n} {gains[n].mean():+.3f} +- {gains[n].std(ddof=1) / len(gains[n]) ** 0.5:.3f}"
            for n in dict.fromkeys((4, 16, 64, sizes[-1]))
            if n in gains
        )
        lines.append(
            f"{name:>24}: accuracy {of_judge[0]['accuracy']:.3f}, gold {pool.gold.mean():.3f} "
            f"{shown}; most at n={best}"
        )
    return lines
