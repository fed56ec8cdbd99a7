"""A training step against two plain references at equal size, rung by rung, on one thread or a GPU.

    python benchmarks/train.py [--rungs m25k,m83k,...] [--rounds 5] [--seconds 2]
        [--precision fp32|bf16] [--vocab 512] [--context 128] [--rows N] [--compile]
    python benchmarks/train.py --device cuda     # m11m to m1080m, bf16, compiled, real shapes

- ours: the step of `scaling.train.step` (loss, backward, clipping, optimiser);
- llama: `transformers`' LlamaForCausalLM of the same shape, its own loss, AdamW, fused on a GPU
  (extra `bench`; left out, and said so, where the package is absent);
- gpt2: a loop as widely used: learned positions, LayerNorm, GELU, all logits, AdamW; its hidden
  layer is as wide as makes the parameters of the blocks equal.

All at the same vocabulary, batch, precision and threads, on real batches of the default corpus. The
contestants take turns within each round, so that a noisy machine hurts all alike; rates are
medians over rounds, ratios medians of the rounds' ratios. Achieved FLOP/s are the exact matmul
FLOPs of our step, attention counted without the causal discount. The peak is measured on products
beside each round; on a GPU the data sheet's is used too, and called MFU. With --compile all
contestants are compiled, before anything is timed. What does not fit in memory is said and left
out.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F

from scaling.config import (
    BudgetConfig,
    CellConfig,
    DataConfig,
    LogConfig,
    MachineConfig,
    ModelConfig,
    OptimConfig,
    TokenizerConfig,
)
from scaling.train.device import autocast, device_name, peak_flops, to_device
from scaling.train.step import Run, Setting, new_run, prepare, train_step

ROOT = Path(__file__).resolve().parent.parent
RUNGS = ("m25k", "m83k", "m230k", "m610k", "m2700k", "m11m")
GPU_RUNGS = {"m11m": 64, "m85m": 32, "m302m": 16, "m1080m": 8}  # rows of a step
GPU_VOCAB, GPU_CONTEXT = 32_768, 1024
REFERENCES = ("llama", "gpt2")
WARM_STEPS = 3

Step = Callable[[], None]


def cell(
    rung: str,
    device: str,
    *,
    precision: str = "fp32",
    vocab: int = 512,
    context: int = 128,
    rows: int = 0,
    compiled: bool = False,
) -> CellConfig:
    """Return a cell of the default corpus; the rule's batch unless rows are given."""
    return CellConfig(
        runs=str(ROOT / "runs"),
        data=DataConfig(context=context),
        model=ModelConfig(**OmegaConf.load(ROOT / f"conf/model/{rung}.yaml")),
        tokenizer=TokenizerConfig(vocab_size=vocab),
        optim=OptimConfig(batch_tokens=rows * context),
        budget=BudgetConfig(n_tokens=max(1e6, 1e3 * rows * context)),
        machine=MachineConfig(device=device, threads=1, precision=precision, compile=compiled),
        log=LogConfig(wandb="disabled"),
    )


class Block(nn.Module):
    """GPT-2's block (Radford et al. 2019)."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Add attention, then the MLP."""
        B, T, C = x.shape
        split = self.qkv(self.ln1(x)).split(C, dim=2)
        q, k, v = (a.view(B, T, self.heads, -1).transpose(1, 2) for a in split)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(B, T, C))
        return x + self.down(F.gelu(self.up(self.ln2(x))))


