"""The reward model: a transformer body with a scalar head instead of the vocabulary's.

Two readings: `scores` at the last token of a row judges a completion, `values` before each token is
PPO's critic.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scaling.config import ModelConfig
from scaling.inference.completions import Rows, join, states
from scaling.model.transformer import Transformer
from scaling.stages.stage import Stage
from scaling.study.activity import moved

SCORE_ROWS = 128  # rows that `score_all` passes at once: more gain little, and memory is bounded


class RewardModel(Transformer):
    """Gives each row one score, shifted and scaled by `mean` and `deviation`.

    The two are set after training, so that scores of the fine-tuned model's samples have mean 0 and
    deviation 1.
    """

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
        """Copy the body of a language model; return self."""
        weights = self.state_dict()
        weights.update({k: v for k, v in model.state_dict().items() if k in weights})
        self.load_state_dict(weights)
        return self

    def scores(self, rows: Rows) -> Tensor:
        """Return the standardised score at each row's last token, (B,)."""
        raw = self.score(states(self, rows, last=True))[:, 0]
        return (raw.float() - self.mean) / self.deviation

    def values(self, rows: Rows) -> Tensor:
        """Return the standardised score before each completion token, (M,): a critic's values."""
        return (self.score(states(self, rows))[:, 0].float() - self.mean) / self.deviation


def new_reward_model(stage: Stage) -> RewardModel:
    """Return a reward model of the planned shape; the stage's seed draws its head."""
    torch.manual_seed(stage.block.seed)
    cell = stage.cell
    model = RewardModel(cell.model, vocab_size=cell.tokenizer.vocab_size, context=cell.data.context)
    return model.to(stage.device)


@torch.inference_mode()
def score_all(
    model: RewardModel, prompts: Sequence[list[int]], completions: Sequence[list[int]]
) -> list[float]:
    """Return the standardised score of every completion, in order."""
    was_training = model.training
    model.eval()
    scores: list[float] = []
    for at in range(0, len(prompts), SCORE_ROWS):
        rows = join(prompts[at : at + SCORE_ROWS], completions[at : at + SCORE_ROWS], model.device)
        scores += model.scores(rows).tolist()
        moved()
    model.train(was_training)
    return scores
