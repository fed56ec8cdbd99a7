"""What a final run was made from: runs/NAME/final/plan.yaml, the plan with the command's overrides.

It is a plan itself: `scaling final plan=runs/NAME/final/plan.yaml` runs the same again.
`overrides` in it lists what the command set, and commands.jsonl beside it holds the commands.
"""

from pathlib import Path

from omegaconf import OmegaConf

from scaling.app.application import typed_arguments
from scaling.config import FinalConfig
from scaling.schema import Command, remember_command, write_text
from scaling.stages.plan import final_folder

HEAD = (
    "# The plan as it ran, what the command set included; `scaling final plan=...` runs it again.\n"
)


def remember_run(config: FinalConfig) -> Path:
    """Write the plan that runs, and the command where one was typed; return the plan's file."""
    folder = final_folder(config)
    if typed := typed_arguments():
        remember_command(folder, Command.typed("scaling.final", typed))
    text = OmegaConf.to_yaml(OmegaConf.structured(config))
    return write_text(folder / "plan.yaml", HEAD + text)
