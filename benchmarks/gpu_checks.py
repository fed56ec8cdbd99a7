"""The checks of benchmarks/gpu.py: each of a device's ways against a plain one, on tiny models.

Tolerances are relative unless said otherwise; on a CPU all runs repeat to the last bit. The corpus
is a few hundred documented functions, made here.
"""

import math
import multiprocessing
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu import Job
from stack import stack_requests
from torch import Tensor, distributed, nn
from train import product_peak

from scaling.budget import resolve
from scaling.config import (
    BudgetConfig,
    CellConfig,
    DataConfig,
    EvalConfig,
    FinalConfig,
    LogConfig,
    MachineConfig,
    ModelConfig,
    OptimConfig,
    PpoPlan,
    PretrainPlan,
    RewardPlan,
    SftPlan,
    TokenizerConfig,
)
from scaling.data.tokens import open_corpus
from scaling.final import run_final
from scaling.inference.generate import generate
from scaling.inference.likelihood import log_likelihoods
from scaling.model.lora import add_lora, merge_lora
from scaling.model.mlp import activate
from scaling.model.moe import MoE, padded_linear
from scaling.model.transformer import Transformer
from scaling.schema import Record, read_curve, read_json
from scaling.stacked.runs import StackedRuns
from scaling.study.lease import Pulse, Stopped
from scaling.study.places import cell_folder
from scaling.train import heldout
from scaling.train import step as stepping
from scaling.train.device import device_name, peak_flops, pick_device
from scaling.train.ranks import World
from scaling.train.step import new_run, prepare, train_step
from scaling.train.trunk import train_trunk

FP32 = 1e-4  # of losses in fp32, whose sums a GPU orders otherwise from run to run
BF16 = 5e-3  # of losses in bf16, which has 8 bits
PRODUCTS = 1e-5  # of one product or loss in fp32
PEAKS = 0.05  # of peak memory, beside what the allocator rounds up
NAMES = ("name", "size", "path", "mode", "value", "count", "owner", "state", "parent", "label")
VERBS = ("get", "read", "find", "show", "load", "check", "count", "fetch")


def text_folder(job: Job) -> Path:
    """Write the corpus, once for all parts; return its folder."""
    root = job.folder / "text"
    if root.is_dir():
        return root
    for part, verbs in (("train", VERBS), ("test", ("open", "close"))):
        (root / part).mkdir(parents=True, exist_ok=True)
        for verb in verbs:
            bodies = [
                f'def {verb}_{name}(self, key):\n    """{verb.title()} the {name}."""\n'
                f"    found = self.{name}[key]\n    return found\n\n\n"
                for name in NAMES
            ]
            (root / part / f"{verb}.py").write_text("".join(bodies))
    return root


def small_cell(job: Job, runs: str, **changes: Any) -> CellConfig:
    """Return a cell that trains in a second or two, with files in a folder of the part's."""
    root = text_folder(job)
    machine = {"device": job.device, "cache": str(job.folder / "cache")}
    shape = {"n_layer": 1, "d_model": 16, "d_head": 8}
    if not job.tiny:
        shape = {"n_layer": 4, "d_model": 128, "d_head": 64}
    given: dict[str, Any] = {
        "study": "check",
        "runs": str(job.folder / job.part / runs),
        "model": ModelConfig(**(shape | changes.pop("model", {}))),
        "data": DataConfig(
            source="files", train=[str(root / "train")], test=[str(root / "test")], context=96
        ),
        "tokenizer": TokenizerConfig(vocab_size=320),
        "optim": OptimConfig(batch_tokens=8 * 96, **changes.pop("optim", {})),
        "budget": BudgetConfig(n_tokens=(12 if job.tiny else 60) * 8 * 96),
        "eval": EvalConfig(test_tokens=960, curve_tokens=192),
        "machine": MachineConfig(**(machine | changes.pop("machine", {}))),
        "log": LogConfig(wandb="disabled", every_seconds=1e9),
    }
    return CellConfig(**(given | changes))


