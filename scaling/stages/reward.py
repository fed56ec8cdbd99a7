"""The reward model: the transformer with a scalar head, trained on preferences by Bradley-Terry.

Several completions of a prompt are sampled from the fine-tuned model and ordered by the gold judge;
all pairs of a prompt are in one batch element (Ouyang et al. 2022, eq. 1), ties are dropped.
Sampled token ids are scored as they are. The score is then shifted and divided to mean 0 and
deviation 1 on samples of the fine-tuned model. Files of preferences are read alike.
"""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scaling.app.progress import Progress
from scaling.config import ModelConfig
from scaling.data.file_hashes import read_sealed, write_sealed
from scaling.data.row_text import LeftOut
from scaling.data.tokenizer import END
from scaling.data.tokens import cache_folder
from scaling.inference.completions import Rows, forward_flops, join, states
from scaling.inference.generate import Samples, generate
from scaling.inference.trained import WEIGHTS, open_trained, trained_folder
from scaling.model.transformer import Transformer
from scaling.schema import Record, sha256_file, sha256_json
from scaling.stages.examples.gold import correlation, gold_scores
from scaling.stages.examples.pairs import Pair, encode_all, parts, rows_file
from scaling.stages.examples.rankings import Ranking, read_rankings
from scaling.stages.sft import load_pairs
from scaling.stages.stage import (
    Stage,
    Tally,
    check_tokenizer,
    fit,
    make_room,
    shuffled,
    write_record,
)
from scaling.study.activity import moved
from scaling.train import checkpoint
from scaling.train.heldout import calibration_error, clustered_error
from scaling.train.step import Diverged

log = logging.getLogger(__name__)

TIE = 0.01  # gold scores nearer than this are no preference
SCORE_ROWS = 128
HELD_OUT_PROMPTS = 128
FEWEST_PAIRS = 8
BLOCK_PROMPTS = 128  # sampled and kept together
PAIRS = "pairs"
EMPTY_EVERY = 4  # one training prompt in so many shows the empty completion too


class RewardModel(Transformer):
    """Rows to one score each; `mean` and `deviation` make it standard on fine-tuned samples."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: ModelConfig, *, vocab_size: int, context: int) -> None:
        super().__init__(config, vocab_size=vocab_size, context=context)
        self.head = nn.Identity()
        self.score = nn.Linear(config.d_model, 1)
        nn.init.zeros_(self.score.bias)
        nn.init.normal_(self.score.weight, std=1 / (config.d_model + 1))  # Stiennon et al. 2020
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.ones(()))

    def start_from(self, model: Transformer) -> "RewardModel":
        """Copy the body of a language model."""
        own = self.state_dict()
        own.update({k: v for k, v in model.state_dict().items() if k in own})
        self.load_state_dict(own)
        return self

    def scores(self, rows: Rows) -> Tensor:
        """Return the standardised score at each row's last token, (B,)."""
        found = self.score(states(self, rows, last=True))[:, 0]
        return (found.float() - self.mean) / self.deviation

    def values(self, rows: Rows) -> Tensor:
        """Return the score at the state before each completion token, (M,): a critic's values."""
        return (self.score(states(self, rows))[:, 0].float() - self.mean) / self.deviation


@dataclass(frozen=True, kw_only=True)
class Group:
    """A prompt's completions as ids, with what orders them: gold scores, or pairs that are known.

    With a known `order` (preferred, other) the labels are each completion's share of pairs won.
    """

    prompt: list[int]
    completions: list[list[int]]
    labels: list[float]
    order: list[tuple[int, int]] | None = None

    @classmethod
    def of_order(
        cls, prompt: list[int], completions: list[list[int]], order: list[tuple[int, int]]
    ) -> "Group":
        """Return a group of the completions that stand in a pair."""
        kept = sorted({i for pair in order for i in pair})
        pairs = [(kept.index(i), kept.index(j)) for i, j in order]
        shares = [
            sum(i == k for i, _ in pairs) / sum(k in pair for pair in pairs)
            for k in range(len(kept))
        ]
        return cls(
            prompt=prompt,
            completions=[completions[i] for i in kept],
            labels=shares,
            order=pairs,
        )

    def pairs(self) -> list[tuple[int, int]]:
        """Return (preferred, other) for every pair that is no tie."""
        if self.order is not None:
            return self.order
        found = []
        for i, j in combinations(range(len(self.labels)), 2):
            if abs(self.labels[i] - self.labels[j]) > TIE:
                found.append((i, j) if self.labels[i] > self.labels[j] else (j, i))
        return found


