"""A trained language model with its vocabulary, found from its folder alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from tokenizers import Tokenizer

from scaling.app.values import pasted
from scaling.config import ModelConfig, TokenizerConfig
from scaling.data.file_hashes import damage, has_hashes
from scaling.data.tokenizer import load_tokenizer
from scaling.data.tokens import tokens_folder
from scaling.model.transformer import Transformer
from scaling.schema import Record, listable, read_as, read_record, sha256_file
from scaling.train.checkpoint import load_weights

T = TypeVar("T")
WEIGHTS, RECORD = "model.safetensors", "record.json"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model ready to be run, and where it came from."""

    model: Transformer
    tokenizer: Tokenizer
    tokenizer_path: Path
    record: Record
    folder: Path

    @property
    def weights(self) -> Path:
        """The weights' file."""
        return self.folder / WEIGHTS


def trained_folders(path: str | Path) -> list[Path]:
    """Return the folders of language models at a path: a cell's, a stage's, or all of a study's.

    Raises FileNotFoundError where there is none, ValueError where the one named is no finished
    language model.
    """
    path = Path(path)
    folder = listable(path.parent if path.name == WEIGHTS else path)
    if (folder / RECORD).is_file():
        unfit = why_not(folder)
        if unfit:
            raise ValueError(f"{folder} {unfit}")
        return [folder]
    found = sorted(
        {r.parent for r in [*folder.glob(f"*/{RECORD}"), *folder.glob(f"final/*/{RECORD}")]}
    )
    found = [f for f in found if not why_not(f)]
    if not found:
        raise FileNotFoundError(
            f"no finished model in checkpoint={path}; give the folder of a cell "
            "(runs/NAME/<cell>), of a stage (runs/NAME/final/<stage>), or of a study (runs/NAME)"
        )
    return found


def trained_folder(path: str | Path) -> Path:
    """Return the one model's folder at a path; ValueError where there are several."""
    found = trained_folders(path)
    if len(found) > 1:
        raise ValueError(
            f"checkpoint={path} holds {len(found)} models; give one of them, as "
            f"{pasted(f'checkpoint={found[-1]}')}"
        )
    return found[0]


def why_not(folder: Path) -> str:
    """Say why a folder with a record holds no language model to run; empty where it does."""
    record = read_record(folder / RECORD)
    if record.status != "done":
        return f"ended as {record.status} ({record.error}); train it again"
    if record.stage == "reward":
        return "is a reward model, which says no words; give another stage"
    if not (folder / WEIGHTS).is_file():
        return f"has no {WEIGHTS}; train it again"
    return ""


def open_trained(folder: Path, device: torch.device, *, tokenizer: str = "") -> Trained:
    """Read model and vocabulary of a folder of `trained_folders`.

    `tokenizer` names a tokenizer.json instead of the cached one. Raises FileNotFoundError for a
    vocabulary that is not there and ValueError for one that is not the model's.
    """
    record = read_record(folder / RECORD)
    model_config = settings_of(record, folder, "model", ModelConfig)
    wanted = settings_of(record, folder, "tokenizer", TokenizerConfig)
    path = Path(tokenizer) if tokenizer else find_tokenizer(folder, record, wanted)
    if not tokenizer and has_hashes(path.parent) and (why := damage(path.parent)):
        raise ValueError(
            f"the vocabulary's folder {path.parent} is damaged ({why}); run the sweep again, which "
            "makes it anew, or set tokenizer= to a whole tokenizer.json"
        )
    vocabulary = load_tokenizer(path)
    size = wanted.vocab_size
    known = record.inputs.get("tokenizer")
    if vocabulary.get_vocab_size() > size or (known and known != sha256_file(path)):
        raise ValueError(
            f"{path} is not the vocabulary that {folder} was trained with; restore that one"
        )
    context = record.setting("data", "context")
    params = model_config.shape(vocab_size=size, context=context).params.total
    held = (folder / WEIGHTS).stat().st_size
    if params > held:  # each takes a byte or more; nothing is allocated for what is not there
        raise ValueError(
            f"{folder / WEIGHTS} has {held:,} bytes, too few for the {params:,} parameters that "
            f"{folder / RECORD} tells of; restore the folder, or train it again"
        )
    model = Transformer(model_config, vocab_size=size, context=context)
    load_weights(folder / WEIGHTS, model)
    return Trained(
        model=model.to(device).eval(),
        tokenizer=vocabulary,
        tokenizer_path=path,
        record=record,
        folder=folder,
    )


def settings_of(record: Record, folder: Path, name: str, kind: type[T]) -> T:
    """Return a block of a record's config; one that this version does not know is refused."""
    return read_as(
        kind,
        record.setting(name),
        source=folder / RECORD,
        noun=f"config.{name}",
        fix="train the cell again",
        settings=True,
    )


def find_tokenizer(folder: Path, record: Record, wanted: TokenizerConfig) -> Path:
    """Return the cached vocabulary that a record's corpus and config lead to."""
    caches = [parent / ".cache" for parent in folder.resolve().parents]
    if cache := record.config.get("machine", {}).get("cache"):
        caches.insert(0, Path(cache))
    corpus = record.inputs.get("corpus", "")
    for cache in caches if corpus else ():
        path = tokens_folder(cache, corpus, wanted) / "tokenizer.json"
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"the vocabulary of {folder} is in no cache (.cache beside the runs, or machine.cache); "
        "set tokenizer= to its tokenizer.json, or run the sweep again"
    )