def apart(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the largest relative difference of two rows of numbers."""
    return max(abs(x / y - 1) for x, y in zip(a, b, strict=True))


def losses(cell: CellConfig, record: Record) -> list[float]:
    """Return the losses of a cell's curve, and its test loss."""
    rows = read_curve(cell_folder(cell) / "metrics.jsonl")
    return [*(r["train_loss"] for r in rows if "train_loss" in r), record.test_loss or math.nan]


def far(out: Tensor, wanted: Tensor) -> float:
    """Return |out - wanted| / |wanted|."""
    out, wanted = out.double(), wanted.double()
    return float((out - wanted).norm() / wanted.norm())


def device(job: Job) -> None:
    """Say what the device is, and the peak that all utilisations are of (scaling.train.device)."""
    chosen = pick_device(MachineConfig(device=job.device))
    sheet = peak_flops(chosen, 1)
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}"
    job.row("device", "ok", f"{device_name(chosen)}; {versions}")
    if sheet is None:
        job.row(
            "peak", "failed", f"no peak is known of {device_name(chosen)}: scaling.schema.devices"
        )
        return
    kind = "data sheet, dense bf16" if job.device == "cuda" else "measured, fp32"
    job.row("peak", "ok", f"{sheet:.4g} FLOP/s ({kind})", flops_per_second=sheet)
    if job.device == "cuda":
        found = product_peak(chosen, "bf16")
        job.row("products", "ok", f"8192 wide, bf16: {found:.4g} FLOP/s", flops_per_second=found)
        free, total = torch.cuda.mem_get_info()
        job.row("memory", "ok", f"{free / 2**30:.0f} of {total / 2**30:.0f} GiB free")


def broken(cell: CellConfig, **options: Any) -> Record:
    """Train a cell that is stopped halfway, and then goes on from its checkpoint."""
    pulse, half = Pulse(), resolve(cell).flops / 2

    def report(flops: float) -> None:
        pulse.stop = "stopped" if flops > half else ""

    stopped = False
    try:
        train_trunk([cell], report=report, pulse=pulse, **options)
    except Stopped:
        stopped = True
    assert stopped, "the cell ended before it was stopped"
    return train_trunk([cell], **options)[0]


RESUMED = {
    "deterministic": ({"deterministic": True}, {}, 0.0),
    "fp32": ({}, {}, FP32),
    "bf16": ({"precision": "bf16"}, {}, BF16),
    "muon": ({}, {"name": "muon"}, FP32),
}


def resume(job: Job) -> None:
    """A run that was stopped and resumed against one that was not."""
    for name, (machine, optim, tolerance) in RESUMED.items():
        with job.trying(name):
            cells = [
                small_cell(job, f"{name}-{way}", machine=machine, optim=optim)
                for way in ("whole", "broken")
            ]
            whole = losses(cells[0], train_trunk([cells[0]])[0])
            again = losses(cells[1], broken(cells[1]))
            allowed = tolerance if job.device == "cuda" else 0.0
            job.check(name, apart(again, whole), allowed, "losses, resumed against unbroken")


def branches(job: Job) -> None:
    """Branches of a trunk against cells alone, and the memory that they take beside them."""
    longer = small_cell(job, "trunk")
    shorter = replace(longer, budget=BudgetConfig(n_tokens=0.6 * (longer.budget.n_tokens or 0)))
    both = [shorter, longer]
    together = train_trunk(both)
    alone = [
        train_trunk([replace(cell, runs=str(job.folder / "branches" / f"alone-{i}"))])[0]
        for i, cell in enumerate(both)
    ]
    found, wanted = ([r.test_loss or math.nan for r in side] for side in (together, alone))
    tolerance = FP32 if job.device == "cuda" else 0.0
    job.check("losses", apart(found, wanted), tolerance, "branches against cells alone")
    if job.device == "cuda":
        peaks = [max(r.peak_memory_bytes for r in side) for side in (together, alone)]
        job.check("memory", peaks[0] / peaks[1] - 1, PEAKS, "peak beyond that of a cell alone")


def rank(job: Job, number: int, runs: str) -> None:
    """Be one of two ranks that share the one device: gloo, which is where NCCL refuses."""
    torch.set_num_threads(1)
    meeting = f"file://{job.folder / job.part / 'meeting'}"
    distributed.init_process_group("gloo", init_method=meeting, rank=number, world_size=2)
    cell = small_cell(job, runs, model={"norm": "layernorm"})
    own = cell_folder(cell) if number == 0 else job.folder / job.part / f"rank-{number}"
    broken(cell, folders=[own], world=World(rank=number, size=2))
    distributed.destroy_process_group()


