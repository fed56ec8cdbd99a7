"""Makes the files of logs/ with the tools themselves: python make_logs.py TOOL FOLDER.

TOOL is transformers, lm_eval, tensorboard, mlflow or wandb, which must be installed. logs/README.md
says which versions made the files that are kept, and how those of the other tools were made.
"""

import json
import math
import os
import sys
from pathlib import Path

SIZES = {"small": (1.2e7, 1e-3), "large": (3e7, 7e-4)}  # N and the peak rate
PERPLEXITIES = ("word_perplexity", "byte_perplexity", "bits_per_byte")
STEPS, BATCH = 100, 16384  # steps of a run, tokens of a step


def loss_of(n: float, d: float) -> float:
    """Return the loss that the runs log: a law with E = 1.8, A = 400, alpha = .34 and so on."""
    return 1.8 + 400 * n**-0.34 + 2000 * d**-0.36


def transformers(folder: Path) -> None:
    """Train two tiny models with Trainer, one with checkpoints."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    torch.manual_seed(0)
    rows = [{"input_ids": (ids := torch.randint(0, 32, (16,))), "labels": ids} for _ in range(64)]
    for name, width in (("w8", 8), ("w16", 16)):
        config = LlamaConfig(
            vocab_size=32, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=1,
            num_attention_heads=1, num_key_value_heads=1,
        )  # fmt: skip
        arguments = TrainingArguments(
            output_dir=str(folder / name), max_steps=20, per_device_train_batch_size=4,
            eval_strategy="steps", eval_steps=10, logging_steps=5, save_steps=10,
            learning_rate=1e-2, report_to=[], use_cpu=True, include_num_input_tokens_seen="all",
            save_only_model=False, disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(
            LlamaForCausalLM(config), arguments, train_dataset=rows, eval_dataset=rows[:8]
        )
        trainer.train()
        if name == "w16":
            trainer.save_model()
            trainer.save_state()
    for path in folder.rglob("*"):
        is_read = path.name in ("trainer_state.json", "config.json", "model.safetensors")
        if path.is_file() and not is_read:
            path.unlink()


def lm_eval(folder: Path) -> None:
    """Score a tiny model on a task of texts and one of choices, both made here."""
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    bytes_ = Tokenizer(models.BPE(alphabet, []))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_, eos_token="Ġ", pad_token="Ġ")
    data = folder / "texts.jsonl"
    texts = [{"text": f"the file number {i} is read", "right": i % 2} for i in range(8)]
    data.write_text("\n".join(map(json.dumps, texts)) + "\n")
    common = {
        "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test", "metadata": {"version": 1.0},
    }  # fmt: skip
    tasks = [
        common | {
            "task": "texts", "output_type": "loglikelihood_rolling", "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": [{"metric": m} for m in PERPLEXITIES],
        },
        common | {
            "task": "choices", "output_type": "multiple_choice", "doc_to_text": "{{text}}",
            "doc_to_choice": "{{[' yes', ' no']}}", "doc_to_target": "{{right}}",
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        },
    ]  # fmt: skip
    for width in (8, 16):
        config = LlamaConfig(
            vocab_size=256, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=1,
            num_attention_heads=1, num_key_value_heads=1, max_position_embeddings=64,
        )  # fmt: skip
        model = HFLM(pretrained=LlamaForCausalLM(config), tokenizer=tokenizer, batch_size=4)
        tracker = EvaluationTracker(output_path=str(folder))
        results = simple_evaluate(
            model, tasks=tasks, task_manager=TaskManager(), evaluation_tracker=tracker,
            model_args=None, bootstrap_iters=0,
        )  # fmt: skip
        results.pop("samples", None)
        tracker.general_config_tracker.model_name = f"w{width}"
        tracker.general_config_tracker.model_name_sanitized = f"w{width}"
        tracker.save_results_aggregated(results=results, samples=None)
    data.unlink()


def tensorboard(folder: Path) -> None:
    """Write the scalars that torchtitan writes."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    for name, (n, peak) in SIZES.items():
        writer = EventFileWriter(str(folder / name))
        for step in range(10, STEPS + 1, 10):
            loss = loss_of(n, step * BATCH)
            rate = peak * min(1, step / 20) * (0.55 + 0.45 * math.cos(math.pi * step / STEPS))
            values = {"loss_metrics/global_avg_loss": loss + 0.02, "lr": rate}
            values["n_tokens_seen"] = float(step * BATCH)
            if step % 50 == 0:
                values["validation_metrics/loss"] = loss
            scalars = [Summary.Value(tag=t, simple_value=v) for t, v in values.items()]
            writer.add_event(Event(step=step, wall_time=step, summary=Summary(value=scalars)))
        writer.close()


def mlflow(folder: Path) -> None:
    """Log two runs that end and one that fails, to a folder and to a database."""
    os.environ |= {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
    import mlflow

    folder = folder.resolve()
    for store in (f"file://{folder}/mlruns", f"sqlite:///{folder}/mlflow.db"):
        mlflow.set_tracking_uri(store)
        mlflow.set_experiment("sizes")
        for name, (n, peak) in {**SIZES, "failed": (5e7, 5e-4)}.items():
            mlflow.start_run(run_name=name)
            mlflow.log_params(
                {"n_params": int(n), "learning_rate": peak, "batch_tokens": BATCH, "seed": 1}
            )
            for step in range(25, 51 if name == "failed" else STEPS + 1, 25):
                loss = loss_of(n, step * BATCH)
                metrics = {
                    "train/loss": loss + 0.02,
                    "val_loss": loss,
                    "lr": peak * (1 - step / 125),
                }
                mlflow.log_metrics(metrics, step=step)
            mlflow.end_run("FAILED" if name == "failed" else "FINISHED")


def wandb(folder: Path) -> None:
    """Log two runs that end and one that exits with a code, offline."""
    import wandb

    quiet = {"console": "off", "silent": True, "disable_git": True, "x_disable_stats": True}
    for name, (n, peak) in {**SIZES, "failed": (5e7, 5e-4)}.items():
        settings = wandb.Settings(
            **quiet, disable_code=True, x_disable_machine_info=True, x_save_requirements=False
        )
        with wandb.init(
            project="sizes", mode="offline", dir=folder, name=name, id=f"id{name}",
            config={"model": {"n_params": f"{n / 1e6:g}M"}, "tokens_per_step": BATCH},
            settings=settings,
        ) as run:  # fmt: skip
            for step in range(25, 51 if name == "failed" else STEPS + 1, 25):
                loss = loss_of(n, step * BATCH)
                run.log({"train/loss": loss + 0.02, "lr": peak * (1 - step / 125)}, step=step)
                run.log({"val/loss": loss}, step=step)
            if name == "failed":
                run.finish(exit_code=1)


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