def run_reward(stage: Stage) -> Record:
    """Sample and label pairs, train the reward model, standardise it; write weights and record."""
    tuned = stage.new_model()
    checkpoint.load_weights(stage.weights_of("sft"), tuned)
    tally, left = Tally(), LeftOut()
    if stage.config.reward.data == "gold":
        check_sampling(stage)
        make_room(stage)  # pairs sampled from other inputs go as well
    train, test = load_groups(stage, tuned, tally, left=left)
    make_room(stage)
    model = new_reward_model(stage).start_from(tuned)
    sampling = Tally(tokens=tally.tokens, flops=tally.flops, seconds=tally.seconds)
    try:
        learn(stage, model, train, tally)
    except Diverged as error:
        return write_record(stage, tally, error=str(error), left=left)
    metrics = judge_reward_model(model, test) | standardise(model, stage, tuned, train)
    metrics |= {
        "pairs": n_pairs(train),
        "prompts": len(train),
        "sampling_seconds": sampling.seconds,
        "sampling_tokens": sampling.tokens,
    }
    checkpoint.save(stage.folder, model=model, name="model", state={"step": tally.step})
    unique = sum(len(g.prompt) + len(c) for g in train for c in g.completions)
    return write_record(stage, tally, unique_tokens=unique, metrics=metrics, left=left)


def learn(stage: Stage, model: RewardModel, train: list[Group], tally: Tally) -> None:
    """Train a reward model on groups by the plan's block; Diverged when the loss is not finite."""
    batches = group_batches(train, stage)

    def loss_of(step: int) -> tuple[Tensor, int, float]:
        return preference_loss(model, [train[i] for i in batches[step]])

    peak_lr = stage.config.reward.peak_lr
    fit(stage, model, tally, n_steps=len(batches), peak_lr=peak_lr, loss_of=loss_of)


def new_reward_model(stage: Stage) -> RewardModel:
    """Return a reward model of the planned shape, its head from the stage's seed."""
    torch.manual_seed(stage.block.seed)
    cell = stage.cell
    model = RewardModel(cell.model, vocab_size=cell.tokenizer.vocab_size, context=cell.data.context)
    return model.to(stage.device)


def load_groups(
    stage: Stage, tuned: Transformer, tally: Tally, *, left: LeftOut | None = None
) -> tuple[list[Group], list[Group]]:
    """Return training and held-out groups: of a file, or sampled, labelled and kept in the folder.

    What sampling cost is added to `tally`, what makes no pair is counted in `left` and said.
    ValueError when too few pairs are left.
    """
    block, left = stage.config.reward, LeftOut() if left is None else left
    gold = block.data == "gold"
    parts = sampled_groups(stage, tuned, tally, left) if gold else file_groups(stage, left)
    counts = [n_pairs(found) for found in parts]
    more = f"reward.samples_per_prompt={2 * block.samples_per_prompt}" if gold else ""
    ties = f"gold scores within {TIE}; {more} samples more" if gold else ""
    room = f"no room for ppo.max_new_tokens={stage.config.ppo.max_new_tokens}; lower it"
    used = f"{counts[0]:,} training and {counts[1]:,} held-out pairs of reward.data={block.data}"
    stage.tell_left_out(left, used=f"{used} are", tied=ties, too_long=room if gold else "")
    for part, count in zip(("training", "held-out"), counts, strict=True):
        if count < FEWEST_PAIRS:
            advice = f"set {more} or give" if gold else "give"
            if part == "training" and block.pairs < FEWEST_PAIRS:
                advice = f"set reward.pairs={FEWEST_PAIRS} or more, or give"
            raise ValueError(
                f"the {part} prompts of reward.data={block.data} give {count} pairs that differ,"
                f" fewer than {FEWEST_PAIRS} pairs; {advice} more prompts"
                + (f" (left out: {left.said()})" if left.as_dict() else "")
            )
    return parts


def n_pairs(groups: Sequence[Group]) -> int:
    """Return how many pairs groups hold."""
    return sum(len(g.pairs()) for g in groups)


def file_groups(stage: Stage, left: LeftOut | None = None) -> tuple[list[Group], list[Group]]:
    """Read preferences, a group a prompt; pairs beyond the context are left out and counted."""
    block, cache = stage.config.reward, cache_folder(stage.cell)
    template, left = stage.config.sft.template, LeftOut() if left is None else left
    found, held_out = (
        read_rankings(rows_file(name, cache), template=template, name=name, left=left)
        if name
        else []
        for name in (block.data, block.test)
    )
    train, test = (coded(part, stage, left) for part in without(found, held_out, left))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(block.seed)).tolist()
    chosen = limited([train[i] for i in order], block.pairs)
    if (total := n_pairs(train)) > (n := n_pairs(chosen)):
        log.info("reward: %d pairs of %d are drawn; reward.pairs=%d takes all", n, total, total)
    return chosen, test