def ranks(job: Job) -> None:
    """Two ranks on one device, stopped and resumed, against one process."""
    (job.folder / job.part).mkdir(exist_ok=True)
    open_corpus(small_cell(job, "one"))  # once for both
    context = multiprocessing.get_context("fork")  # before this process uses the GPU
    both = [context.Process(target=rank, args=(job, n, "two")) for n in range(2)]
    for process in both:
        process.start()
    while any(p.exitcode is None for p in both) and not any(p.exitcode for p in both):
        time.sleep(0.05)
    if codes := [p.exitcode for p in both if p.exitcode]:
        raise RuntimeError(f"a rank ended with {codes[0]}")  # the part's end takes the other along
    one, two = (small_cell(job, n, model={"norm": "layernorm"}) for n in ("one", "two"))
    wanted = losses(one, train_trunk([one])[0])
    found = losses(two, Record.from_dict(read_json(cell_folder(two) / "record.json")))
    job.check("two ranks", apart(found, wanted), FP32, "losses, two resumed ranks against one")


def stacked(job: Job) -> None:
    """Cells trained as one stack against the same cells alone."""
    setting = prepare(small_cell(job, "stack"), lambda flops: None)
    size, steps = (2, 5) if job.tiny else (8, 20)
    requests = stack_requests(setting, size)
    stack = StackedRuns(requests)
    for _ in range(steps):
        with torch.no_grad():
            stack.step(requests)
        for request in requests:
            request.run.step += 1
    found, wanted = [], []
    for request in requests:
        found.append(heldout.evaluate(request.run.model, setting.test).loss)
        run = new_run(replace(request.setting, stacked=True))
        for _ in range(steps):
            train_step(run, request.setting, 1.0)
            run.step += 1
        wanted.append(heldout.evaluate(run.model, setting.test).loss)
    job.check(
        "stack", apart(found, wanted), FP32, f"test losses of {size} cells after {steps} steps"
    )


def looped(layer: MoE, x: Tensor) -> Tensor:
    """Return what experts give, an expert at a time."""
    weights, chosen = layer.route(x)
    out = torch.zeros_like(x)
    for expert in range(len(layer.up)):
        rows, slot = (chosen == expert).nonzero(as_tuple=True)
        inner = activate(x[rows] @ layer.up[expert].T, gated=layer.gated)
        y = (inner @ layer.down[expert].T) * weights[rows, slot, None].to(x.dtype)
        out = out.index_add(0, rows, y.to(out.dtype))
    return out


def experts(job: Job) -> None:
    """Grouped experts against the loop over them, outputs and gradients."""
    place = torch.device(job.device)
    width = 64 if job.tiny else 256
    torch.manual_seed(0)
    layer = MoE(ModelConfig(d_model=width, d_head=32, n_experts=8, top_k=2)).to(place)
    for weight in layer.parameters():
        nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
    x = torch.randn(512, width, device=place)
    wanted = looped(layer, x)
    wanted.square().mean().backward()
    gradients = [w.grad.clone() for w in layer.parameters() if w.grad is not None]
    for kind, tolerance in (("fp32", PRODUCTS), ("bf16", 2e-2)):
        with job.trying(kind):
            layer.zero_grad(set_to_none=True)
            with torch.autocast(place.type, torch.bfloat16, enabled=kind == "bf16"):
                out = layer(x)
            out.float().square().mean().backward()
            own = [w.grad for w in layer.parameters() if w.grad is not None]
            job.check(f"{kind} outputs", far(out, wanted), tolerance, "grouped against the loop")
            worst = max(far(a, b) for a, b in zip(own, gradients, strict=True))
            job.check(f"{kind} gradients", worst, 2 * tolerance, "grouped against the loop")
    counts = torch.tensor([0, 300, 12, 200], device=place)
    matrices = torch.randn(4, 48, width, device=place)
    runs = zip(x.split(counts.tolist()), matrices, strict=True)
    wanted = torch.cat([rows @ matrix.T for rows, matrix in runs])
    job.check("padded", far(padded_linear(x, matrices, counts), wanted), PRODUCTS, "batch of runs")


