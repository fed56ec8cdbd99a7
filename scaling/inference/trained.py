"""A trained language model with its vocabulary, opened from its folder alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from tokenizers import Tokenizer

from scaling.app.values import pasted
from scaling.config import ModelConfig, TokenizerConfig
from scaling.data.vocabulary import Vocabulary
from scaling.data.vocabulary_files import find_tokenizer
from scaling.model.transformer import Transformer
from scaling.schema import Record, check_listable, read_as, read_record
from scaling.train.checkpoint import load_weights

T = TypeVar("T")
WEIGHTS, RECORD = "model.safetensors", "record.json"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model that is ready to run, its vocabulary and its record."""

    model: Transformer
    vocabulary: Vocabulary
    record: Record
    folder: Path

    @property
    def tokenizer(self) -> Tokenizer:
        """What encodes and decodes text."""
        return self.vocabulary.tokenizer

    @property
    def weights(self) -> Path:
        """The file of the weights."""
        return self.folder / WEIGHTS


def trained_folders(path: str | Path) -> list[Path]:
    """Return the folders of the finished language models at a path.

    The path is the folder of a cell or a stage, its weights, or a study, whose models are all
    returned. FileNotFoundError where there is none, ValueError for a cell or a stage that is no
    finished language model.
    """
    path = Path(path)
    folder = check_listable(path.parent if path.name == WEIGHTS else path)
    if (folder / RECORD).is_file():
        reason = unfit_reason(folder)
        if reason:
            raise ValueError(f"{folder} {reason}")
        return [folder]
    folders = sorted(
        {r.parent for r in [*folder.glob(f"*/{RECORD}"), *folder.glob(f"final/*/{RECORD}")]}
    )
    folders = [f for f in folders if not unfit_reason(f)]
    if not folders:
        raise FileNotFoundError(
            f"no finished model in checkpoint={path}; give the folder of a cell "
            "(runs/NAME/<cell>), of a stage (runs/NAME/final/<stage>), or of a study (runs/NAME)"
        )
    return folders


def trained_folder(path: str | Path) -> Path:
    """Return the folder of the model at a path; ValueError where there are several models."""
    folders = trained_folders(path)
    if len(folders) > 1:
        raise ValueError(
            f"checkpoint={path} holds {len(folders)} models; give one of them, as "
            f"{pasted(f'checkpoint={folders[-1]}')}"
        )
    return folders[0]


def unfit_reason(folder: Path) -> str:
    """Say why a folder with a record holds no language model to run; empty where it holds one."""
    record = read_record(folder / RECORD)
    if record.status != "done":
        return f"ended as {record.status} ({record.error}); train it again"
    if record.stage == "reward":
        return "is a reward model, which writes no text; give another stage"
    if not (folder / WEIGHTS).is_file():
        return f"has no {WEIGHTS}; train it again"
    return ""


def open_trained(folder: Path, device: torch.device, *, tokenizer: str = "") -> Trained:
    """Read model and vocabulary of a folder that `trained_folders` returned.

    `tokenizer` names a tokenizer.json instead of the one beside the weights. FileNotFoundError for
    a missing vocabulary; ValueError for one that is not the model's, and for damaged files.
    """
    record = read_record(folder / RECORD)
    model_config = settings_of(record, folder, "model", ModelConfig)
    tokenizer_config = settings_of(record, folder, "tokenizer", TokenizerConfig)
    path = Path(tokenizer) if tokenizer else find_tokenizer(folder, record)
    vocabulary = Vocabulary.read(path)
    size = tokenizer_config.vocab_size
    known_sha256 = record.tokenizer or record.inputs.get("tokenizer")
    if vocabulary.n_ids > size or (known_sha256 and known_sha256 != vocabulary.sha256):
        raise ValueError(
            f"{path} is not the vocabulary that {folder} was trained with; restore that one"
        )
    context = record.setting("data", "context")
    params = model_config.shape(vocab_size=size, context=context).params.total
    n_bytes = (folder / WEIGHTS).stat().st_size
    if params > n_bytes:  # a parameter takes a byte or more: refuse before memory is allocated
        raise ValueError(
            f"{folder / WEIGHTS} has {n_bytes:,} bytes, too few for the {params:,} parameters that "
            f"{folder / RECORD} names; restore the folder, or train it again"
        )
    model = Transformer(model_config, vocab_size=size, context=context)
    model.text_end = vocabulary.special.end
    load_weights(folder / WEIGHTS, model)
    return Trained(
        model=model.to(device).eval(),
        vocabulary=vocabulary,
        record=record,
        folder=folder,
    )


def settings_of(record: Record, folder: Path, name: str, kind: type[T]) -> T:
    """Return a block of a record's config as its dataclass.

    record: the record
    folder: its folder, for messages
    name: the block's key
    kind: the dataclass

    ValueError for settings that this version does not know.
    """
    return read_as(
        kind,
        record.setting(name),
        source=folder / RECORD,
        noun=f"config.{name}",
        fix="train the cell again",
        settings=True,
    )