def without(
    found: list[Ranking], held_out: list[Ranking], left: LeftOut
) -> tuple[list[Ranking], list[Ranking]]:
    """Return training and held-out rankings as `parts`; pairs of held-out prompts are counted."""
    train, test = parts(found, held_out)
    if held_out:
        left.add("repeated", sum(len(r.order) for r in found) - sum(len(r.order) for r in train))
    return train, test


def coded(rankings: Sequence[Ranking], stage: Stage, left: LeftOut) -> list[Group]:
    """Return rankings as groups of ids, without what is longer than the context.

    ValueError when no pair is left.
    """
    flat = [Pair(r.prompt, text) for r in rankings for text in r.completions]
    examples, context = iter(encode_all(stage.corpus.tokenizer, flat)), stage.cell.data.context
    groups, shortest = [], math.inf
    for ranking in rankings:
        own = [next(examples) for _ in ranking.completions]
        lengths = [len(e.prompt) + len(e.completion) for e in own]
        needs = [max(lengths[i], lengths[j]) for i, j in ranking.order]
        order = [pair for pair, need in zip(ranking.order, needs, strict=True) if need <= context]
        shortest, left.longest = min(shortest, *needs), max(left.longest, *needs)
        left.add("too_long", len(needs) - len(order))
        if order:
            groups.append(Group.of_order(own[0].prompt, [e.completion for e in own], order))
    if not groups:
        raise ValueError(
            f"no pair of reward.data={stage.config.reward.data} fits the context of {context}"
            f" tokens (the shortest of {len(rankings)} prompts has {shortest:.0f}); pretrain with a"
            f" longer {stage.context_key} or give shorter completions"
        )
    return groups


def sampled_groups(
    stage: Stage, tuned: Transformer, tally: Tally, left: LeftOut
) -> tuple[list[Group], list[Group]]:
    """Sample completions from the fine-tuned model and label them by the gold judge, once.

    They are kept a block of prompts a file, so that a resumed stage does not repeat it, and more
    pairs begin with the fewer. With `reward.policy` that model samples, for all cells of a study;
    held-out ones do not depend on the seed.
    """
    block = stage.config.reward
    check_sampling(stage)
    policy, folder = tuned, stage.folder / PAIRS
    if block.policy:
        vocabulary = str(stage.corpus.tokenizer_path)
        trained = open_trained(trained_folder(block.policy), stage.device, tokenizer=vocabulary)
        check_tokenizer(trained.folder, trained.record, stage.inputs)
        policy, folder = trained.model, shared_pairs(stage)
    train, held_out = load_pairs(stage).prompts(
        context=stage.cell.data.context,
        max_new_tokens=stage.config.ppo.max_new_tokens,
        left=left,
    )
    order = torch.randperm(
        len(train), generator=torch.Generator().manual_seed(block.seed + 1)
    ).tolist()
    prompts = [train[i] for i in order]
    test = sampled(stage, policy, held_out[:HELD_OUT_PROMPTS], folder / "test.json", tally, seed=0)
    groups: list[Group] = []
    reached = 0
    progress = Progress("sampling pairs", total=block.pairs)
    for at in range(0, len(prompts), BLOCK_PROMPTS):
        if reached >= block.pairs:
            break
        part = prompts[at : at + BLOCK_PROMPTS]
        path = folder / f"seed-{block.seed}" / f"{at:06}.json"
        groups += sampled(stage, policy, part, path, tally, seed=block.seed, empty=True)
        reached = n_pairs(groups)
        progress.update(min(reached, block.pairs))
    progress.close()
    if reached < block.pairs:
        log.info(
            "reward: %d pairs planned, %d could be made from %d prompts, which are all;"
            " reward.samples_per_prompt=%d makes more of each",
            block.pairs,
            reached,
            len(prompts),
            2 * block.samples_per_prompt,
        )
    seen = [*groups, *test]
    made = sum(math.comb(len(g.completions), 2) for g in seen)
    left.add("tied", made - n_pairs(seen))
    return limited(groups, block.pairs), test


def shared_pairs(stage: Stage) -> Path:
    """Return where the pairs of a policy are kept for all reward models of a study."""
    block, ppo = stage.config.reward, stage.config.ppo
    what = [block.policy_sha256 or sha256_file(trained_folder(block.policy) / WEIGHTS)]
    what += [block.samples_per_prompt, ppo.max_new_tokens, ppo.temperature]
    return stage.folder.parent / f".{PAIRS}" / sha256_json([*what, stage.inputs["corpus"]])[:10]