def qlora(job: Job) -> None:
    """A layer in 4 bits on the device against the CPU, its gradient, and what merging gives."""
    shape = ModelConfig(n_layer=2, d_model=128, d_head=32)
    tokens = torch.arange(64).view(2, 32)
    sides = []
    for place in ("cpu", job.device):
        torch.manual_seed(0)
        model = Transformer(shape, vocab_size=96, context=32)
        add_lora(model, rank=4, four_bits=True)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith(".up"):
                    nn.init.normal_(weight, std=0.01)
        model.to(place)
        loss = model.loss(tokens.to(place), tokens.to(place))
        loss.backward()
        gradient = torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None])
        merge_lora(model)
        with torch.no_grad():
            after = model.loss(tokens.to(place), tokens.to(place))
        sides.append((loss.detach().cpu(), gradient.cpu(), after.cpu()))
    for what, mine, cpus in zip(("loss", "gradient", "merged"), sides[1], sides[0], strict=True):
        job.check(what, far(mine, cpus), 10 * PRODUCTS, f"on {job.device} against a CPU")
    job.check("merging", far(sides[1][2], sides[1][0]), 10 * PRODUCTS, "merged against adapted")


def evaluation(job: Job) -> None:
    """Test loss, likelihoods and greedy completions on the device against the CPU."""
    setting = prepare(small_cell(job, "eval"), lambda flops: None)
    run = new_run(setting)
    for _ in range(10):
        train_step(run, setting, 1.0)
        run.step += 1
    asked = [("def get_name(self, key):", "\n    return"), ("def show", "_size(self")]
    prompts = [setting.corpus.tokenizer.encode(p).ids for p, _ in asked]
    found = []
    for place in (job.device, "cpu"):
        run.model.to(place)
        score = heldout.evaluate(run.model, setting.test).loss
        said = log_likelihoods(run.model, setting.corpus.tokenizer, asked)
        samples = generate(run.model, prompts, max_new_tokens=12, temperature=0)
        drawn = generate(run.model, prompts * 4, max_new_tokens=12, seed=1)
        found.append((score, said.nats.tolist(), samples.completions, drawn.completions))
    mine, cpus = found
    job.check("test loss", apart(mine[:1], cpus[:1]), PRODUCTS, f"{job.device} against a CPU")
    job.check("likelihoods", apart(mine[1], cpus[1]), FP32, f"{job.device} against a CPU")
    for what, ours, theirs in zip(("greedy", "drawn"), mine[2:], cpus[2:], strict=True):
        unlike = sum(a != b for a, b in zip(ours, theirs, strict=True)) / len(theirs)
        job.check(what, unlike, 0.25, "share of completions unlike the CPU's (not relative)")
    pick_device(MachineConfig(device=job.device, deterministic=True))
    with job.trying("deterministic draws"):
        run.model.to(job.device)
        again = generate(run.model, prompts * 4, max_new_tokens=12, seed=1).completions
        unlike = sum(a != b for a, b in zip(again, mine[3], strict=True)) / len(again)
        job.check("deterministic draws", unlike, 0.0, "share unlike those drawn without")