class GPT2(nn.Module):
    """A plain GPT-2: tied embedding, every logit materialised."""

    def __init__(self, config: ModelConfig, vocab: int, context: int) -> None:
        super().__init__()
        C = config.d_model
        hidden = round(1.5 * config.d_ff) if config.mlp == "swiglu" else config.d_ff
        self.tokens, self.positions = nn.Embedding(vocab, C), nn.Embedding(context, C)
        self.blocks = nn.ModuleList(Block(C, config.n_head, hidden) for _ in range(config.n_layer))
        self.norm, self.head = nn.LayerNorm(C), nn.Linear(C, vocab, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean cross-entropy."""
        h = self.tokens(x) + self.positions(torch.arange(x.shape[1], device=x.device))
        for block in self.blocks:
            h = block(h)
        logits = self.head(self.norm(h))
        return F.cross_entropy(logits.flatten(0, 1), y.flatten())


def llama(config: ModelConfig, vocab: int, context: int) -> nn.Module | None:
    """Return transformers' Llama of the same shape, None without the package."""
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError:
        return None
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab,
            hidden_size=config.d_model,
            intermediate_size=config.d_ff,
            num_hidden_layers=config.n_layer,
            num_attention_heads=config.n_head,
            num_key_value_heads=config.n_kv_head,
            head_dim=config.d_head,
            max_position_embeddings=context,
            tie_word_embeddings=config.tied,
            use_cache=False,
        )
    )


def compile_model(model: nn.Module, *, by_block: bool = False) -> None:
    """Compile a reference, in one or block by block: many layers in one take minutes to compile."""
    if not by_block:
        model.compile()
        return
    inner = getattr(model, "model", None)
    for block in model.blocks if inner is None else inner.layers:  # type: ignore[union-attr]
        block.compile()