def check_sampling(stage: Stage) -> None:
    """Refuse pairs that cannot be sampled or judged."""
    if not stage.has_gold():
        raise ValueError(
            "reward.data=gold judges Python functions, but sft.data is a file; "
            "set reward.data=FILE.jsonl with chosen/rejected rows"
        )
    K = stage.config.reward.samples_per_prompt
    if K < 2:
        raise ValueError(f"reward.samples_per_prompt={K} makes no pair; set 2 or more")


def sampled(
    stage: Stage,
    policy: Transformer,
    prompts: Sequence[list[int]],
    path: Path,
    tally: Tally,
    *,
    seed: int,
    empty: bool = False,
) -> list[Group]:
    """Sample and judge the completions of a block of prompts, or read those that were.

    What it cost is added to `tally`; `empty` shows some prompts the empty completion too.
    """
    found = read_sealed(path)
    if found is None:
        found = _sample_block(stage, policy, prompts, seed=seed, empty=empty)
        write_sealed(path, found)
    for name, value in found["cost"].items():
        setattr(tally, name, getattr(tally, name) + value)
    return [Group(**g) for g in found["groups"]]


def _sample_block(
    stage: Stage, policy: Transformer, prompts: Sequence[list[int]], *, seed: int, empty: bool
) -> dict[str, Any]:
    block, ppo, began = stage.config.reward, stage.config.ppo, time.monotonic()
    K = block.samples_per_prompt
    repeated = [p for p in prompts for _ in range(K)]
    samples = generate(
        policy,
        repeated,
        max_new_tokens=ppo.max_new_tokens,
        temperature=ppo.temperature,
        seed=int(sha256_json([seed, prompts[0]])[:8], 16),
    )
    gold = gold_of(stage, repeated, samples)
    groups = [
        {
            "prompt": repeated[i],
            "completions": samples.completions[i : i + K],
            "labels": gold[i : i + K],
        }
        for i in range(0, len(repeated), K)
    ]
    if empty:
        add_empty(stage, groups[::EMPTY_EVERY])
    rows = join(repeated, samples.completions)
    cost = {
        "tokens": rows.n_tokens,
        "flops": forward_flops(policy.config, policy.vocab_size, rows),
        "seconds": time.monotonic() - began,
    }
    return {"groups": groups, "cost": cost}


def add_empty(stage: Stage, groups: list[dict[str, Any]]) -> None:
    """Add the empty completion to groups, labelled like any other.

    The fine-tuned model almost never samples it, so a reward model that has not been shown it may
    score it well, and PPO then finds it: the reward rises and nothing is written any more.
    """
    empty = Samples(completions=[[END]] * len(groups), ended=[True] * len(groups))
    labels = gold_of(stage, [g["prompt"] for g in groups], empty)
    for group, label in zip(groups, labels, strict=True):
        group["completions"] = [*group["completions"], [END]]
        group["labels"] = [*group["labels"], label]


def gold_of(stage: Stage, prompts: Sequence[list[int]], samples: Samples) -> list[float]:
    """Return the gold score of each sample."""
    decode = stage.corpus.tokenizer.decode_batch
    texts = decode(list(prompts), skip_special_tokens=True)
    return gold_scores(texts, decode(samples.completions, skip_special_tokens=True), samples.ended)


def limited(groups: list[Group], n_pairs: int) -> list[Group]:
    """Return the first groups that hold `n_pairs` pairs, those without a pair left out."""
    kept, total = [], 0
    for group in groups:
        if total >= n_pairs:
            break
        n = len(group.pairs())
        kept += [group] if n else []
        total += n
    return kept


def group_batches(groups: list[Group], stage: Stage) -> list[list[int]]:
    """Cut the groups into batches of about `batch_pairs` pairs, rows of like length together."""
    block = stage.config.reward
    mean_pairs = sum(len(g.pairs()) for g in groups) / len(groups)
    lengths = [len(g.prompt) + max(map(len, g.completions)) for g in groups]
    size = max(1, round(block.batch_pairs / mean_pairs))
    return shuffled(len(groups), batch=size, epochs=block.epochs, seed=block.seed, lengths=lengths)