def memory(job: Job) -> None:
    """A step that does not fit names the micro-batch that does, and that one trains."""
    rows = 8 if job.tiny else 512
    cell = small_cell(job, "memory", machine={"activation_checkpointing": job.device == "cpu"})
    cell = replace(cell, optim=OptimConfig(batch_tokens=rows * 96))
    cell.budget.n_tokens = 10 * rows * 96
    setting = prepare(cell, lambda flops: None)

    def started(setting: stepping.Setting) -> stepping.Run:
        run = new_run(setting)
        if job.device == "cpu":  # which has memory for all: an error stands for the lack of it
            whole = run.model.loss
            run.model.loss = partial(limited, whole, rows // 3)  # type: ignore[method-assign]
        return run

    if job.device == "cuda":
        run = started(setting)
        train_step(run, replace(setting, cell=with_micro(cell, rows // 8)), 1.0)
        held = torch.cuda.max_memory_allocated()
        del run
        torch.cuda.empty_cache()
        total = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(2.5 * held / total)
    run = started(setting)
    try:
        stepping.step_or_advise(run, setting, 1.0)
    except RuntimeError as error:
        said = str(error)
    else:
        job.row("advice", "failed", "the step fitted, although its memory was bounded")
        return
    fitting = re.search(r"machine\.micro_batch=(\d+) fits", said)
    if fitting is None:
        job.row("advice", "failed", said)
        return
    del run
    run = started(setting)
    fewer = replace(setting, cell=with_micro(cell, int(fitting[1])))
    taken = [stepping.step_or_advise(run, fewer, 1.0)[0] for _ in range(2)]
    status = "ok" if all(map(math.isfinite, taken)) else "failed"
    job.row("advice", status, f"{said}; two such steps: loss {taken[-1]:.3f}")


def with_micro(cell: CellConfig, rows: int) -> CellConfig:
    """Return a cell whose forward pass takes some rows."""
    return replace(cell, machine=replace(cell.machine, micro_batch=rows))


def limited(loss: Callable[..., Tensor], most: int, x: Tensor, y: Tensor) -> Tensor:
    """Return a loss; the error of a full device where there are more rows than the `most`."""
    if len(x) > most:
        raise torch.OutOfMemoryError("CUDA out of memory.")
    return loss(x, y)


def plan_of(job: Job, runs: str, place: str) -> FinalConfig:
    """Return a plan of seconds on the corpus."""
    cell = small_cell(job, runs)
    n = 1 if job.tiny else 4
    found = FinalConfig(
        study="check",
        runs=cell.runs,
        pretrain=PretrainPlan(
            tokens=768 * 10 * n, model=cell.model, context=96, peak_lr=0.01, batch_tokens=768
        ),
        sft=SftPlan(examples=32 * n, epochs=1, batch_examples=8, peak_lr=0.01, lora_rank=4),
        reward=RewardPlan(pairs=48, batch_pairs=12, samples_per_prompt=3, peak_lr=0.002),
        ppo=PpoPlan(
            episodes=16 * n,
            batch_episodes=8,
            minibatch_episodes=4,
            inner_epochs=2,
            peak_lr=0.002,
            max_new_tokens=12,
        ),
        cell=asdict(cell),
        force=True,
        log=cell.log,
        machine=replace(cell.machine, device=place),
    )
    return found


def stages(job: Job) -> None:
    """Pretraining and every later stage, by the command's own function; sft against a CPU's."""
    methods = {
        "pretrain": "",
        "lora": "lora",
        "qlora": "qlora",
        "sft": "full",
        "reward": "",
        "ppo": "",
    }
    plan, found = plan_of(job, "device", job.device), {}
    for name, method in methods.items():
        with job.trying(name):
            stage = "sft" if method else name
            config = replace(plan, stages=stage)
            if method:
                config = replace(config, sft=replace(plan.sft, method=method))
            (record,) = run_final(config)
            found[name] = record
            job.row(name, "ok" if record.status == "done" else "failed", told(record))
    if job.device == "cpu" or "sft" not in found:
        return
    with job.trying("sft on a CPU"):
        other = plan_of(job, "cpu", "cpu")
        source, target = (Path(p.runs) / "check" / "final" / "pretrain" for p in (plan, other))
        shutil.copytree(source, target)
        (record,) = run_final(replace(other, stages="sft"))
        pair = [[r.test_loss or math.nan] for r in (found["sft"], record)]
        job.check("sft on a CPU", apart(*pair), 1e-2, "test loss on the GPU against it")


def told(record: Record) -> str:
    """Return the figures of a stage's record."""
    wanted = (
        "test_loss_before", "accuracy", "reward_before", "reward_after", "kl",
        "sampling_tokens_per_second", "frozen_bytes",
    )  # fmt: skip
    values = {k: record.metrics[k] for k in wanted if k in record.metrics}
    if record.test_loss is not None:
        values = {"test_loss": record.test_loss, **values}
    said = ", ".join(f"{k} {v:.4g}" for k, v in values.items())
    return f"{record.status}: {said}, {record.seconds:.1f} s{record.error or ''}"


def compiled(job: Job) -> None:
    """Compiled blocks against blocks as they are, losses on the way and at the end."""
    if job.device == "cpu":
        job.row("compiled", "skipped", "a CPU's compiler takes half a minute; for GPUs")
        return
    found = []
    for wanted in (True, False):
        machine = {"compile": wanted, "precision": "bf16"}
        cell = small_cell(job, str(wanted), machine=machine)
        found.append(losses(cell, train_trunk([cell])[0]))
    job.check("bf16", apart(*found), BF16, "losses, compiled against not")


Work = Callable[[Job], None]
PARTS: tuple[tuple[str, Work, float, float], ...] = (  # name, work, seconds, least
    ("device", device, 30, 5),
    ("resume", resume, 40, 8),
    ("branches", branches, 25, 8),
    ("ranks", ranks, 40, 10),
    ("stack", stacked, 25, 8),
    ("experts", experts, 20, 8),
    ("qlora", qlora, 20, 8),
    ("evaluation", evaluation, 20, 8),
    ("memory", memory, 25, 8),
    ("stages", stages, 60, 15),
)
