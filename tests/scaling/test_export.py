"""Exports as `transformers` reads them."""

import json

import pytest
import torch

from scaling import export
from scaling.config import ModelConfig
from scaling.data.chat_template import render, turns_of
from scaling.data.tokenizer import load_tokenizer
from scaling.export import ExportConfig
from scaling.inference import hf_export
from scaling.inference.hf_export import hub_config, hub_weights, layout_obstacles
from scaling.inference.peft_export import hub_adapters, subtract_adapters
from scaling.inference.trained import open_trained
from scaling.model.lora import ALPHA, LoraLinear, adapters, add_lora, merge_lora
from scaling.model.transformer import Transformer
from scaling.schema import Evaluation, write_json
from scaling.stages.sft import load_pairs, run_sft
from scaling.study.places import cell_folder
from scaling.train.trunk import train_trunk

transformers = pytest.importorskip(
    "transformers", reason="needs transformers; install scaling-laws[dev]"
)
pytestmark = pytest.mark.filterwarnings("ignore")  # the library warns of its own ways
MODELS = {
    "default": {},
    "grouped": {"d_model": 64, "d_head": 8, "n_head": 8, "n_kv_head": 2},
    "untied": {"tied": False, "embedding_norm": False},
    "mup": {"d_model": 64, "d_head": 16, "parametrization": "mup"},
    "completep": {"n_layer": 4, "d_model": 64, "parametrization": "completep"},
    "experts": {"n_experts": 4, "top_k": 2},
    "experts_mup": {"n_experts": 4, "top_k": 2, "d_model": 64, "parametrization": "mup"},
}


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_logits_are_equal(model, tmp_path):
    torch.manual_seed(0)
    ours = Transformer(ModelConfig(**model), vocab_size=300, context=24)
    with torch.no_grad():
        for weight in ours.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    ours.eval()
    hf_export.write_tensors(tmp_path / "model.safetensors", hub_weights(ours), {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(hub_config(ours)))
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    tokens = torch.randint(0, 300, (3, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        our_logits, their_logits = ours(tokens), theirs.eval()(tokens).logits
    assert (their_logits - our_logits).abs().max() < 2e-5 * our_logits.abs().max()


@pytest.mark.slow
def test_a_trained_cell_is_exported_with_vocabulary_and_card(make_cell, tmp_path, capsys):
    cell = make_cell()
    (record,) = train_trunk([cell])
    folder, out = cell_folder(cell), tmp_path / "out"
    Evaluation(
        run_id=record.run_id,
        stage="pretrain",
        params=record.params,
        tokens=record.tokens,
        flops=record.flops,
        test_loss=record.test_loss,
        tasks={"copa": {"acc": 0.5, "acc_se": 0.1, "bits_per_byte": 3.0, "n": 9}},
        texts={},
    ).write(folder / "evaluation.json")
    export.main(ExportConfig(checkpoint=str(folder), out=str(out)))
    assert f"written to {out}" in capsys.readouterr().out
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    vocabulary = transformers.AutoTokenizer.from_pretrained(out)
    ours = open_trained(folder, torch.device("cpu"))
    text = "def read(path):"
    ids = vocabulary(text).input_ids
    assert ids == ours.tokenizer.encode(text).ids
    assert vocabulary.decode(ids) == text
    assert vocabulary.eos_token_id == theirs.config.eos_token_id == 0
    with torch.no_grad():
        their_logits, our_logits = (
            theirs(torch.tensor([ids])).logits,
            ours.model(torch.tensor([ids])),
        )
    assert (their_logits - our_logits).abs().max() < 1e-5 * our_logits.abs().max()
    batch = vocabulary([text, "x"], padding=True, return_tensors="pt")
    options = {"max_new_tokens": 4, "do_sample": False}
    alone = theirs.generate(**vocabulary("x", return_tensors="pt"), **options)[0]
    padding = int((batch["attention_mask"][1] == 0).sum())
    assert padding > 0
    assert theirs.generate(**batch, **options)[1, padding:].tolist() == alone.tolist()
    card = (out / "README.md").read_text()
    assert f"{record.test_loss:.4f}" in card
    assert "| copa | 0.5000 +- 0.1000 |" in card
    assert load_tokenizer(out / "tokenizer.json").encode(text).ids == ids


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ({"positions": "sinusoidal"}, r"model\.positions=sinusoidal"),
        ({"norm": "layernorm", "mlp": "gelu"}, r"model\.norm=layernorm, model\.mlp=gelu"),
        ({"n_experts": 4, "top_k": 1}, r"model\.top_k=1"),
        ({"n_experts": 4, "n_shared_experts": 1}, r"model\.n_shared_experts=1"),
    ],
)
def test_what_no_layout_holds_is_refused_by_name(model, named):
    transformer = Transformer(ModelConfig(**model), vocab_size=300, context=24)
    with pytest.raises(ValueError, match=f"a model with {named} has no layout"):
        hub_config(transformer)


def test_every_default_rung_can_be_exported():
    assert not layout_obstacles(ModelConfig())


def test_a_study_of_several_models_is_refused_with_one_of_them(make_cell, tmp_path):
    cells = [make_cell(n_tokens=n) for n in (1024, 2048)]
    train_trunk(cells)
    study = str(cell_folder(cells[0]).parent)
    with pytest.raises(ValueError, match="holds 2 models; give one of them, as"):
        export.main(ExportConfig(checkpoint=study, out=str(tmp_path / "out")))
    with pytest.raises(ValueError, match="out='' is missing"):
        ExportConfig(checkpoint=study)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_adapters_are_loaded_by_peft_with_the_merged_models_logits(
    final_config, pretrained, tmp_path, monkeypatch, method
):
    peft = pytest.importorskip("peft", reason="needs peft; install scaling-laws[dev]")
    final_config.sft.method = method
    stage = pretrained("sft")
    run_sft(stage)
    vocabulary = str(stage.corpus.tokenizer_path)
    config = ExportConfig(
        checkpoint=str(stage.folder), out=str(tmp_path / "out"), tokenizer=vocabulary, adapter=True
    )
    export.main(config)
    tokens = torch.randint(0, 300, (2, 20), generator=torch.Generator().manual_seed(1))
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out/base").eval()
    merged = open_trained(stage.folder, torch.device("cpu"), tokenizer=vocabulary).model
    with torch.no_grad():
        merged_logits, before = merged(tokens), base(tokens).logits
        adapted_logits = (
            peft.PeftModel.from_pretrained(base, tmp_path / "out").eval()(tokens).logits
        )
    assert (before - merged_logits).abs().max() > 1e-3
    assert (adapted_logits - merged_logits).abs().max() < 2e-5 * merged_logits.abs().max()
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    monkeypatch.chdir(moved)  # the base is named from within the folder
    again = peft.AutoPeftModelForCausalLM.from_pretrained(".").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(tokens).logits, adapted_logits)