def preference_loss(model: RewardModel, groups: Sequence[Group]) -> tuple[Tensor, int, float]:
    """Return the mean Bradley-Terry loss over the groups' pairs, the tokens passed, the FLOPs.

    Each pair weighs the same: of equal K that is eq. 1 of Ouyang et al. 2022, the mean over K
    choose 2. A mixture of experts' router losses are added.
    """
    rows = group_rows(groups, model.device)
    better, worse = pair_indices(groups)
    scores = model.scores(rows)  # (B,)
    loss = -F.logsigmoid(scores[better] - scores[worse]).mean()
    flops = 3 * forward_flops(model.config, model.vocab_size, rows, head=False)
    return loss + model.router_loss(), rows.n_tokens, flops


def group_rows(groups: Sequence[Group], device: torch.device) -> Rows:
    """Lay out all completions of groups as rows, in order."""
    return join(
        [g.prompt for g in groups for _ in g.completions],
        [c for g in groups for c in g.completions],
        device,
    )


def pair_indices(groups: Sequence[Group]) -> tuple[list[int], list[int]]:
    """Return the rows preferred and the others, pair by pair."""
    better, worse, start = [], [], 0
    for group in groups:
        for i, j in group.pairs():
            better.append(start + i)
            worse.append(start + j)
        start += len(group.completions)
    return better, worse


@torch.inference_mode()
def score_all(
    model: RewardModel, prompts: Sequence[list[int]], completions: Sequence[list[int]]
) -> list[float]:
    """Return the standardised score of every completion."""
    was_training = model.training
    model.eval()
    found: list[float] = []
    for at in range(0, len(prompts), SCORE_ROWS):
        rows = join(prompts[at : at + SCORE_ROWS], completions[at : at + SCORE_ROWS], model.device)
        found += model.scores(rows).tolist()
        moved()
    model.train(was_training)
    return found


def judge_reward_model(model: RewardModel, test: Sequence[Group]) -> dict[str, float]:
    """Measure the model on held-out prompts: pairs, and agreement with gold and with length.

    `length_accuracy` is that of the better of two judges that see the length alone, `over_length`
    what the model is above it, with its error over prompts; `ece` is of sigmoid(margin).
    """
    prompts = [g.prompt for g in test for _ in g.completions]
    completions = [c for g in test for c in g.completions]
    scores = score_all(model, prompts, completions)
    better, worse = pair_indices(test)
    owners = np.array([i for i, g in enumerate(test) for _ in g.pairs()])
    lengths = np.array([float(len(c)) for c in completions])
    margin = np.subtract(np.array(scores)[better], np.array(scores)[worse])
    right, longer = ordered(margin), ordered(lengths[better] - lengths[worse])
    by_length = longer if longer.mean() >= 0.5 else 1 - longer
    losses = np.logaddexp(0.0, -margin)
    return {
        "test_loss": float(losses.mean()),
        "test_loss_se": clustered_error(losses, owners),
        "accuracy": float(right.mean()),
        "accuracy_se": clustered_error(right, owners),
        "ece": calibration_error(1 / (1 + np.exp(-np.abs(margin))), right),
        "margin": float(margin.mean()),
        "test_pairs": len(better),
        "gold_correlation": correlation(scores, [v for g in test for v in g.labels]),
        "length_correlation": correlation(scores, lengths.tolist()),
        "length_accuracy": float(by_length.mean()),
        "over_length": float((right - by_length).mean()),
        "over_length_se": clustered_error(right - by_length, owners),
    }


def ordered(margin: np.ndarray) -> np.ndarray:
    """Return 1 where a margin is positive, 1/2 where it is none."""
    return (margin > 0) + 0.5 * (margin == 0)


def standardise(
    model: RewardModel, stage: Stage, tuned: Transformer, train: Sequence[Group]
) -> dict[str, float]:
    """Set mean and deviation from samples of the fine-tuned model; return them."""
    if stage.config.reward.data == "gold":
        sampled = [(g.prompt, c) for g in train for c in g.completions if c != [END]]
        prompts, completions = [p for p, _ in sampled], [c for _, c in sampled]
    else:
        ppo = stage.config.ppo
        data = load_pairs(stage)
        prompts = data.prompts(context=stage.cell.data.context, max_new_tokens=ppo.max_new_tokens)[
            0
        ][:512]
        completions = generate(
            tuned,
            prompts,
            max_new_tokens=ppo.max_new_tokens,
            temperature=ppo.temperature,
            seed=stage.config.reward.seed,
        ).completions
    scores = torch.tensor(score_all(model, prompts, completions), dtype=torch.float64)
    model.mean.fill_(float(scores.mean()))
    model.deviation.fill_(max(float(scores.std()), 1e-6))
    return {"score_mean": float(scores.mean()), "score_deviation": float(scores.std())}
