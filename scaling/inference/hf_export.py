"""A trained model as a `transformers` folder: config, weights, tokenizer, model card."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from scaling.config import ModelConfig
from scaling.data.chat_template import jinja_of_own_marks
from scaling.data.tokenizer import END, PAD, SEP, SPECIAL
from scaling.data.vocabulary import Vocabulary
from scaling.inference.trained import Trained
from scaling.model.moe import MoE
from scaling.model.transformer import (
    EMBEDDING_EPS,
    NORM_EPS,
    ROPE_BASE,
    Attention,
    Block,
    Transformer,
)
from scaling.schema import (
    EVALUATION,
    Record,
    check_schema,
    read_evaluation,
    read_json,
    write_json,
    write_text,
)
from scaling.train.tensor_files import write_tensors


def layout_obstacles(config: ModelConfig) -> str:
    """Return the settings that fit neither Llama's nor Mixtral's layout; empty where all fit."""
    reasons = {
        f"positions={config.positions}": config.positions != "rope",
        f"norm={config.norm}": config.norm != "rmsnorm",
        f"mlp={config.mlp}": config.mlp != "swiglu",
        "bias=true": config.bias,
        f"n_shared_experts={config.n_shared_experts}": config.n_shared_experts > 0,
        f"top_k={config.top_k}": config.n_experts > 0 and config.top_k < 2,
    }
    return ", ".join(f"model.{name}" for name, true in reasons.items() if true)


def hub_config(model: Transformer) -> dict[str, Any]:
    """Return config.json for a model; ValueError where no layout fits."""
    c, obstacles = model.config, layout_obstacles(model.config)
    if obstacles:
        raise ValueError(
            f"a model with {obstacles} has no layout in transformers that gives equal logits; "
            "train one with rope, rmsnorm, swiglu, no bias (experts: top_k of 2 or more, "
            "none shared)"
        )
    values: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": c.d_model,
        "intermediate_size": c.d_expert if c.n_experts else c.d_ff,
        "num_hidden_layers": c.n_layer,
        "num_attention_heads": c.n_head,
        "num_key_value_heads": c.n_kv_head,
        "head_dim": c.d_head,
        "vocab_size": model.vocab_size,
        "max_position_embeddings": model.context,
        "rms_norm_eps": NORM_EPS,
        "rope_theta": ROPE_BASE,
        "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_BASE},
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "dtype": "float32",
    }
    if c.n_experts:
        values |= {
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            "num_local_experts": c.n_experts,
            "num_experts_per_tok": c.top_k,
            "sliding_window": None,
        }
    return values


@torch.no_grad()
def hub_weights(model: Transformer) -> dict[str, Tensor]:
    """Return the weights under their names in Llama's or Mixtral's layout."""
    table = model.embedding.weight
    if model.config.embedding_norm:
        table = F.rms_norm(table, (model.config.d_model,), eps=EMBEDDING_EPS)
    weights = {
        "model.embed_tokens.weight": table,
        "lm_head.weight": model.head.weight * model.output_scale,
        "model.norm.weight": model.norm.weight,
    }
    for i, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        layer = attention_weights(block.attention, block.branch) | {
            "input_layernorm.weight": block.norm_attention.weight,
            "post_attention_layernorm.weight": block.norm_mlp.weight,
        }
        layer |= feed_forward_weights(block)
        weights |= {f"model.layers.{i}.{name}": tensor for name, tensor in layer.items()}
    return {k: v.detach().float().cpu().clone().contiguous() for k, v in weights.items()}  # type: ignore[union-attr]


def attention_weights(attention: Attention, branch: float) -> dict[str, Tensor]:
    """Split the fused matrix; put attention's scale into the queries, `branch` into the output."""
    kv = attention.n_kv_head * attention.d_head
    q, k, v = attention.qkv.weight.split([attention.n_head * attention.d_head, kv, kv])
    if attention.scale is not None:
        q = q * (attention.scale * math.sqrt(attention.d_head))
    return {
        "self_attn.q_proj.weight": q,
        "self_attn.k_proj.weight": k,
        "self_attn.v_proj.weight": v,
        "self_attn.o_proj.weight": attention.out.weight * branch,
    }


def feed_forward_weights(block: Block) -> dict[str, Tensor]:
    """Split gate and up, for each expert of a mixture; multiply the branch's scale into `down`."""
    mlp, branch = block.mlp, block.branch
    if isinstance(mlp, MoE):
        weights = {"block_sparse_moe.gate.weight": mlp.router.weight * mlp.router_scale}
        for j, (fused, down) in enumerate(zip(mlp.up, mlp.down, strict=True)):
            gate, up = fused.chunk(2)
            names = {"w1": gate, "w3": up, "w2": down * branch}
            weights |= {f"block_sparse_moe.experts.{j}.{n}.weight": w for n, w in names.items()}
        return weights
    gate, up = mlp.up.weight.chunk(2)  # type: ignore[union-attr]
    return {
        "mlp.gate_proj.weight": gate,
        "mlp.up_proj.weight": up,
        "mlp.down_proj.weight": mlp.down.weight * branch,  # type: ignore[union-attr]
    }


