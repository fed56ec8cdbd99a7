"""The timings of benchmarks/gpu.py: a training step beside two references, and small cells.

Batches are random tokens, at a vocabulary of 50304 and a context of 1024: no corpus is needed. The
contestants take turns, each waiting for the device at the end of its turn; rates are medians over
rounds, ratios medians of the rounds' ratios. Utilisation is of the data sheet's dense bf16 peak
(scaling.schema.devices), with the exact FLOPs of our step, attention without a causal
discount.
"""

import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from gpu import Job, absent
from gpu_checks import compiled
from stack import stacked_step
from torch import Tensor, nn
from train import GPU_RUNGS, cell, finish, gpt2_step, llama_step, our_step, speed

from scaling.budget import resolve
from scaling.config import CellConfig
from scaling.data.batches import Batches
from scaling.schema import now
from scaling.study.lease import Pulse
from scaling.train.device import count_memory_anew, peak_flops, peak_memory, pick_device, to_device
from scaling.train.forecast_band import ForecastBand
from scaling.train.step import Setting, accept, gradient, new_run

VOCAB, CONTEXT = 50_304, 1024  # GPT-2's, rounded up to a multiple of 128
SMALL = ("m25k", "m83k", "m230k", "m610k", "m2m")
# Rungs whose plain loop is compiled block by block: in one piece 24 layers take over a minute.
# Llama always is: its masks are made in Python, where the compiler would stop and start again.
BY_BLOCK = ("m302m", "m1080m")
STACKED, PROCESSES = 16, 4
TOKENS = 1 << 22  # of the corpus
Step = Callable[[], None]


def random_setting(chosen: CellConfig) -> Setting:
    """Return what a step of a cell needs, on a corpus of random tokens and without a test set."""
    resolved = resolve(chosen)
    drawn = np.random.default_rng(0).integers(resolved.shape.vocab_size, size=TOKENS)
    corpus: Any = SimpleNamespace(train=drawn.astype(np.uint16))
    return Setting(
        cell=chosen,
        device=pick_device(chosen.machine),
        batches=Batches.of(corpus, chosen.data, rows=resolved.rows, seed=0),
        test=None,  # type: ignore[arg-type]
        corpus=corpus,
        report=lambda flops: None,
        pulse=Pulse(),
        started=now(),
        resolved=resolved,
        band=ForecastBand(),
    )


def large_cell(job: Job, rung: str) -> CellConfig:
    """Return the cell of a size; in tiny, one of the same kind on a CPU."""
    if job.tiny:
        return cell("m2k", job.device, vocab=300, context=32, rows=4)
    return cell(
        rung,
        job.device,
        precision="bf16",
        vocab=VOCAB,
        context=CONTEXT,
        rows=GPU_RUNGS[rung],
        compiled=job.device == "cuda",
    )


def size(rung: str) -> Callable[[Job], None]:
    """Return the part that times a size."""

    def part(job: Job) -> None:
        race(job, random_setting(large_cell(job, rung)), by_block=rung in BY_BLOCK)

    return part


@dataclass
class Contestant:
    """A step, the seconds until its first was taken, its peak memory, tokens/s of each turn."""

    step: Step
    ready_seconds: float
    peak_bytes: int
    rates: list[float] = field(default_factory=list)

    @classmethod
    def made(cls, make: Callable[[], Step], setting: Setting) -> "Contestant":
        """Make a step, its weights drawn on the device, and take it once, which compiles it."""
        began, held = time.monotonic(), 0
        count_memory_anew(setting.device)
        if setting.device.type == "cuda":  # what the contestants before it hold
            held = torch.cuda.memory_allocated()
        with torch.device(setting.device):
            step = make()
        step()
        finish(setting.device)
        ready = time.monotonic() - began
        return cls(step=step, ready_seconds=ready, peak_bytes=peak_memory(setting.device) - held)

    def turn(self, setting: Setting, seconds: float) -> None:
        """Step for a while."""
        tokens = setting.resolved.batch_tokens
        self.rates.append(speed(self.step, tokens, seconds, setting.device))


OURS, LOOP, LLAMA = "ours", "nanoGPT-style loop", "Llama of transformers"


def race(job: Job, setting: Setting, *, by_block: bool) -> None:
    """Time ours, then ours and the references in turns, as far as the part's time goes."""
    makers: dict[str, Callable[[], Step]] = {
        OURS: lambda: our_step(new_run(setting), setting),
        LOOP: lambda: gpt2_step(setting, by_block=by_block),
    }
    if job.tiny or absent({"transformers": "transformers"}):
        job.row(LLAMA, "skipped", "left out by --tiny" if job.tiny else "transformers is absent")
    else:
        makers[LLAMA] = lambda: llama_step(setting, by_block=True)  # type: ignore[assignment,return-value]
    seconds, needed = (0.02 if job.tiny else 1.0), 0.0
    there: dict[str, Contestant] = {}
    for name, make in makers.items():
        if job.left < needed + 6 * seconds:
            job.row(name, "skipped", f"{job.left:.0f} s left to compile it and to time it")
            continue
        with job.trying(name):
            there[name] = found = Contestant.made(make, setting)
            found.turn(setting, seconds)
            needed = found.ready_seconds  # the next compiles for about as long
            tell(job, setting, name, found)
    for _ in range(1 if job.tiny else 3):
        if job.left < (seconds + 1) * (len(there) + 1):
            break
        for found in there.values():
            found.turn(setting, seconds)
    for name, found in there.items():
        tell(job, setting, name, found, beside=there.get(OURS))


