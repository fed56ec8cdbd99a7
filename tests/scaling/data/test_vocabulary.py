"""Vocabularies of others: the tokens of `transformers`, one identity, kept beside the weights."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from scaling.config import CellConfig, TokenizerConfig
from scaling.corpus import describe_corpus
from scaling.data.tokenizer import ODD, encoder, train_tokenizer
from scaling.data.tokens import open_corpus
from scaling.data.vocabulary import Vocabulary
from scaling.data.vocabulary_files import with_source
from scaling.inference.trained import open_trained
from scaling.jobs.cells import hold_sources
from scaling.jobs.grid import refuse_two_sizes
from scaling.train.trunk import train_trunk

TEXTS = ["the number 12 is the product of 3 and 4, as anybody can see\n" * 20, "It's a book. " * 30]
UNICODE = [ODD, "中文 é 🙂 x\u0301 \u2003", "a  b\n\n c", "", "<s> </s> <|endoftext|> <|im_end|>"]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def gpt2_layout(folder: Path) -> Path:
    """Write a byte-level vocabulary with a ChatML template, as `transformers` does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    names = {"eos_token": "<|im_end|>", "bos_token": "<|im_start|>", "chat_template": CHATML}
    return written(folder, tokenizer, names)


def own_layout(folder: Path) -> Path:
    """Write a vocabulary as a sweep trains it."""
    folder.mkdir()
    train_tokenizer(TEXTS, vocab_size=300).save(str(folder / "tokenizer.json"))
    return folder


def llama_layout(folder: Path) -> Path:
    """Write a vocabulary of text pieces with bytes to fall back on, which begins texts with <s>."""
    byte = {f"<0x{b:02X}>": b + 3 for b in range(256)}
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **byte}
    for piece in ("▁", "t", "h", "e", "▁t", "▁th", "▁the", "n", "u", "m", "b", "r"):
        vocabulary[piece] = len(vocabulary)
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e")]
    model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return written(folder, tokenizer, {"eos_token": "</s>", "bos_token": "<s>"})


def written(folder: Path, tokenizer: Tokenizer, names: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    fixed = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(fixed | names))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("layout", [gpt2_layout, llama_layout])
def test_the_tokens_are_those_of_transformers(tmp_path, layout):
    transformers = pytest.importorskip("transformers")
    folder = layout(tmp_path / "tok")
    theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), Vocabulary.read(folder)
    assert (ours.special.end, ours.special.separator) == (theirs.eos_token_id, ())
    wanted = theirs(UNICODE + TEXTS, split_special_tokens=True, add_special_tokens=False)
    assert ours.encode_completions(UNICODE + TEXTS) == [
        [*ids, theirs.eos_token_id] for ids in wanted["input_ids"]
    ]
    before = [1] if layout is llama_layout else []
    prompts = ours.encode_prompts(["the number"])
    assert prompts == [before + theirs("the number", add_special_tokens=False)["input_ids"]]
    if layout is gpt2_layout:
        turns = [{"role": "user", "content": "the <|im_end|> 中"}]
        [(prompt, completion)] = ours.chat.completions_of(
            [*turns, {"role": "assistant", "content": "a book"}], "row 1"
        )
        ids = theirs.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
        assert (ours.encode_prompts([prompt]), completion) == ([ids], "a book")


def test_the_fast_encoder_gives_the_tokens_of_the_vocabulary(tmp_path, caplog):
    pytest.importorskip("tiktoken", reason="needs tiktoken; install scaling-laws[fast]")
    tokenizer = Vocabulary.read(gpt2_layout(tmp_path)).tokenizer
    variants = [tokenizer, Tokenizer.from_str(tokenizer.to_str()), llama_tokenizer(tmp_path)]
    variants[1].pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    names = []
    for variant in variants:
        variant.encode_special_tokens = True
        encoded = encoder(variant, TEXTS)
        names.append(encoded.__name__)
        assert encoded(UNICODE) == [e.ids for e in variant.encode_batch(UNICODE)]
    assert names == ["fast", "fast", "slow"]
    assert not caplog.records


def llama_tokenizer(tmp_path: Path) -> Tokenizer:
    return Vocabulary.read(llama_layout(tmp_path / "llama")).tokenizer


def test_the_identity_is_the_hash_and_not_the_path(tmp_path, make_cell):
    folder = gpt2_layout(tmp_path / "a")
    shutil.copytree(folder, tmp_path / "b")
    cells = [
        replace(make_cell(), tokenizer=with_source(TokenizerConfig(source=str(tmp_path / name))))
        for name in ("a", "b")
    ]
    assert len({c.run_id() for c in cells}) == 1
    assert cells[0].run_id() != make_cell().run_id()
    assert cells[0].tokenizer.vocab_size == Vocabulary.read(folder).n_ids
    config = json.loads((tmp_path / "b/tokenizer_config.json").read_text())
    config["eos_token"] = "<|endoftext|>"
    (tmp_path / "b/tokenizer_config.json").write_text(json.dumps(config))
    other = with_source(TokenizerConfig(source=str(tmp_path / "b")))
    assert other.sha256 != cells[0].tokenizer.sha256


