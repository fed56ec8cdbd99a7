"""Let a trained model complete a prompt.

    scaling sample checkpoint=runs/NAME/final/sft prompt='def read(path):' [n=3]

Without a prompt the model begins a document. A fine-tuned model needs `separator=true`, which ends
the prompt with the token that ended the prompts of its training.
"""

import sys
from dataclasses import dataclass, field
from typing import Annotated

from scaling.app.application import start, store
from scaling.config import MachineConfig, check
from scaling.data.row_text import clean
from scaling.inference.generate import generate
from scaling.inference.hf_export import is_chat
from scaling.inference.trained import Trained, open_trained, trained_folder
from scaling.schema import Range, Seed, checked
from scaling.train.device import pick_device


@dataclass(kw_only=True)
@checked()
class SampleConfig:
    """The model, what it continues, and how."""

    checkpoint: str = ""
    """Folder of a cell or of a final stage, as runs/NAME/final/sft; must be set."""
    prompt: str = ""
    """Text to continue; empty begins a document."""
    separator: bool = False
    """End the prompt as the training of a fine-tuned model did, so that it answers."""
    n: Annotated[int, Range(1, 1e9)] = 1
    """Number of completions."""
    max_new_tokens: Annotated[int, Range(1, 2**24)] = 64
    """Most tokens of a completion; must be below the model's context."""
    temperature: Annotated[float, Range(0, 1e3, note="0 takes the likeliest")] = 0.8
    """Temperature of sampling; 0 takes the likeliest token each time."""
    seed: Seed = 0
    """Seed of sampling."""
    tokenizer: str = ""
    """A tokenizer.json to use; empty takes the one beside the weights."""
    machine: MachineConfig = field(default_factory=MachineConfig)

    def __post_init__(self) -> None:
        """Check that a model is named."""
        check("checkpoint", self.checkpoint, bool(self.checkpoint), "is missing; give runs/NAME/X")


def prompt_ids(trained: Trained, config: SampleConfig) -> list[int]:
    """Return the prompt as token ids; with `separator` as the prompts of fine-tuning were encoded.

    The chat template of somebody else's tokenizer is put around the prompt where the model was
    tuned in it.
    """
    vocabulary, text = trained.vocabulary, clean(config.prompt)
    if not config.separator:
        return trained.tokenizer.encode(text).ids or [vocabulary.special.end]
    if vocabulary.chat.jinja and is_chat(trained.record):
        text, _ = vocabulary.chat.as_dialogue(text, "")
    return vocabulary.encode_prompts([text])[0]


def complete(trained: Trained, config: SampleConfig) -> list[str]:
    """Return the completions of the prompt; a prompt that is too long loses its first tokens."""
    ids = prompt_ids(trained, config)
    context = trained.model.context
    room = context - config.max_new_tokens
    check(
        "max_new_tokens",
        config.max_new_tokens,
        1 <= config.max_new_tokens < context,
        f"must lie between 1 and {context - 1}: the context has {context} tokens",
    )
    samples = generate(
        trained.model,
        [ids[-room:]] * config.n,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        seed=config.seed,
    )
    return [trained.tokenizer.decode(c) for c in samples.completions]


def main(config: SampleConfig) -> None:
    """Print each completion after the prompt."""
    folder = trained_folder(config.checkpoint)
    trained = open_trained(folder, pick_device(config.machine), tokenizer=config.tokenizer)
    for number, text in enumerate(complete(trained, config), start=1):
        if config.n > 1:
            sys.stdout.write(f"--- {number}\n")
        sys.stdout.write(f"{clean(config.prompt)}{text}\n")


store("sample", SampleConfig)

if __name__ == "__main__":
    start(main, config_name="sample", schema=SampleConfig)
