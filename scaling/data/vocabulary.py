"""A vocabulary: tokenizer, special tokens and chat template, our own or somebody else's.

A folder of a vocabulary holds tokenizer.json and, where it is somebody else's,
tokenizer_config.json with the special tokens and the chat template, as `transformers` writes them.
Both are read as data: nothing in them is run but the chat template, in the sandbox that
`transformers` uses too.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from scaling.data.chat_template import ChatTemplate, check_template
from scaling.data.row_text import clean
from scaling.data.tokenizer import END, PAD, SEP, SPECIAL, load_tokenizer, tokenizer_of
from scaling.schema import check_readable, read_json, sha256_json, write_text

log = logging.getLogger(__name__)
TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"
VOCABULARY_FILES = (TOKENIZER, SETTINGS)
NAMES = ("eos_token", "bos_token", "pad_token")
ALTERED_CHARACTERS = 4096  # of each sampled text are decoded again: a corpus takes under a second.
# Tokens that end a text, in the order in which they are tried where no file names one.
USUAL_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|end|>", "<|im_end|>", "[EOS]")


@dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """Ids: `end` ends a document or a completion, `pad` fills rows, `separator` ends a prompt.

    The separator is empty in a vocabulary that has no such token; prompt and completion are then
    encoded apart, so that no merge spans them either.
    """

    end: int = END
    pad: int = PAD
    separator: tuple[int, ...] = (SEP,)


OWN = SpecialTokens()


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """A tokenizer with what belongs to it.

    content: the bytes of tokenizer.json
    tokenizer: encodes text; a special token that a text spells is text to it
    settings: eos_token, bos_token, pad_token and chat_template, those that are known; empty for a
        vocabulary that was trained here
    special: ids of the special tokens
    """

    content: bytes
    tokenizer: Tokenizer
    settings: dict[str, str]
    special: SpecialTokens = OWN

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a tokenizer.json, or a folder with one (or with vocab.json and merges.txt).

        FileNotFoundError where there is none, ValueError for a damaged one and for one that has no
        token to end a text with.
        """
        file = path / TOKENIZER if path.is_dir() else path
        if path.is_dir() and not file.is_file():
            tokenizer = _of_merges(path)
            content = tokenizer.to_str().encode()
        else:
            tokenizer, content = load_tokenizer(file), file.read_bytes()
        settings = _settings(file.parent)
        names = tokenizer.get_vocab()
        for name in NAMES:
            if name in settings and settings[name] not in names:
                raise ValueError(_no_token(path, settings[name], name))
        if is_own(tokenizer):
            return cls(content=content, tokenizer=tokenizer, settings={})
        if "eos_token" not in settings:
            end = next((token for token in USUAL_ENDS if token in names), "")
            if not end:
                raise ValueError(
                    f"{path} names no token that ends a text; put a {SETTINGS} with eos_token"
                    " beside it"
                )
            log.info("%s names no eos_token; %s ends a text", path, end)
            settings["eos_token"] = end
        end = names[settings["eos_token"]]
        pad = names[settings.get("pad_token", settings["eos_token"])]
        _end_no_text(tokenizer)
        special = SpecialTokens(end=end, pad=pad, separator=())
        return cls(content=content, tokenizer=tokenizer, settings=settings, special=special)

    @cached_property
    def sha256(self) -> str:
        """The hash of tokenizer.json; of the special tokens and the template too, if any."""
        of_file = hashlib.sha256(self.content).hexdigest()
        return sha256_json([of_file, self.settings]) if self.settings else of_file

    @cached_property
    def n_ids(self) -> int:
        """One more than the largest id: the size of a model's tables."""
        return max(self.tokenizer.get_vocab().values()) + 1

    @property
    def own(self) -> bool:
        """Whether the vocabulary was trained here."""
        return not self.settings

    @cached_property
    def chat(self) -> ChatTemplate:
        """How dialogues become text."""
        return ChatTemplate(
            jinja=self.settings.get("chat_template", ""),
            names=tuple((n, self.settings[n]) for n in NAMES if n in self.settings),
        )

    @cached_property
    def _with_special(self) -> Tokenizer:
        """The tokenizer to which a special token that a text spells is that token."""
        tokenizer = tokenizer_of(self.content)
        _end_no_text(tokenizer)
        tokenizer.encode_special_tokens = False
        return tokenizer

    def encode_prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return prompts as token ids, which end with the separator; none is empty.

        A dialogue that somebody else's chat template wrote is encoded as `transformers` does it:
        the template has put the special tokens in. Other prompts begin as the tokenizer begins a
        text.
        """
        texts, separator = [clean(text) for text in texts], list(self.special.separator)
        prompts = [e.ids for e in self.tokenizer.encode_batch_fast(texts)]
        for place, text in enumerate(texts):
            if self.chat.jinja and self.chat.is_dialogue(text):
                ids = self._with_special.encode(text, add_special_tokens=False).ids
                prompts[place] = ids
        return [[*ids, *separator] or [self.special.end] for ids in prompts]

    def encode_completions(self, texts: Sequence[str]) -> list[list[int]]:
        """Return completions as token ids, which end with the token that ends a text."""
        texts = [clean(text) for text in texts]
        encoded = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [[*e.ids, self.special.end] for e in encoded]

    def altered(self, texts: Sequence[str]) -> float:
        """Return the share of lines that decoding does not give back, white space left aside.

        texts: a sample; their first ALTERED_CHARACTERS are looked at
        """
        lines = [
            ln for t in texts for ln in clean(t[:ALTERED_CHARACTERS]).splitlines() if ln.strip()
        ]
        encoded = self.tokenizer.encode_batch_fast(lines, add_special_tokens=False)
        decoded = self.tokenizer.decode_batch([e.ids for e in encoded], skip_special_tokens=False)
        other = sum(
            "".join(a.split()) != "".join(b.split()) for a, b in zip(lines, decoded, strict=True)
        )
        return other / max(1, len(lines))

    def write(self, folder: Path) -> None:
        """Write the vocabulary's files into a folder."""
        write_text(folder / TOKENIZER, self.content.decode())
        if self.settings:
            shown = json.dumps(self.hub_settings(), indent=2, ensure_ascii=False)
            write_text(folder / SETTINGS, f"{shown}\n")
        else:
            (folder / SETTINGS).unlink(missing_ok=True)

    def hub_settings(self) -> dict[str, Any]:
        """Return the settings as the tokenizer_config.json that `transformers` reads."""
        fixed = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
        }
        return fixed | self.settings