def export(trained: Trained, out: Path) -> None:
    """Write config, weights, tokenizer and model card.

    The config and the card are made first: a model that cannot be written leaves no folder.
    """
    vocabulary = trained.vocabulary
    special = special_ids(vocabulary)
    config, text = hub_config(trained.model) | special, model_card(trained)
    out.mkdir(parents=True, exist_ok=True)
    write_tensors(out / "model.safetensors", hub_weights(trained.model), {"format": "pt"})
    write_json(out / "config.json", config)
    vocabulary.write(out)
    settings = vocabulary.hub_settings()
    if vocabulary.own:
        settings |= {
            "bos_token": SPECIAL[END],
            "eos_token": SPECIAL[END],
            "pad_token": SPECIAL[PAD],
        }
    if is_chat(trained.record) and not vocabulary.chat.jinja:
        separator = SPECIAL[SEP] if vocabulary.own else ""
        settings["chat_template"] = jinja_of_own_marks(separator)
    write_json(
        out / "tokenizer_config.json",
        {
            "model_max_length": trained.model.context,
            "padding_side": "left",  # so that the prompts of a batch end in the same column
            **settings,
        },
    )
    write_json(out / "generation_config.json", special)
    write_text(out / "README.md", text)


def special_ids(vocabulary: Vocabulary) -> dict[str, int]:
    """Return the ids of the special tokens under the names of config.json."""
    special, names = vocabulary.special, vocabulary.settings
    begin = vocabulary.tokenizer.token_to_id(names["bos_token"]) if "bos_token" in names else None
    return {
        "bos_token_id": special.end if begin is None else begin,
        "eos_token_id": special.end,
        "pad_token_id": special.pad,
    }


def is_chat(record: Record) -> bool:
    """Say whether a model was tuned on prompts in the chat template (sft.template)."""
    blocks = [record.config.get("plan", {}), record.config.get("before", {}).get("sft", {})]
    return any(block.get("template") == "chat" for block in blocks)


def model_card(trained: Trained) -> str:
    """Return the model card: training, test loss, law and sealed forecast, scores on tasks."""
    r, folder = trained.record, trained.folder.resolve()
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "---",
        f"# {r.study}: {r.stage}, {r.params.total:,} parameters",
        "",
        f"- Trained on {r.tokens:,} tokens, {r.flops:.3g} FLOPs; context {trained.model.context}, "
        f"vocabulary {trained.model.vocab_size}.",
        f"- Run {r.run_id}, seed {r.seed}, ended {r.ended}, code {r.git_sha or 'unknown'}.",
    ]
    if r.test_loss is not None:
        bits = f", {r.bits_per_byte:.4f} bits per byte" if r.bits_per_byte is not None else ""
        lines.append(f"- Test loss {r.test_loss:.4f} +- {r.test_loss_se or 0:.4f} nats{bits}.")
    law, forecast = folder.parents[1] / "law.json", folder.parent / "forecast.json"
    if folder.parent.name == "final" and law.is_file():
        lines.append(f"- Law {law_text(law)}.")
    if folder.parent.name == "final" and forecast.is_file() and (text := forecast_text(forecast)):
        lines.append(f"- Forecast sealed before the run: {text}.")
    scores = folder / EVALUATION
    if scores.is_file():
        lines += ["", "| task | accuracy | bits per byte | questions |", "|---|---|---|---|"]
        for name, s in read_evaluation(scores).tasks.items():
            lines.append(
                f"| {name} | {s['acc']:.4f} +- {s['acc_se']:.4f} | {s['bits_per_byte']:.3f} "
                f"| {s['n']:,} |"
            )
    lines += ["", "    from transformers import pipeline", '    pipeline("text-generation", "DIR")']
    return "\n".join(lines) + "\n"


def law_text(path: Path) -> str:
    """Return form, status and parameters of a law.json; `scaling` reads no more of it."""
    values = read_json(path)
    check_schema(values, source=path, noun="law", fix="refit it with scaling fit")
    try:
        parameters = ", ".join(f"{k} {v:.4g}" for k, v in values["parameters"].items())
        return f"({values['form']}, {values['status']}): {parameters}"
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no law; refit it with scaling fit") from error


def forecast_text(path: Path) -> str:
    """Return loss and interval of a sealed forecast; empty where the plan has no forecast."""
    values = read_json(path)
    check_schema(values, source=path, noun="sealed forecast", fix="run scaling final again")
    values = values.get("forecast", values)
    if not values.get("interval"):
        return ""
    try:
        low, high = values["interval"]
        return f"{values['test_loss']:.4f} [{low:.4f}, {high:.4f}] at {values['level']:.0%}"
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no sealed forecast; run scaling final again") from error
