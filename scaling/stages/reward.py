"""The reward stage: a reward model learns preferences by the Bradley-Terry loss.

preferences.py gives the groups of completions, reward_model.py the network. All pairs of a prompt
are in one batch element (Ouyang et al. 2022, eq. 1); ties are dropped. Sampled token ids are scored
as they are, never decoded and encoded again. After training the score is shifted and divided, so
that samples of the fine-tuned model have mean 0 and deviation 1.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from scaling.data.row_text import LeftOut
from scaling.inference.completions import Rows, forward_flops, join
from scaling.inference.generate import generate
from scaling.model.transformer import Transformer
from scaling.schema import Record
from scaling.stages.examples.gold import correlation
from scaling.stages.loop import Tally, fit, shuffled_batches
from scaling.stages.plan import StageName
from scaling.stages.preferences import Group, check_sampling, load_groups, n_pairs
from scaling.stages.reward_model import RewardModel, new_reward_model, score_all
from scaling.stages.sft import load_pairs
from scaling.stages.stage import GOLD, Stage, discard_other_inputs
from scaling.stages.stage_record import write_record
from scaling.train import checkpoint
from scaling.train.heldout import calibration_error, clustered_error
from scaling.train.step import Diverged

# Prompts that are sampled to standardise the score where the pairs come from a file.
STANDARD_PROMPTS = 512


def run_reward(stage: Stage) -> Record:
    """Read or sample pairs, train the reward model, standardise it; write weights and record.

    ValueError for data that make too few pairs.
    """
    tuned = stage.new_model()
    checkpoint.load_weights(stage.weights_of(StageName.SFT), tuned)
    tally, left_out = Tally(), LeftOut()
    if stage.config.reward.data == GOLD:
        check_sampling(stage)
        discard_other_inputs(stage)  # before sampling: pairs of other inputs are removed too
    train, test = load_groups(stage, tuned, tally, left_out=left_out)
    discard_other_inputs(stage)
    model = new_reward_model(stage).start_from(tuned)
    sampling = Tally(tokens=tally.tokens, flops=tally.flops, seconds=tally.seconds)
    try:
        train_reward_model(stage, model, train, tally)
    except Diverged as error:
        return write_record(stage, tally, error=str(error), left_out=left_out)
    metrics = judge_reward_model(model, test) | standardise(model, stage, tuned, train)
    if stage.config.reward.data != GOLD:
        right, error = metrics["accuracy"], metrics["accuracy_se"]
        metrics["rows"] = n_pairs(train) + n_pairs(test)
        stage.warn_of_few_rows(
            rows=int(metrics["rows"]),
            held_out=n_pairs(test),
            what="pairs",
            error=f"the accuracy {right:.3f} has a standard error of {error:.3f}",
        )
    metrics |= {
        "pairs": n_pairs(train),
        "prompts": len(train),
        "sampling_seconds": sampling.seconds,
        "sampling_tokens": sampling.tokens,
    }
    checkpoint.save(stage.folder, model=model, name="model", state={"step": tally.step})
    unique = sum(len(g.prompt) + len(c) for g in train for c in g.completions)
    return write_record(stage, tally, unique_tokens=unique, metrics=metrics, left_out=left_out)


def train_reward_model(stage: Stage, model: RewardModel, train: list[Group], tally: Tally) -> None:
    """Train a reward model.

    stage: whose `reward` block sets the training
    model: is trained in place
    train: the training groups
    tally: where steps, tokens, FLOPs and seconds are counted

    Diverged when the loss is not finite.
    """
    batches = group_batches(train, stage)

    def loss_of(step: int) -> tuple[Tensor, int, float]:
        return preference_loss(model, [train[i] for i in batches[step]])

    peak_lr = stage.config.reward.peak_lr
    fit(stage, model, tally, n_steps=len(batches), peak_lr=peak_lr, loss_of=loss_of)


def group_batches(groups: list[Group], stage: Stage) -> list[list[int]]:
    """Return batches of groups, as indices: about `batch_pairs` pairs each, of like length."""
    block = stage.config.reward
    mean_pairs = sum(len(g.pairs()) for g in groups) / len(groups)
    lengths = [len(g.prompt) + max(map(len, g.completions)) for g in groups]
    size = max(1, round(block.batch_pairs / mean_pairs))
    return shuffled_batches(
        len(groups), batch=size, epochs=block.epochs, seed=block.seed, lengths=lengths
    )


def preference_loss(model: RewardModel, groups: Sequence[Group]) -> tuple[Tensor, int, float]:
    """Return the mean Bradley-Terry loss over the groups' pairs, the tokens passed, the FLOPs.

    loss = -mean over pairs of log sigmoid(score of the better - score of the worse). Each pair
    weighs the same; where all prompts have K completions, this is eq. 1 of Ouyang et al. 2022, the
    mean over K choose 2. The router losses of a mixture of experts are added.
    """
    rows = group_rows(groups, model.device)
    better, worse = pair_indices(groups)
    scores = model.scores(rows)  # (B,)
    loss = -F.logsigmoid(scores[better] - scores[worse]).mean()
    flops = 3 * forward_flops(model.config, model.vocab_size, rows, head=False)
    return loss + model.router_loss(), rows.n_tokens, flops


def group_rows(groups: Sequence[Group], device: torch.device) -> Rows:
    """Return all completions of groups as rows, in order."""
    return join(
        [g.prompt for g in groups for _ in g.completions],
        [c for g in groups for c in g.completions],
        device,
    )


def pair_indices(groups: Sequence[Group]) -> tuple[list[int], list[int]]:
    """Return two lists of row numbers: the better and the worse completion of each pair."""
    better, worse, start = [], [], 0
    for group in groups:
        for i, j in group.pairs():
            better.append(start + i)
            worse.append(start + j)
        start += len(group.completions)
    return better, worse


def judge_reward_model(model: RewardModel, test: Sequence[Group]) -> dict[str, float]:
    """Measure the model on held-out groups: its accuracy, and what its score follows.

    `length_accuracy` is the accuracy of the better one of two judges that see the length alone
    (longer wins, shorter wins); `over_length` is the model's accuracy minus that, with its error
    over prompts. `ece` is the expected calibration error of sigmoid(margin).
    """
    prompts = [g.prompt for g in test for _ in g.completions]
    completions = [c for g in test for c in g.completions]
    scores = score_all(model, prompts, completions)
    better, worse = pair_indices(test)
    owners = np.array([i for i, g in enumerate(test) for _ in g.pairs()])
    lengths = np.array([float(len(c)) for c in completions])
    margin = np.subtract(np.array(scores)[better], np.array(scores)[worse])
    right, longer = wins(margin), wins(lengths[better] - lengths[worse])
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


def wins(margin: np.ndarray) -> np.ndarray:
    """Return 1 where a margin is positive, 1/2 where it is 0, else 0."""
    return (margin > 0) + 0.5 * (margin == 0)


def standardise(
    model: RewardModel, stage: Stage, tuned: Transformer, train: Sequence[Group]
) -> dict[str, float]:
    """Set the mean and the deviation of the model's score on fine-tuned samples; return both.

    model: the reward model, changed in place
    stage: the reward stage
    tuned: the fine-tuned model, which samples where the pairs come from a file
    train: the training groups; where they were sampled, their completions are the samples
    """
    if stage.config.reward.data == GOLD:
        empty = [stage.corpus.special.end]
        samples = [(g.prompt, c) for g in train for c in g.completions if c != empty]
        prompts, completions = [p for p, _ in samples], [c for _, c in samples]
    else:
        ppo = stage.config.ppo
        data = load_pairs(stage)
        train_prompts, _ = data.prompts(
            context=stage.cell.data.context, max_new_tokens=ppo.max_new_tokens
        )
        prompts = train_prompts[:STANDARD_PROMPTS]
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
