"""Scores against lm-evaluation-harness on the exported model (extra `eval`)."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scaling.inference.evaluation import EvaluateConfig, score_model, score_task
from scaling.inference.hf_export import export
from scaling.inference.tasks import read_task
from scaling.inference.trained import Trained, open_trained
from scaling.study.places import cell_folder
from scaling.train.trunk import train_trunk

pytest.importorskip("lm_eval", reason="needs lm-eval; install scaling-laws[eval]")
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]
NAMES = ("name", "size", "path", "mode", "value", "count", "owner", "state", "parent", "label")
# As lm-evaluation-harness 0.4 asks PIQA and ARC, BLiMP, LAMBADA, WinoGrande.
TASKS = {
    "choices": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{query.rstrip()}}\nAnswer:",
        "doc_to_choice": "choices",
        "doc_to_target": "{{gold}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "pairs": {
        "output_type": "multiple_choice",
        "doc_to_text": "",
        "doc_to_choice": "{{[sentence_good, sentence_bad]}}",
        "doc_to_target": 0,
        "metric_list": [{"metric": "acc"}],
    },
    "words": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{' ' + continuation}}",
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity"},
            {"metric": "acc", "aggregation": "mean"},
        ],
    },
}
PERPLEXITIES = ("word_perplexity", "byte_perplexity", "bits_per_byte")
ROLLING = {  # as lm-evaluation-harness asks WikiText
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [{"metric": name} for name in PERPLEXITIES],
}


def rows(task: str) -> list[dict]:
    """Return questions that a model without knowledge answers right now and then."""
    draw, found = random.Random(task), []
    for i in range(40):
        said = [f"return self.{name}[{i}]" for name in draw.sample(NAMES, 3)]
        if task == "choices":
            query = f"Question: {draw.choice(NAMES)}?\n"
            found.append({"query": query, "choices": [*said[:2], "key"], "gold": i % 2})
        elif task == "pairs":
            found.append({"sentence_good": said[0], "sentence_bad": said[1]})
        else:
            continuation = draw.choice(("return", "found", "key"))
            found.append({"context": f"def {said[0]}(self, key):", "continuation": continuation})
    return found


@pytest.fixture
def trained(make_cell, tmp_path, monkeypatch) -> Trained:
    """A trained cell; its export lies in tmp_path / "model"."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    cell = make_cell(n_tokens=16384, optim={"batch_tokens": 256})
    cell = replace(cell, data=replace(cell.data, context=128))
    train_trunk([cell])
    ours = open_trained(cell_folder(cell), torch.device("cpu"))
    export(ours, tmp_path / "model")
    return ours


def their_results(asked: dict[str, dict], folder: Path) -> dict[str, dict]:
    """Return what the harness measures of the exported model on tasks of files NAME.jsonl."""
    tasks = [
        task
        | {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"validation": str(folder / f"{name}.jsonl")}},
            "validation_split": "validation",
            "num_fewshot": 0,
        }
        for name, task in asked.items()
    ]
    model = HFLM(pretrained=str(folder / "model"), device="cpu", batch_size=4)
    return simple_evaluate(model, tasks=tasks, bootstrap_iters=0)["results"]


def test_scores_are_those_of_lm_evaluation_harness(trained, tmp_path):
    for name in TASKS:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows(name)))
    theirs = their_results(TASKS, tmp_path)
    for name in TASKS:
        found = score_task(read_task(str(tmp_path / f"{name}.jsonl"), folder=""), trained)
        assert found["n"] == 40
        for metric in TASKS[name]["metric_list"]:
            wanted = theirs[name][f"{metric['metric']},none"]
            assert found[metric["metric"]] == pytest.approx(wanted, rel=1e-4), (name, metric)
    assert 0 < theirs["choices"]["acc_norm,none"] < 1
    assert 0 < theirs["pairs"]["acc,none"] < 1


def test_perplexities_of_texts_are_those_of_lm_evaluation_harness(trained, tmp_path):
    """Of documents below one window, of exactly one, and of several with a rest."""
    draw = random.Random(0)
    lengths = (1, 3, 20, 60, 200, 700)
    texts = [" ".join(draw.choice(NAMES) for _ in range(n)) for n in lengths]
    texts += ["é — naïve\n\n  two  spaces ", "the number 12 is the product of 3 and 4"]
    ids = trained.tokenizer.encode(texts[-3]).ids[: trained.model.context]
    texts.append(trained.tokenizer.decode(ids))
    path = tmp_path / "pages.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    theirs = their_results({"pages": ROLLING}, tmp_path)["pages"]
    config = EvaluateConfig(checkpoint=str(trained.folder), texts=[str(path)])
    (ours,) = score_model(trained, config, [])["texts"].values()
    assert ours["bytes"] == sum(len(t.encode()) for t in texts)
    for name in PERPLEXITIES:
        assert ours[name] == pytest.approx(theirs[f"{name},none"], rel=1e-5), name
