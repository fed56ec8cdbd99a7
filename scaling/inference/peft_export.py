"""A LoRA stage as a folder that `peft` loads: adapters, and the base that they adapt beside them.

The base is named by its path within the folder, so that the whole may be moved: peft's own loaders
look for it from the current folder (`cd DIR`), `PeftModel.from_pretrained` takes it already loaded.

Our fused products are several layers there: each takes the shared first factor and its rows of the
second, with the scales that scaling.export puts into the weights.
"""

import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scaling.inference.trained import Trained
from scaling.model.lora import ADAPTERS, ALPHA
from scaling.model.transformer import Attention, Block, Transformer
from scaling.schema import write_json
from scaling.train.checkpoint import refuse_damaged
from scaling.train.tensor_files import open_tensors, write_tensors

BASE = "base"  # the base's folder within the adapters'
PREFIX = "base_model.model.model.layers"


def read_adapters(folder: Path) -> tuple[dict[str, Tensor], int]:
    """Return a stage's factors by layer and their rank; ValueError where it has none."""
    path = folder / ADAPTERS
    if not path.is_file():
        raise ValueError(
            f"{folder} has no {ADAPTERS}: only a stage of sft.method=lora or"
            " qlora has adapters; leave adapter=true out to export its weights"
        )
    refuse_damaged(path)
    with ExitStack() as stack:
        file = open_tensors(path, stack)
        rank = int((file.metadata() or {})["rank"])
        return {name: file.get_tensor(name) for name in file.keys()}, rank  # noqa: SIM118


@torch.no_grad()
def take_away(model: Transformer, factors: dict[str, Tensor], rank: int) -> None:
    """Subtract merged adapters from a model's weights, which leaves the base they were on."""
    for name in {n.rsplit(".", 1)[0] for n in factors}:
        update = factors[f"{name}.up"].double() @ factors[f"{name}.down"].double()
        weight = model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        weight.copy_(weight.double() - ALPHA / rank * update)


def hub_adapters(model: Transformer, factors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the factors under peft's names for Llama's layout."""
    found: dict[str, Tensor] = {}
    for i, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        for layer, names, scales in _layers(block):
            down, up = (factors[f"blocks.{i}.{layer}.{part}"] for part in ("down", "up"))
            rows = up.split([size for _, size in names])
            for (name, _), part, scale in zip(names, rows, scales, strict=True):
                found[f"{PREFIX}.{i}.{name}.lora_A.weight"] = down.clone()
                found[f"{PREFIX}.{i}.{name}.lora_B.weight"] = (part * scale).contiguous()
    return found


def _layers(block: Block) -> list[tuple[str, list[tuple[str, int]], list[float]]]:
    """Return our adapted layers, what each is called in Llama (rows), and the scales put in."""
    attention, mlp = block.attention, block.mlp
    assert isinstance(attention, Attention)
    kv, branch = attention.n_kv_head * attention.d_head, block.branch
    turn = 1.0 if attention.scale is None else attention.scale * math.sqrt(attention.d_head)
    width, hidden = attention.out.out_features, mlp.down.in_features  # type: ignore[union-attr]
    heads = attention.n_head * attention.d_head
    own = [("self_attn.q_proj", heads), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)]
    return [
        ("attention.qkv", own, [turn, 1.0, 1.0]),
        ("attention.out", [("self_attn.o_proj", width)], [branch]),
        ("mlp.up", [("mlp.gate_proj", hidden), ("mlp.up_proj", hidden)], [1.0, 1.0]),
        ("mlp.down", [("mlp.down_proj", width)], [branch]),
    ]


def write_adapters(trained: Trained, out: Path) -> None:
    """Write the adapter folder; `trained` is left with the base's weights."""
    factors, rank = read_adapters(trained.folder)
    take_away(trained.model, factors, rank)
    tensors = hub_adapters(trained.model, factors)
    out.mkdir(parents=True, exist_ok=True)
    write_tensors(out / "adapter_model.safetensors", tensors, {"format": "pt"})
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": BASE,
        "r": rank,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted({n.split(".")[-3] for n in tensors}),
        "inference_mode": True,
    }
    write_json(out / "adapter_config.json", config)
