"""The reward model: a transformer body with a scalar head."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scaling.config import ModelConfig
from scaling.inference.completions import Rows, join, states
from scaling.model.transformer import Transformer
from scaling.stages.stage import Stage
from scaling.study.activity import moved

SCORE_ROWS = 128


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


def new_reward_model(stage: Stage) -> RewardModel:
    """Return a reward model of the planned shape, its head from the stage's seed."""
    torch.manual_seed(stage.block.seed)
    cell = stage.cell
    model = RewardModel(cell.model, vocab_size=cell.tokenizer.vocab_size, context=cell.data.context)
    return model.to(stage.device)


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