def reference_step(
    model: nn.Module, loss_of: Callable[..., Tensor], setting: Setting, *, by_block: bool = False
) -> Step:
    """Return a plain step of a reference on the cell's batches."""
    device, precision = setting.device, setting.cell.machine.precision
    model.to(device).train()
    if setting.cell.machine.compile:
        compile_model(model, by_block=by_block)
    fused = device.type == "cuda"
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, fused=fused)
    count = 0

    def step() -> None:
        nonlocal count
        inputs, targets = setting.batches(count)
        x, y = (to_device(a, device) for a in (inputs, targets))
        with autocast(device, precision):
            loss = loss_of(model, x, y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        count += 1

    return step


def our_step(run: Run, setting: Setting) -> Step:
    """Return the trainer's own step."""

    def step() -> None:
        train_step(run, setting, 1.0)
        run.step += 1

    return step


def llama_step(setting: Setting, *, by_block: bool = False) -> Step | None:
    """Return the step of transformers' Llama, None without the package."""
    shape = setting.resolved.shape
    other = llama(setting.cell.model, shape.vocab_size, shape.context)
    if other is None:
        return None
    loss = lambda m, x, y: m(input_ids=x, labels=x).loss  # noqa: E731
    return reference_step(other, loss, setting, by_block=by_block)


def gpt2_step(setting: Setting, *, by_block: bool = False) -> Step:
    """Return the step of the plain loop."""
    shape = setting.resolved.shape
    gpt2 = GPT2(setting.cell.model, shape.vocab_size, shape.context)
    return reference_step(gpt2, lambda m, x, y: m(x, y), setting, by_block=by_block)


def contestants(setting: Setting) -> dict[str, Step]:
    """Return the steps to compare."""
    steps = {"ours": our_step(new_run(setting), setting)}
    other = llama_step(setting)
    if other is not None:
        steps["llama"] = other
    steps["gpt2"] = gpt2_step(setting)
    return steps


def speed(step: Step, tokens: int, seconds: float, device: torch.device) -> float:
    """Step for a while; return tokens per second."""
    for _ in range(WARM_STEPS):
        step()
    finish(device)
    steps, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        step()
        steps += 1
    finish(device)
    return steps * tokens / (time.perf_counter() - began)


def finish(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def parse() -> argparse.Namespace:
    """Read the command line; a GPU has other defaults."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rungs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", choices=("fp32", "bf16"))
    parser.add_argument("--vocab", type=int)
    parser.add_argument("--context", type=int)
    parser.add_argument("--rows", type=int, default=0, help="of a step; default: the rule's batch")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction)
    options = parser.parse_args()
    gpu = options.device == "cuda"
    defaults = {
        "rungs": ",".join(GPU_RUNGS if gpu else RUNGS),
        "precision": "bf16" if gpu else "fp32",
        "vocab": GPU_VOCAB if gpu else 512,
        "context": GPU_CONTEXT if gpu else 128,
        "compile": gpu,
    }
    for key, value in defaults.items():
        if getattr(options, key) is None:
            setattr(options, key, value)
    return options


def product_peak(device: torch.device, precision: str) -> float:
    """Return the FLOP/s of square products, as the CPU's peak is measured; in bf16 on a GPU."""
    if device.type == "cpu":
        peak_flops.cache_clear()
        return peak_flops(device, 1, precision) or math.nan
    n, kind = 8192, torch.bfloat16 if precision == "bf16" else torch.float32
    a = torch.randn(n, n, dtype=kind, device=device)
    for timed in (False, True):
        finish(device)
        began = time.perf_counter()
        for _ in range(20):
            torch.mm(a, a)
        finish(device)
        if timed:
            return 20 * 2 * n**3 / (time.perf_counter() - began)
    raise AssertionError


def race(setting: Setting, options: argparse.Namespace) -> tuple[dict[str, list[float]], float]:
    """Let the contestants take turns; return tokens/s of each round and the median peak."""
    steps, peaks = contestants(setting), []
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.rounds):
        for name, step in steps.items():
            try:
                tokens = setting.resolved.batch_tokens
                rates[name].append(speed(step, tokens, options.seconds, setting.device))
            except torch.OutOfMemoryError:
                print(f"{name} does not fit in memory; lower --rows", flush=True)
                torch.cuda.empty_cache()
        peaks.append(product_peak(setting.device, options.precision))
    return {k: v for k, v in rates.items() if len(v) == options.rounds}, statistics.median(peaks)


def main() -> None:
    """Print a line a rung, then the geometric means of the ratios."""
    options = parse()
    sheet = peak_flops(torch.device("cuda"), 1) if options.device == "cuda" else None
    print(
        f"{'rung':8}{'non-emb. N':>14}{'batch':>8}{'tokens/s':>11}{'GFLOP/s':>10}{'of peak':>9}"
        + (f"{'MFU':>7}" if sheet else "")
        + "".join(f"{'/ ' + name:>9}" for name in REFERENCES)
    )
    ratios: dict[str, list[float]] = {name: [] for name in REFERENCES}
    for rung in options.rungs.split(","):
        rows = options.rows or (GPU_RUNGS.get(rung, 16) if options.device == "cuda" else 0)
        chosen = cell(
            rung,
            options.device,
            precision=options.precision,
            vocab=options.vocab,
            context=options.context,
            rows=rows,
            compiled=options.compile,
        )
        setting = prepare(chosen, lambda flops: None)
        r = setting.resolved
        rates, peak = race(setting, options)
        if "ours" not in rates:
            continue
        flops = statistics.median(rates["ours"]) * r.shape.flops_per_token
        line = (
            f"{rung:8}{r.shape.params.non_embedding:14,}{r.batch_tokens:8}"
            f"{statistics.median(rates['ours']):11,.0f}{flops / 1e9:10.1f}{flops / peak:9.0%}"
            + (f"{flops / sheet:7.0%}" if sheet else "")
        )
        for name in REFERENCES:
            if name not in rates:
                line += f"{'absent':>9}"
                continue
            each = [a / b for a, b in zip(rates["ours"], rates[name], strict=True)]
            ratios[name].append(statistics.median(each))
            line += f"{ratios[name][-1]:9.2f}"
        print(line, flush=True)
    for name, found in ratios.items():
        if found:
            print(f"geometric mean over {name}: {statistics.geometric_mean(found):.2f}")
    width = 8192 if options.device == "cuda" else 512
    print(
        f"{device_name(torch.device(options.device))}, {options.precision}, vocabulary "
        f"{options.vocab}, context {options.context}{', compiled' if options.compile else ''}; "
        f"peak: {width}-wide products, as many threads; attention in full"
    )


if __name__ == "__main__":
    main()
