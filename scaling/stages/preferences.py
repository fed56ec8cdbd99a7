"""What a reward model learns from: groups of completions of one prompt, with known preferences.

The groups are read from a file of preferences, or sampled from the fine-tuned model and scored by
the gold judge. Samples are kept on disk in blocks of prompts, so that a resumed stage does not
sample again.
"""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from scaling.app.progress import Progress
from scaling.data.chat_template import ChatTemplate
from scaling.data.file_hashes import read_hashed, write_hashed
from scaling.data.row_text import LeftOut
from scaling.data.tokens import cache_folder
from scaling.inference.completions import forward_flops, join
from scaling.inference.generate import Samples, generate
from scaling.inference.trained import WEIGHTS, open_trained, trained_folder
from scaling.model.transformer import Transformer
from scaling.schema import sha256_file, sha256_json
from scaling.stages.examples.gold import gold_scores
from scaling.stages.examples.pairs import Pair, encode_all, rows_file, split_held_out
from scaling.stages.examples.rankings import Ranking, read_rankings
from scaling.stages.loop import Tally
from scaling.stages.sft import load_pairs
from scaling.stages.stage import GOLD, Stage, check_tokenizer

log = logging.getLogger(__name__)

TIE = 0.01  # two gold scores that differ by less than this are a tie: no preference
HELD_OUT_PROMPTS = 128  # at most this many held-out prompts are sampled
FEWEST_PAIRS = 8  # a stage with fewer training or held-out pairs is refused
BLOCK_PROMPTS = 128  # prompts that are sampled together and kept in one file
PAIRS = "pairs"  # the folder of the samples within the stage's folder
EMPTY_EVERY = 4  # every fourth training prompt shows the empty completion too


@dataclass(frozen=True, kw_only=True)
class Group:
    """Completions of one prompt as token ids, with their gold scores or their known preferences."""

    prompt: list[int]
    completions: list[list[int]]
    labels: list[float]  # gold scores; with an `order`, the share of its pairs that each one wins
    order: list[tuple[int, int]] | None = None  # (better, worse) pairs that a file names

    @classmethod
    def of_order(
        cls, prompt: list[int], completions: list[list[int]], order: list[tuple[int, int]]
    ) -> "Group":
        """Return a group of those completions that stand in a pair of `order`."""
        used = sorted({i for pair in order for i in pair})  # completions in no pair are dropped
        pairs = [(used.index(i), used.index(j)) for i, j in order]
        shares = [
            sum(i == k for i, _ in pairs) / sum(k in pair for pair in pairs)
            for k in range(len(used))
        ]
        return cls(
            prompt=prompt,
            completions=[completions[i] for i in used],
            labels=shares,
            order=pairs,
        )

    def pairs(self) -> list[tuple[int, int]]:
        """Return (better, worse) for every pair that is no tie."""
        if self.order is not None:
            return self.order
        pairs = []
        for i, j in combinations(range(len(self.labels)), 2):
            if abs(self.labels[i] - self.labels[j]) > TIE:
                pairs.append((i, j) if self.labels[i] > self.labels[j] else (j, i))
        return pairs


def load_groups(
    stage: Stage, tuned: Transformer, tally: Tally, *, left_out: LeftOut | None = None
) -> tuple[list[Group], list[Group]]:
    """Return training and held-out groups: read from a file, or sampled and scored.

    stage: the reward stage
    tuned: the fine-tuned model, which samples unless `reward.policy` names another one
    tally: where the cost of sampling is added
    left_out: where completions that make no pair are counted, by reason; they are logged too

    ValueError when too few pairs remain.
    """
    block, left_out = stage.config.reward, LeftOut() if left_out is None else left_out
    gold = block.data == GOLD
    parts = sampled_groups(stage, tuned, tally, left_out) if gold else file_groups(stage, left_out)
    counts = refuse_few_pairs(stage, parts, left_out)
    more = f"reward.samples_per_prompt={2 * block.samples_per_prompt}" if gold else ""
    ties = f"gold scores within {TIE}; {more} samples more" if gold else ""
    room = f"no room for ppo.max_new_tokens={stage.config.ppo.max_new_tokens}; lower it"
    used = f"{counts[0]:,} training and {counts[1]:,} held-out pairs of reward.data={block.data}"
    stage.log_left_out(left_out, used=f"{used} are", tied=ties, too_long=room if gold else "")
    return parts


