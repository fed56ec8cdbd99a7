"""Write a trained model as a folder that `transformers` loads with equal logits.

    scaling export checkpoint=runs/NAME/final/sft out=DIR [adapter=true]

`adapter=true` writes the adapters of a LoRA stage as a folder for `peft`, and their base model in
OUT/base. Dense models with rotary positions are written as Llama, mixtures of experts as Mixtral.
Our models also have a normalised embedding, and scales of attention, residual branches and logits.
These are multiplied into the weights: the embedding's table, and the matrices beside the scales.
"""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from scaling.app.application import start, store
from scaling.config import check
from scaling.inference.hf_export import export, hub_config
from scaling.inference.peft_export import BASE, write_adapters
from scaling.inference.trained import open_trained, trained_folder
from scaling.schema import checked

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
@checked()
class ExportConfig:
    """The model, and the folder that it is written to."""

    checkpoint: str = ""
    """Folder of a cell or of a final stage, as runs/NAME/final/sft; must be set."""
    out: str = ""
    """Folder to write; must be set."""
    tokenizer: str = ""
    """A tokenizer.json to use; empty takes the one beside the weights."""
    adapter: bool = False
    """Write the adapters of a stage tuned by LoRA for peft, with their base in OUT/base."""

    def __post_init__(self) -> None:
        """Check that the model and the folder to write are named."""
        check(
            "checkpoint", self.checkpoint, bool(self.checkpoint), "is missing; give runs/NAME/CELL"
        )
        check("out", self.out, bool(self.out), "is missing; give the folder to write")


def main(config: ExportConfig) -> None:
    """Write one model, and its adapters where `adapter` is set."""
    folder = trained_folder(config.checkpoint)
    trained = open_trained(folder, torch.device("cpu"), tokenizer=config.tokenizer)
    out = Path(config.out)
    if config.adapter:
        hub_config(trained.model)  # refuses a model without a layout before anything is written
        write_adapters(trained, out)
    export(trained, out / BASE if config.adapter else out)
    sys.stdout.write(f"{trained.folder} written to {config.out}\n")
    if config.adapter:
        sys.stdout.write(
            f"the base model is {config.out}/{BASE}: load it and put the adapters on it; or let"
            f" peft do both from within {config.out}:"
            " AutoPeftModelForCausalLM.from_pretrained('.')\n"
        )


store("export", ExportConfig)

if __name__ == "__main__":
    start(main, config_name="export", schema=ExportConfig, written=())  # out is a folder
