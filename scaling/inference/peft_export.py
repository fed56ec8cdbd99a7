"""A LoRA stage as a folder that `peft` loads: the adapters, and in a folder of it their base model.

The adapters name their base by a relative path, so that the whole folder may be moved. peft's own
loaders look for the base from the current folder (`cd DIR`); `PeftModel.from_pretrained` takes a
base that is already loaded.

Several layers of Llama are one fused matrix in our model. An adapter of a fused matrix becomes one
adapter for each layer: all get the first factor, each gets its rows of the second, multiplied by
the scale that scaling export puts into that layer's weights.
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

BASE = "base"  # the folder of the base model within that of the adapters
PREFIX = "base_model.model.model.layers"  # of the names of a layer's adapters in peft


def read_adapters(folder: Path) -> tuple[dict[str, Tensor], int]:
    """Return the adapters' factors by name and their rank; ValueError for a stage without them."""
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
def subtract_adapters(model: Transformer, factors: dict[str, Tensor], rank: int) -> None:
    """Subtract merged adapters from a model's weights: what remains is their base model."""
    for name in {n.rsplit(".", 1)[0] for n in factors}:
        update = factors[f"{name}.up"].double() @ factors[f"{name}.down"].double()
        weight = model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        weight.copy_(weight.double() - ALPHA / rank * update)


def hub_adapters(model: Transformer, factors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the factors under the names that peft gives them in Llama's layout."""
    tensors: dict[str, Tensor] = {}
    for i, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        for layer, names, scales in _layers(block):
            down, up = (factors[f"blocks.{i}.{layer}.{part}"] for part in ("down", "up"))
            rows = up.split([size for _, size in names])
            for (name, _), part, scale in zip(names, rows, scales, strict=True):
                tensors[f"{PREFIX}.{i}.{name}.lora_A.weight"] = down.clone()
                tensors[f"{PREFIX}.{i}.{name}.lora_B.weight"] = (part * scale).contiguous()
    return tensors


def _layers(block: Block) -> list[tuple[str, list[tuple[str, int]], list[float]]]:
    """Return for each of our adapted layers its name, Llama's layers and the scales put into them.

    Llama's layers are (name, rows) pairs, in the order of the fused matrix.
    """
    attention, mlp = block.attention, block.mlp
    assert isinstance(attention, Attention)
    kv, branch = attention.n_kv_head * attention.d_head, block.branch
    query_scale = 1.0 if attention.scale is None else attention.scale * math.sqrt(attention.d_head)
    width, hidden = attention.out.out_features, mlp.down.in_features  # type: ignore[union-attr]
    heads = attention.n_head * attention.d_head
    projections = [("self_attn.q_proj", heads), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)]
    return [
        ("attention.qkv", projections, [query_scale, 1.0, 1.0]),
        ("attention.out", [("self_attn.o_proj", width)], [branch]),
        ("mlp.up", [("mlp.gate_proj", hidden), ("mlp.up_proj", hidden)], [1.0, 1.0]),
        ("mlp.down", [("mlp.down_proj", width)], [branch]),
    ]


def write_adapters(trained: Trained, out: Path) -> None:
    """Write the adapter folder; `trained` then holds the weights of the base model."""
    factors, rank = read_adapters(trained.folder)
    subtract_adapters(trained.model, factors, rank)
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