def refuse_few_pairs(
    stage: Stage, parts: tuple[list[Group], list[Group]], left_out: LeftOut
) -> list[int]:
    """Return the number of training and of held-out pairs; ValueError where they are too few.

    stage: the reward stage
    parts: training and held-out groups
    left_out: the pairs that are not used, for the message
    """
    block, counts = stage.config.reward, [n_pairs(groups) for groups in parts]
    gold = block.data == GOLD
    for part, count in zip(("training", "held-out"), counts, strict=True):
        if count < FEWEST_PAIRS:
            more = f"set reward.samples_per_prompt={2 * block.samples_per_prompt} or "
            advice = f"{more if gold else ''}give"
            if part == "training" and block.pairs < FEWEST_PAIRS:
                advice = f"set reward.pairs={FEWEST_PAIRS} or more, or give"
            raise ValueError(
                f"the {part} prompts of reward.data={block.data} give {count} pairs that differ,"
                f" fewer than {FEWEST_PAIRS} pairs; {advice} more prompts"
                + (f" (left out: {left_out.in_words()})" if left_out.as_dict() else "")
            )
    return counts


def n_pairs(groups: Sequence[Group]) -> int:
    """Return the number of pairs in all groups."""
    return sum(len(g.pairs()) for g in groups)


def file_groups(stage: Stage, left_out: LeftOut | None = None) -> tuple[list[Group], list[Group]]:
    """Read the files of preferences: training and held-out groups, one a prompt.

    Pairs that are longer than the context are counted in `left_out`.
    """
    block, cache = stage.config.reward, cache_folder(stage.cell)
    template, left_out = stage.config.sft.template, LeftOut() if left_out is None else left_out
    chat = stage.corpus.vocabulary.chat
    train_rankings, test_rankings = (
        read_rankings(
            rows_file(name, cache, what=key),
            template=template,
            chat=chat,
            name=name,
            left_out=left_out,
        )
        if name
        else []
        for key, name in (("reward.data", block.data), ("reward.test", block.test))
    )
    if test_rankings:
        parts = split_rankings(train_rankings, test_rankings, left_out, chat)
        train, test = (groups_of(encode_rankings(part, stage, left_out)) for part in parts)
    else:  # of the rows that fit, so that as many as are stated are really held out
        fitting = encode_rankings(train_rankings, stage, left_out)
        train, test = map(groups_of, split_held_out(fitting, [], chat=chat))
    stage.log_held_out(held_out=len(test), rows=len(train) + len(test), what="prompts")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(block.seed)).tolist()
    drawn = first_groups([train[i] for i in order], block.pairs)
    if (total := n_pairs(train)) > (n := n_pairs(drawn)):
        log.info("reward: %d pairs of %d are drawn; reward.pairs=%d takes all", n, total, total)
    return drawn, test


def split_rankings(
    rankings: list[Ranking], held_out: list[Ranking], left_out: LeftOut, chat: ChatTemplate
) -> tuple[list[Ranking], list[Ranking]]:
    """Return training and held-out rankings as `split_held_out` does.

    Pairs of a training prompt that is held out too are counted in `left_out`.
    """
    train, test = split_held_out(rankings, held_out, chat=chat)
    if held_out:
        left_out.add(
            "repeated", sum(len(r.order) for r in rankings) - sum(len(r.order) for r in train)
        )
    return train, test


def groups_of(fitting: Sequence[tuple[str, Group]]) -> list[Group]:
    """Return the groups alone of what `encode_rankings` returns."""
    return [group for _, group in fitting]


def encode_rankings(
    rankings: Sequence[Ranking], stage: Stage, left_out: LeftOut
) -> list[tuple[str, Group]]:
    """Return (prompt, group of token ids) of rankings, without pairs longer than the context.

    These are counted in `left_out`. ValueError when no pair remains.
    """
    flat = [Pair(r.prompt, text) for r in rankings for text in r.completions]
    examples, context = iter(encode_all(stage.corpus.vocabulary, flat)), stage.cell.data.context
    groups, shortest = [], math.inf
    for ranking in rankings:
        encoded = [next(examples) for _ in ranking.completions]
        lengths = [len(e.prompt) + len(e.completion) for e in encoded]
        needs = [max(lengths[i], lengths[j]) for i, j in ranking.order]
        order = [pair for pair, need in zip(ranking.order, needs, strict=True) if need <= context]
        shortest, left_out.longest = min(shortest, *needs), max(left_out.longest, *needs)
        left_out.add("too_long", len(needs) - len(order))
        if order:
            completions = [e.completion for e in encoded]
            group = Group.of_order(encoded[0].prompt, completions, order)
            groups.append((ranking.prompt, group))
    if not groups:
        raise ValueError(
            f"no pair of reward.data={stage.config.reward.data} fits the context of {context}"
            f" tokens (the shortest of {len(rankings)} prompts has {shortest:.0f}); set"
            f" {stage.longer_context()} or give shorter completions"
        )
    return groups