@pytest.mark.slow
@pytest.mark.parametrize("layout", [gpt2_layout, llama_layout])
def test_a_model_keeps_its_vocabulary_when_source_and_cache_are_gone(tmp_path, make_cell, layout):
    source = layout(tmp_path / "tok")
    cell = replace(make_cell(), tokenizer=with_source(TokenizerConfig(source=str(source))))
    cell.machine = replace(cell.machine, cache=str(tmp_path / "cache"))
    (record,) = train_trunk([cell])
    wanted = Vocabulary.read(source).sha256
    assert record.tokenizer == record.inputs["tokenizer"] == wanted
    assert (open_corpus(cell).test == open_corpus(cell).special.end).any()
    moved = tmp_path / "elsewhere"
    shutil.copytree(Path(cell.runs) / "tiny" / cell.run_id(), moved)
    shutil.rmtree(tmp_path / "cache")
    shutil.rmtree(source)
    trained = open_trained(moved, torch.device("cpu"))
    assert trained.vocabulary.sha256 == wanted
    assert trained.model.text_end == trained.vocabulary.special.end
    again = with_source(TokenizerConfig(source=str(Path(cell.runs) / "tiny")))
    assert again.sha256 == wanted  # of the study


def test_a_folder_that_changed_under_a_study_is_refused(tmp_path, make_cell):
    source = gpt2_layout(tmp_path / "tok")
    cell = replace(make_cell(), tokenizer=with_source(TokenizerConfig(source=str(source))))
    hold_sources([cell])
    config = (source / "tokenizer_config.json").read_text()
    (source / "tokenizer_config.json").write_text(config.replace("assistant", "helper"))
    with pytest.raises(ValueError, match="holds another vocabulary by now"):
        open_corpus(cell)
    now = replace(cell, tokenizer=with_source(TokenizerConfig(source=str(source))))
    with pytest.raises(ValueError, match="put the former one back"):
        hold_sources([now])


def test_a_source_that_is_none_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"give a tokenizer\.json, a transformers folder"):
        with_source(TokenizerConfig(source=str(tmp_path / "nothing")))
    (tmp_path / "tokenizer.model").write_text("x")
    with pytest.raises(FileNotFoundError, match="AutoTokenizer"):
        with_source(TokenizerConfig(source=str(tmp_path)))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is no tokenizer\.json, or damaged"):
        with_source(TokenizerConfig(source=str(tmp_path)))


def test_a_single_cell_takes_a_source_as_a_grid_does(tmp_path, monkeypatch):
    from scaling import sweep

    ran = []
    monkeypatch.setattr(sweep, "run_cells", ran.extend)
    source = tmp_path / "tokenizer.json"
    trained = train_tokenizer(["a few words"] * 50, vocab_size=300)
    source.write_text(trained.to_str())
    sweep.main(CellConfig(tokenizer=TokenizerConfig(source=str(source))))
    (cell,) = ran
    assert len(cell.tokenizer.sha256) == 64
    assert cell.tokenizer.vocab_size == trained.get_vocab_size()


def test_a_vocabulary_that_does_not_give_the_text_back_is_an_alarm(make_cell, tmp_path, caplog):
    other = gpt2_layout(tmp_path / "other")
    tokenizer = Tokenizer.from_file(str(other / "tokenizer.json"))
    tokenizer.normalizer = normalizers.Replace("e", "a")
    tokenizer.save(str(other / "tokenizer.json"))
    for source, whole in ((gpt2_layout(tmp_path / "gpt2"), True), (other, False)):
        caplog.clear()
        settings = with_source(TokenizerConfig(source=str(source)))
        corpus = open_corpus(replace(make_cell(), tokenizer=settings))
        assert (corpus.meta["altered"] == 0) == whole
        for said in (caplog.text, describe_corpus(corpus)):
            assert ("the vocabulary does not give the text back in" in said) != whole


@pytest.mark.parametrize("write", [gpt2_layout, own_layout])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('{"eos_token": ', r"tokenizer_config\.json is not JSON"),
        ('{"eos_token": "<|none|>"}', r"has no token '<\|none\|>', which .* names as eos_token"),
        ('{"eos_token": 5}', "has no token 5, which .* names as eos_token; put the two files"),
    ],
)
def test_settings_that_name_no_token_are_refused(tmp_path, write, settings, message):
    folder = write(tmp_path / "v")
    (folder / "tokenizer_config.json").write_text(settings)
    with pytest.raises(ValueError, match=message):
        with_source(TokenizerConfig(source=str(folder)))


def test_a_size_beside_a_source_is_said_or_refused(tmp_path, caplog):
    caplog.set_level("INFO")
    source = tmp_path / "tokenizer.json"
    train_tokenizer(["a text of some words"], vocab_size=280).save(str(source))
    taken = with_source(TokenizerConfig(source=str(source), vocab_size=4096))
    assert "they replace tokenizer.vocab_size=4096" in caplog.text
    refuse_two_sizes({"tokenizer.vocab_size": taken.vocab_size}, taken)
    refuse_two_sizes({}, taken)
    with pytest.raises(ValueError, match="both set the vocabulary; leave one of them out"):
        refuse_two_sizes({"tokenizer.vocab_size": 4096}, taken)


def test_a_chat_template_that_is_no_jinja_is_refused_when_it_is_read(tmp_path):
    folder = gpt2_layout(tmp_path / "tok")
    file = folder / "tokenizer_config.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "chat_template": "{% for m in messages %}{{ m"}))
    with pytest.raises(ValueError, match=r"chat template that is no Jinja .* take it out"):
        with_source(TokenizerConfig(source=str(folder)))
