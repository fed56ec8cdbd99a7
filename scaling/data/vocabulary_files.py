"""Where vocabularies lie: beside weights, in caches, and in the folders of other people.

`tokenizer.source` names a finished vocabulary. Its hash and size are put into the config when the
config is composed; from then on the hash decides, and the path only says where to look first.
"""

import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from scaling.config import CellConfig, TokenizerConfig
from scaling.data.file_hashes import damage, has_hashes
from scaling.data.vocabulary import TOKENIZER, VOCABULARY_FILES, Vocabulary
from scaling.schema import Record, check_listable, read_record, sha256_json

log = logging.getLogger(__name__)
VERSION = 3  # The version of a folder of tokens; a change makes old folders unused.


def cache_folder(config: CellConfig) -> Path:
    """Return the folder for tokens and vocabularies: machine.cache, or .cache beside the runs."""
    return Path(config.machine.cache or Path(config.runs) / ".cache")


def tokens_folder(cache: Path, sha256: str, tokenizer: TokenizerConfig) -> Path:
    """Return the folder for the tokens of a text under a vocabulary."""
    key = {"version": VERSION, "sha256": sha256, "vocab": tokenizer.identity()}
    return cache / f"tokens-{sha256_json(key)[:16]}"


def with_source(config: TokenizerConfig) -> TokenizerConfig:
    """Return the settings with hash and size of the vocabulary that `source` names.

    Settings without a source, and settings that have the hash already, come back as they are.

    FileNotFoundError where there is no vocabulary, ValueError where there are several or it is
    damaged.
    """
    if not config.source or config.sha256:
        return config
    vocabulary = read_source(config.source)
    replaced = config.vocab_size not in (vocabulary.n_ids, TokenizerConfig().vocab_size)
    log.info(
        "tokenizer.source=%s: %s tokens, sha256 %s%s",
        config.source,
        f"{vocabulary.n_ids:,}",
        vocabulary.sha256[:12],
        f"; they replace tokenizer.vocab_size={config.vocab_size}" if replaced else "",
    )
    return replace(config, sha256=vocabulary.sha256, vocab_size=vocabulary.n_ids)


def read_source(source: str) -> Vocabulary:
    """Return the vocabulary of a tokenizer.json, a `transformers` folder, a cell or a study.

    The cells of a study must share one vocabulary. A study of an earlier version kept it in the
    cache beside the runs, where it is looked for. Raises what `with_source` raises.
    """
    path = Path(source).expanduser()
    if path.is_dir() and any((path / n).is_file() for n in (TOKENIZER, "vocab.json")):
        return Vocabulary.read(path)
    if path.is_dir() and (records := _records(path)):
        different: dict[tuple[bytes, ...], Path] = {}
        for record in records:
            with suppress(FileNotFoundError):
                file = find_tokenizer(record.parent, read_record(record))
                files = [file.with_name(name) for name in VOCABULARY_FILES]
                content = tuple(f.read_bytes() if f.is_file() else b"" for f in files)
                different.setdefault(content, file)
        if len(different) > 1:
            raise ValueError(
                f"tokenizer.source={source} is a study of {len(different)} vocabularies; name the"
                f" folder of one of its cells, as {next(iter(different.values())).parent}"
            )
        for file in different.values():
            return Vocabulary.read(file)
        raise FileNotFoundError(
            f"tokenizer.source={source} is a study whose vocabulary is neither beside its weights"
            " nor in a cache (.cache beside the runs); name the tokenizer.json itself"
        )
    if not path.exists():
        raise FileNotFoundError(
            f"tokenizer.source={source} is no file and no folder; give a tokenizer.json, a"
            " transformers folder, or a study"
        )
    return Vocabulary.read(path)


def _records(folder: Path) -> list[Path]:
    """Return the records of a cell, a stage or a study."""
    if (folder / "record.json").is_file():
        return [folder / "record.json"]
    check_listable(folder)
    return sorted([*folder.glob("*/record.json"), *folder.glob("final/*/record.json")])


