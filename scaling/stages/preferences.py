"""Groups of completions to one prompt, ranked: from files, or sampled and judged."""

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
from scaling.data.file_hashes import read_hashed, write_hashed
from scaling.data.row_text import LeftOut
from scaling.data.tokenizer import END
from scaling.data.tokens import cache_folder
from scaling.inference.completions import forward_flops, join
from scaling.inference.generate import Samples, generate
from scaling.inference.trained import WEIGHTS, open_trained, trained_folder
from scaling.model.transformer import Transformer
from scaling.schema import sha256_file, sha256_json
from scaling.stages.examples.gold import gold_scores
from scaling.stages.examples.pairs import Pair, encode_all, parts, rows_file
from scaling.stages.examples.rankings import Ranking, read_rankings
from scaling.stages.loop import Tally
from scaling.stages.sft import load_pairs
from scaling.stages.stage import Stage, check_tokenizer

log = logging.getLogger(__name__)


TIE = 0.01  # gold scores nearer than this are no preference
HELD_OUT_PROMPTS = 128
FEWEST_PAIRS = 8
BLOCK_PROMPTS = 128  # sampled and kept together
PAIRS = "pairs"
EMPTY_EVERY = 4  # one training prompt in so many shows the empty completion too


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
                + (f" (left out: {left.in_words()})" if left.as_dict() else "")
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
    found = read_hashed(path)
    if found is None:
        found = _sample_block(stage, policy, prompts, seed=seed, empty=empty)
        write_hashed(path, found)
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
