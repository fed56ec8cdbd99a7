"""Score trained models on tasks and texts, and let them complete prompts.

    scaling evaluate checkpoint=runs/NAME tasks=[blimp,piqa] folder=FOLDER [limit=500]
    scaling evaluate checkpoint=runs/NAME/final/sft texts=[books.jsonl.xz] [typos=0.1]

`checkpoint` is the folder of a cell, of a final stage, or of a study; all models of a study are
scored. Choices are ranked by log-likelihood, as lm-evaluation-harness does it. The results go into
`evaluation.json` beside the weights; scores of tasks that this command does not name stay there.
"""

import logging
import sys

from scaling.app.application import start, store
from scaling.inference.evaluation import (
    EvaluateConfig,
    evaluation_text,
    score_model,
    write_evaluation,
)
from scaling.inference.tasks import read_task
from scaling.inference.trained import open_trained, trained_folders
from scaling.train.device import pick_device

log = logging.getLogger(__name__)


def main(config: EvaluateConfig) -> None:
    """Score every model; write and print the scores."""
    folders = trained_folders(config.checkpoint)
    tasks = [read_task(name, folder=config.folder, limit=config.limit) for name in config.tasks]
    device = pick_device(config.machine)
    for number, folder in enumerate(folders, start=1):
        if len(folders) > 1:
            log.info("model %d of %d: %s", number, len(folders), folder)
        trained = open_trained(folder, device, tokenizer=config.tokenizer)
        scores = score_model(trained, config, tasks)
        write_evaluation(trained, scores, config.limit)
        sys.stdout.write(evaluation_text(trained, scores))


store("evaluate", EvaluateConfig)

if __name__ == "__main__":
    start(main, config_name="evaluate", schema=EvaluateConfig)