@pytest.mark.parametrize("model", ["grouped", "mup", "completep"])
def test_adapters_carry_the_scales_of_the_model(model):
    torch.manual_seed(0)
    ours = Transformer(ModelConfig(**MODELS[model]), vocab_size=300, context=24).eval()
    add_lora(ours, rank=2)
    for layer in ours.modules():
        if isinstance(layer, LoraLinear):
            torch.nn.init.normal_(layer.up, std=0.1)
    factors = adapters(ours)
    merged = hub_weights(merge_lora(ours))
    tensors = hub_adapters(ours, factors)
    subtract_adapters(ours, factors, 2)
    base = hub_weights(ours)
    for name in (n for n in tensors if n.endswith("lora_A.weight")):
        layer = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight") + ".weight"
        update = tensors[name.replace("lora_A", "lora_B")] @ tensors[name] * ALPHA / 2
        torch.testing.assert_close(base[layer] + update, merged[layer], atol=1e-5, rtol=1e-4)
        assert update.abs().max() > 1e-3
    assert len(tensors) == 2 * 7 * ours.config.n_layer


def test_a_stage_without_adapters_is_said(final_config, pretrained, tmp_path):
    stage = pretrained("sft")
    run_sft(stage)
    config = ExportConfig(
        checkpoint=str(stage.folder),
        out=str(tmp_path / "out"),
        tokenizer=str(stage.corpus.tokenizer_path),
        adapter=True,
    )
    with pytest.raises(ValueError, match=r"only a stage of sft\.method=lora or"):
        export.main(config)


def test_a_sealed_plan_without_a_forecast_is_no_line_of_the_card(tmp_path):
    write_json(tmp_path / "forecast.json", {"test_loss": 0.0, "interval": [], "level": 0.95})
    assert hf_export.forecast_text(tmp_path / "forecast.json") == ""


@pytest.mark.parametrize("template", ["", "chat"])
def test_the_exported_chat_template_makes_the_ids_that_were_tuned_on(
    final_config, pretrained, tmp_path, template
):
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"count {i}", "completion": f"it is {i}"} for i in range(40)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    final_config.sft.data, final_config.sft.template = str(path), template
    stage = pretrained("sft")
    run_sft(stage)
    vocabulary = str(stage.corpus.tokenizer_path)
    settings = {"checkpoint": str(stage.folder), "out": str(tmp_path / "out")}
    export.main(ExportConfig(**settings, tokenizer=vocabulary))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    if not template:
        assert tokenizer.chat_template is None
        return
    turns = [{"role": "user", "content": "count 3"}]
    text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    data = load_pairs(stage)
    assert ids in [e.prompt for e in [*data.train, *data.test]]


CALL = {"function": {"name": "look", "arguments": {"at": "caf\u00e9 <x>"}}, "type": "function"}
RICH = [
    {"role": "system", "content": " Be kind. "},
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "!"}]},
    {"role": "assistant", "content": None, "tool_calls": [CALL, CALL["function"]]},
    {"role": "tool", "content": "42\n"},
    {"role": "assistant", "content": "I ask again.", "function_call": CALL["function"]},
    {"role": "function", "content": "43"},
    {"role": "assistant", "content": "It is 43.", "tool_calls": None},
]


def test_the_exported_template_renders_tools_parts_and_calls_as_training_does(
    make_cell, tmp_path, monkeypatch
):
    cell = make_cell()
    train_trunk([cell])
    monkeypatch.setattr(hf_export, "is_chat", lambda record: True)
    export.main(ExportConfig(checkpoint=str(cell_folder(cell)), out=str(tmp_path / "out")))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    text = tokenizer.apply_chat_template(RICH, tokenize=False)
    assert text == render(turns_of(RICH, "f"))
    assert '"caf\u00e9 <x>"' in text
    assert text.startswith("Be kind.\n\nBe brief.\n\nHuman: Hi!\n\nAssistant: {")