def refuse_changed_source(config: TokenizerConfig) -> Vocabulary | None:
    """Return the vocabulary at `source`; None where there is no source, or it is gone.

    ValueError where it is not the one of `sha256` any more, or was never read (`with_source`).
    """
    if not config.source:
        return None
    if not config.sha256:
        raise ValueError(
            f"tokenizer.source={config.source} was not read yet; give the settings as with_source"
            " returns them"
        )
    if not Path(config.source).expanduser().exists():
        return None
    vocabulary = read_source(config.source)
    if vocabulary.sha256 != config.sha256:
        raise ValueError(changed_source(config.source, vocabulary.sha256, config.sha256))
    return vocabulary


def changed_source(source: str, now: str, before: str) -> str:
    """Say that a source holds another vocabulary than before, and what to do; both are hashes."""
    return (
        f"tokenizer.source={source} holds another vocabulary by now (sha256 {now[:12]}) than the"
        f" study was started with ({before[:12]}); put the former one back, or start a study of"
        " another name"
    )


def vocabulary_of(config: CellConfig) -> Vocabulary:
    """Return the vocabulary that a cell's `tokenizer.sha256` names.

    It is read from `source` or, where that is gone, from the cells of the study and the cache.
    ValueError where `source` holds another one by now, FileNotFoundError where there is none.
    """
    tokenizer = config.tokenizer
    if vocabulary := refuse_changed_source(tokenizer):
        return vocabulary
    for file in _kept(config):
        with suppress(ValueError, FileNotFoundError):
            vocabulary = Vocabulary.read(file)
            if vocabulary.sha256 == tokenizer.sha256:
                return vocabulary
    raise FileNotFoundError(
        f"the vocabulary with sha256 {tokenizer.sha256[:12]} is neither at"
        f" tokenizer.source={tokenizer.source!r} nor beside the weights of the study nor in the"
        " cache; set tokenizer.source to the folder that holds it"
    )


def _kept(config: CellConfig) -> Iterator[Path]:
    """Yield the vocabularies that lie beside the weights of a study, and in the cache."""
    study = Path(config.runs) / config.study
    yield from sorted([*study.glob(f"*/{TOKENIZER}"), *study.glob(f"final/*/{TOKENIZER}")])
    yield from sorted(cache_folder(config).glob(f"tokens-*/{TOKENIZER}"))


def find_tokenizer(folder: Path, record: Record) -> Path:
    """Return the tokenizer.json of a trained model: beside its weights, or in the cache.

    folder: of the model
    record: of the model

    Models of earlier versions have it in the cache alone. FileNotFoundError where there is none,
    ValueError where the folder of the cache is damaged.
    """
    if (beside := folder / TOKENIZER).is_file():
        return beside
    caches = [parent / ".cache" for parent in folder.resolve().parents]
    if cache := record.config.get("machine", {}).get("cache"):
        caches.insert(0, Path(cache))
    corpus = record.inputs.get("corpus", "")
    if not (record.tokenizer or record.inputs.get("tokenizer")):
        raise FileNotFoundError(
            f"{folder} was trained on token ids alone, without their vocabulary; set tokenizer= to"
            " its tokenizer.json"
        )
    for cache in caches if corpus else ():
        values = record.setting("tokenizer")
        settings = {k: v for k, v in values.items() if k in TokenizerConfig.__dataclass_fields__}
        path = tokens_folder(cache, corpus, TokenizerConfig(**settings)) / TOKENIZER
        if path.is_file():
            if has_hashes(path.parent) and (why := damage(path.parent)):
                raise ValueError(
                    f"the vocabulary's folder {path.parent} is damaged ({why}); run the sweep"
                    " again, which makes it anew, or set tokenizer= to a whole tokenizer.json"
                )
            return path
    raise FileNotFoundError(
        f"the vocabulary of {folder} is neither beside its weights nor in a cache (.cache beside"
        " the runs, or machine.cache); set tokenizer= to its tokenizer.json, or run the sweep again"
    )
