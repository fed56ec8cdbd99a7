"""Fixtures of the stages after pretraining: a corpus of small functions and a plan of seconds."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from scaling.config import (
    CellConfig,
    DataConfig,
    FinalConfig,
    ModelConfig,
    PpoPlan,
    PretrainPlan,
    RewardPlan,
    SftPlan,
    TokenizerConfig,
)
from scaling.data.tokenizer import train_tokenizer
from scaling.model.transformer import Transformer
from scaling.train import checkpoint

torch.set_num_threads(1)
NAMES = ("name", "size", "path", "mode", "value", "count", "owner", "state", "parent", "label")
VERBS = ("get", "read", "find", "show", "load", "check", "count", "fetch")

# What the tokenizer of the tests of scoring is trained on.
SENTENCE = "the cat sat on a mat while rain fell over hills and dogs ran home to eat"


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """Return a tokenizer that knows the words of one sentence."""
    return train_tokenizer([SENTENCE] * 4, vocab_size=320)


@pytest.fixture(scope="session")
def model() -> Transformer:
    """Return an untrained model whose losses differ from token to token; nobody may train it."""
    torch.manual_seed(0)
    transformer = Transformer(ModelConfig(d_head=16), vocab_size=320, context=16)
    with torch.no_grad():
        for weight in transformer.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return transformer.eval()


def functions(verb: str) -> str:
    """Return a document of documented functions."""
    return "".join(
        f'def {verb}_{name}(self, key):\n    """{verb.title()} the {name}."""\n'
        f"    found = self.{name}[key]\n    return found\n\n\n"
        for name in NAMES
    )


@pytest.fixture(scope="session")
def post_root(tmp_path_factory) -> Path:
    """A folder with the corpus' documents; the token cache is made in it once."""
    root = tmp_path_factory.mktemp("post")
    for part, verbs in (("train", VERBS), ("test", ("open", "close"))):
        (root / part).mkdir()
        for verb in verbs:
            (root / part / f"{verb}.py").write_text(functions(verb))
    return root


@pytest.fixture
def post_cell(post_root) -> CellConfig:
    """A cell whose model trains in a blink."""
    return CellConfig(
        study="tiny",
        model=ModelConfig(n_layer=1, d_model=16, d_head=8),
        tokenizer=TokenizerConfig(vocab_size=320),
        data=DataConfig(
            source="files",
            train=[str(post_root / "train")],
            test=[str(post_root / "test")],
            context=96,
        ),
    )


@pytest.fixture
def final_config(post_root, post_cell, tmp_path) -> FinalConfig:
    """A plan of seconds on the tiny corpus."""
    config = FinalConfig(
        study="tiny",
        runs=str(tmp_path / "runs"),
        pretrain=PretrainPlan(
            tokens=96 * 4 * 4, model=post_cell.model, context=96, peak_lr=0.01, batch_tokens=96 * 4
        ),
        sft=SftPlan(examples=32, epochs=1, batch_examples=8, peak_lr=0.01, lora_rank=2),
        reward=RewardPlan(pairs=48, batch_pairs=12, samples_per_prompt=3, peak_lr=0.002),
        ppo=PpoPlan(
            episodes=24,
            batch_episodes=8,
            minibatch_episodes=4,
            inner_epochs=2,
            peak_lr=0.002,
            max_new_tokens=12,
        ),
        cell=asdict(post_cell),
        force=True,
    )
    config.machine.device = "cpu"
    config.machine.cache = str(post_root / "cache")
    config.log.wandb = "disabled"
    config.log.every_seconds = 1e9
    return config


@pytest.fixture
def done_record():
    """A record that has ended well, of no particular run."""
    from scaling.schema import Params, Record

    blank = dict.fromkeys(("train_loss", "mfu", "git_sha"))
    zero = dict.fromkeys(
        ("seed", "tokens", "unique_tokens", "steps", "batch_tokens", "peak_memory_bytes"), 0
    )
    zero |= dict.fromkeys(
        ("flops", "flops_6nd", "peak_lr", "seconds", "device_seconds", "tokens_per_second"), 0.0
    )
    text = dict.fromkeys(("schedule", "trunk", "device", "started", "ended"), "")
    return Record(
        run_id="0",
        study="tiny",
        status="done",
        params=Params(total=1, non_embedding=1, with_head=1, active=1),
        test_loss=1.0,
        test_loss_se=0.1,
        bits_per_byte=1.0,
        config={},
        versions={"scaling": "0"},
        **blank,
        **zero,
        **text,
    )


@pytest.fixture
def pretrained(final_config, done_record):
    """Open stages of a plan whose pretraining was skipped: random weights stand in for it."""
    from scaling.data.tokens import open_corpus
    from scaling.model.transformer import Transformer
    from scaling.stages.plan import STAGES, final_folder, planned_cell
    from scaling.stages.stage import open_planned

    cell = planned_cell(final_config)
    folder = final_folder(final_config) / "pretrain"
    torch.manual_seed(0)
    model = Transformer(cell.model, vocab_size=320, context=96)
    checkpoint.save(folder, model=model, name="model", state={})
    done_record.write(folder / "record.json")
    corpus = open_corpus(cell)

    def stage(name: str):
        return open_planned(
            final_config,
            cell,
            name=name,
            corpus=corpus,
            device=torch.device("cpu"),
            after=STAGES[name],
        )

    return stage