def sampled_groups(
    stage: Stage, tuned: Transformer, tally: Tally, left_out: LeftOut
) -> tuple[list[Group], list[Group]]:
    """Sample completions of training and held-out prompts, and score them by the gold judge.

    stage: the reward stage
    tuned: the fine-tuned model, which samples unless `reward.policy` names another one; samples of
        the named model are shared by all cells of a study
    tally: where the cost of sampling is added
    left_out: where pairs that are ties are counted

    Prompts are sampled in blocks until there are `reward.pairs` pairs, so that a larger number of
    pairs begins with the smaller one. The samples of held-out prompts do not depend on the seed.
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
        left_out=left_out,
    )
    order = torch.randperm(
        len(train), generator=torch.Generator().manual_seed(block.seed + 1)
    ).tolist()
    prompts = [train[i] for i in order]
    test = read_or_sample(
        stage, policy, held_out[:HELD_OUT_PROMPTS], folder / "test.json", tally, seed=0
    )
    groups: list[Group] = []
    reached = 0  # pairs so far
    progress = Progress("sampling pairs", total=block.pairs, unit="pairs")
    for at in range(0, len(prompts), BLOCK_PROMPTS):
        if reached >= block.pairs:
            break
        part = prompts[at : at + BLOCK_PROMPTS]
        path = folder / f"seed-{block.seed}" / f"{at:06}.json"
        groups += read_or_sample(stage, policy, part, path, tally, seed=block.seed, empty=True)
        reached = n_pairs(groups)
        progress.update(min(reached, block.pairs))
    progress.close()
    if reached < block.pairs:
        log.info(
            "reward: %d pairs planned, but all %d prompts give only %d;"
            " reward.samples_per_prompt=%d makes more of each",
            block.pairs,
            len(prompts),
            reached,
            2 * block.samples_per_prompt,
        )
    every = [*groups, *test]
    left_out.add("tied", sum(math.comb(len(g.completions), 2) for g in every) - n_pairs(every))
    return first_groups(groups, block.pairs), test


def shared_pairs(stage: Stage) -> Path:
    """Return the folder of samples of `reward.policy`, which all reward models of a study share."""
    block, ppo = stage.config.reward, stage.config.ppo
    weights = block.policy_sha256 or sha256_file(trained_folder(block.policy) / WEIGHTS)
    sampling = [block.samples_per_prompt, ppo.max_new_tokens, ppo.temperature]
    key = sha256_json([weights, *sampling, stage.inputs["corpus"]])[:10]
    return stage.folder.parent / f".{PAIRS}" / key


def check_sampling(stage: Stage) -> None:
    """Raise ValueError for settings by which pairs cannot be sampled or scored."""
    if not stage.has_gold():
        raise ValueError(
            "reward.data=gold judges Python functions, but sft.data is a file; "
            "set reward.data=FILE.jsonl with chosen/rejected rows"
        )
    K = stage.config.reward.samples_per_prompt
    if K < 2:
        raise ValueError(f"reward.samples_per_prompt={K} makes no pair; set 2 or more")


def read_or_sample(
    stage: Stage,
    policy: Transformer,
    prompts: Sequence[list[int]],
    path: Path,
    tally: Tally,
    *,
    seed: int,
    empty: bool = False,
) -> list[Group]:
    """Read the groups of a block of prompts; where the file is missing, sample and write them.

    stage: the reward stage
    policy: the model that samples
    prompts: the block's prompts, as token ids
    path: the block's file
    tally: where the cost of sampling is added, also that of an earlier call
    seed: of the draws
    empty: whether some prompts show the empty completion too
    """
    block = read_hashed(path)
    if block is None:
        block = _sample_block(stage, policy, prompts, seed=seed, empty=empty)
        write_hashed(path, block)
    for name, value in block["cost"].items():
        setattr(tally, name, getattr(tally, name) + value)
    return [Group(**g) for g in block["groups"]]


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
    """Add the empty completion to groups, with its gold score.

    The fine-tuned model almost never samples the empty completion. A reward model that never sees
    it may score it well; PPO then learns to write nothing at all, while its reward rises.
    """
    end = stage.corpus.special.end
    empty = Samples(completions=[[end]] * len(groups), ended=[True] * len(groups))
    labels = gold_of(stage, [g["prompt"] for g in groups], empty)
    for group, label in zip(groups, labels, strict=True):
        group["completions"] = [*group["completions"], [end]]
        group["labels"] = [*group["labels"], label]


def gold_of(stage: Stage, prompts: Sequence[list[int]], samples: Samples) -> list[float]:
    """Return the gold score of each sample, in order."""
    decode = stage.corpus.tokenizer.decode_batch
    texts = decode(list(prompts), skip_special_tokens=True)
    return gold_scores(texts, decode(samples.completions, skip_special_tokens=True), samples.ended)


def first_groups(groups: list[Group], n_pairs: int) -> list[Group]:
    """Return the first groups with pairs, until they hold `n_pairs` pairs or more."""
    result, total = [], 0
    for group in groups:
        if total >= n_pairs:
            break
        n = len(group.pairs())
        result += [group] if n else []
        total += n
    return result