def is_own(tokenizer: Tokenizer) -> bool:
    """Say whether a tokenizer has the special tokens of one that was trained here."""
    return all(tokenizer.id_to_token(i) == token for i, token in enumerate(SPECIAL))


def altered_text(meta: dict[str, Any]) -> str:
    """Say that a vocabulary does not give a corpus' text back; empty where it does.

    meta: of the corpus; `altered` is the share of lines that `Vocabulary.altered` found
    """
    if not (share := meta.get("altered", 0.0)):
        return ""
    return (
        f"the vocabulary does not give the text back in {share:.2%} of the sampled lines (unknown"
        " words, or letters that it normalises): bits per byte look better than they are and cannot"
        " be compared with another vocabulary's; set tokenizer.source to a byte-level one"
    )


def _no_token(path: Path, token: Any, name: str) -> str:
    """Say that a vocabulary lacks a token that its settings name."""
    return (
        f"{path} has no token {token!r}, which {SETTINGS} names as {name}; put the two files of one"
        " vocabulary there"
    )


def _settings(folder: Path) -> dict[str, str]:
    """Return the special tokens and the chat template that the files of a folder name."""
    settings: dict[str, str] = {}
    for name in ("special_tokens_map.json", SETTINGS):
        if not (folder / name).is_file():
            continue
        values = read_json(folder / name)
        if not isinstance(values, dict):
            raise ValueError(f"{folder / name} holds no settings; restore it")
        for key in NAMES:
            token = values.get(key)
            token = token.get("content", token) if isinstance(token, dict) else token
            if token is not None and not isinstance(token, str):
                raise ValueError(_no_token(folder, token, key))
            if token:
                settings[key] = clean(token)
        template = values.get("chat_template")
        if isinstance(template, list):  # several templates by name
            by_name = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
            template = by_name.get("default")
        if isinstance(template, str) and template:
            settings["chat_template"] = template
    if (file := folder / "chat_template.jinja").is_file():
        settings["chat_template"] = check_readable(file).read_text(encoding="utf-8")
    check_template(settings.get("chat_template", ""), str(folder))
    return dict(sorted(settings.items()))


def _of_merges(folder: Path) -> Tokenizer:
    """Return the tokenizer of GPT-2's files vocab.json and merges.txt."""
    files = [folder / "vocab.json", folder / "merges.txt"]
    if not all(f.is_file() for f in files):
        has_model = (folder / "tokenizer.model").is_file()
        why = " but a tokenizer.model, which only its own library reads" if has_model else ""
        raise FileNotFoundError(
            f"{folder} has no {TOKENIZER}{why}; write one with transformers:"
            " AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    try:
        model = models.BPE.from_file(*(str(check_readable(f)) for f in files))
    except Exception as error:
        raise ValueError(
            f"{folder} has a damaged {' or '.join(f.name for f in files)} ({error}); restore them"
        ) from error
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    names = _settings(folder)
    tokens = dict.fromkeys(names[n] for n in NAMES if n in names)
    tokenizer.add_special_tokens(list(tokens or ("<|endoftext|>",)))
    tokenizer.encode_special_tokens = True
    return tokenizer


def _end_no_text(tokenizer: Tokenizer) -> None:
    """Keep a tokenizer from adding tokens after a text: whoever encodes adds the end itself.

    Tokens that it adds before a text stay.
    """
    text = tokenizer.encode("a", add_special_tokens=False).ids
    framed = tokenizer.encode("a").ids
    before = next(
        (i for i in range(len(framed) - len(text) + 1) if framed[i : i + len(text)] == text), 0
    )
    if len(framed) > before + len(text):
        first = [str(tokenizer.id_to_token(i)) for i in framed[:before]]
        ids = list(zip(first, framed[:before], strict=True))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*first, "$A"], pair=[*first, "$A", "$B"], special_tokens=ids
        )