def tell(
    job: Job, setting: Setting, name: str, found: Contestant, *, beside: Contestant | None = None
) -> None:
    """Write a contestant's row: rate, utilisation, memory, and ours over it."""
    shape, rate = setting.resolved.shape, statistics.median(found.rates)
    peak = peak_flops(setting.device, 1) or math.nan
    utilisation = rate * shape.flops_per_token / peak
    numbers = {
        "tokens_per_second": rate,
        "mfu": utilisation,
        "rounds": len(found.rates),
        "ready_seconds": found.ready_seconds,
        "peak_bytes": found.peak_bytes,
    }
    text = (
        f"{rate:,.0f} tokens/s, {utilisation:.1%} of the peak, {found.peak_bytes / 2**30:.1f} GiB, "
        f"ready after {found.ready_seconds:.0f} s"
    )
    if name == OURS:
        rows = setting.resolved.rows
        text += f"; {shape.params.total:,} parameters, {rows} rows of {shape.context}"
    elif beside is not None:
        turns = range(-min(len(found.rates), len(beside.rates)), 0)
        ratio = statistics.median(beside.rates[i] / found.rates[i] for i in turns)
        text, numbers["ours_over_it"] = f"{text}; ours is {ratio:.2f} times as fast", ratio
    job.row(name, "ok", text, **numbers)


def small_setting(job: Job, rung: str) -> Setting:
    """Return the setting of a small cell at the rule's batch, as a study of small models has it."""
    if job.tiny:
        return random_setting(cell("m2k", job.device, vocab=300, context=32))
    return random_setting(cell(rung, job.device))


def small(job: Job) -> None:
    """Small cells: one after the other, the gradient as a CUDA graph, and a stack of them."""
    seconds = 0.02 if job.tiny else 0.7
    for rung in SMALL[:1] if job.tiny else SMALL:
        with job.trying(rung):
            setting = small_setting(job, rung)
            tokens, device = setting.resolved.batch_tokens, setting.device
            alone = speed(our_step(new_run(setting), setting), tokens, seconds, device)
            text, numbers = f"{alone:,.0f} tokens/s alone", {"alone": alone}
            if device.type == "cuda":
                graph = speed(graphed_step(setting), tokens, seconds, device)
                numbers["graph"] = graph
                text += f"; {graph / alone:.2f} times that with the gradient as a CUDA graph"
            job.row(rung, "ok", text, **numbers)  # should a stack not fit
            count = 2 if job.tiny else STACKED
            stack = speed(stacked_step(setting, count), count * tokens, seconds, device)
            numbers["stack"] = stack
            job.row(
                rung, "ok", f"{text}; {stack / alone:.2f} times as a stack of {count}", **numbers
            )


def graphed_step(setting: Setting) -> Step:
    """Return a step whose loss, gradient and clipping are one CUDA graph.

    `scaling` has none: this says what one would bring.
    """
    run = new_run(setting)
    x, y = (torch.from_numpy(part).to(setting.device) for part in setting.batches(0))

    def compute() -> Tensor:
        loss = gradient(run, setting, x, y)
        norm = nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
        return torch.stack([loss, norm])

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            compute()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = compute()

    def step() -> None:
        for place, part in zip((x, y), setting.batches(run.step), strict=True):
            place.copy_(to_device(part, setting.device))
        graph.replay()
        loss, norm = found.tolist()
        if accept(run, setting.cell.optim, loss, norm):
            run.optimizer.step()
        run.step += 1

    return step


def alongside(job: Job, rung: str, ready: Any, rates: Any) -> None:
    """Be one of several processes that train on the device at once."""
    torch.set_num_threads(1)
    setting = small_setting(job, rung)
    step = our_step(new_run(setting), setting)
    step()
    finish(setting.device)
    ready.wait()
    seconds = 0.05 if job.tiny else 2.0
    rates.put(speed(step, setting.resolved.batch_tokens, seconds, setting.device))


def processes(job: Job) -> None:
    """Several processes on the device at once, the sum of their rates over that of one."""
    context = multiprocessing.get_context("fork")  # this process itself never uses the GPU
    for rung in SMALL[:1] if job.tiny else ("m25k", "m610k"):
        sums = {}
        for count in (1, 2 if job.tiny else PROCESSES):
            ready, rates = context.Barrier(count), context.Queue()
            started = [
                context.Process(target=alongside, args=(job, rung, ready, rates))
                for _ in range(count)
            ]
            for process in started:
                process.start()
            sums[count] = sum(arriving(rates, started))
        one, most = sums[1], max(sums)
        text = f"{one:,.0f} tokens/s by one; {sums[most] / one:.2f} times that by {most} at once"
        job.row(rung, "ok", text, one=one, together=sums[most], count=most)


def arriving(rates: Any, started: Sequence[Any]) -> Iterator[float]:
    """Yield the rate of each process; RuntimeError where one ends without."""
    for _ in started:
        while rates.empty():
            if failed := [p.exitcode for p in started if p.exitcode]:
                raise RuntimeError(f"a process beside others ended with {failed[0]}")
            time.sleep(0.02)
        yield rates.get()


PARTS = (  # name, work, seconds at most, seconds without which it is not begun
    ("m85m", size("m85m"), 90.0, 30.0),
    ("m1080m", size("m1080m"), 95.0, 40.0),
    ("m302m", size("m302m"), 80.0, 35.0),
    ("small", small, 35.0, 10.0),
    ("processes", processes, 35.0, 15.0),
    ("m11m", size("m11m"), 70.0, 25.0),
    ("compiled", compiled, 60.0, 25.0),
)
