"""Supervised fine-tuning on prompt/completion pairs, the loss on completions alone.

All weights are tuned, or low-rank adapters on every linear layer that are merged at the end, the
layers themselves as they are (lora) or in 4 bits (qlora). The default pairs are docstring to body,
cut from the corpus; a JSONL file is the same interface. The adapters stay beside the merged
weights, for those who keep one base and many of them.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scaling.config import one_of
from scaling.data.chat_template import TEMPLATES
from scaling.data.row_text import LeftOut
from scaling.data.tokenizer import SEP
from scaling.data.tokens import cache_folder
from scaling.inference.completions import completion_losses, forward_flops, join, pack, states
from scaling.model.lora import ADAPTERS, adapters, add_lora, frozen_bytes, merge_lora
from scaling.model.loss import linear_cross_entropy
from scaling.model.transformer import Transformer
from scaling.schema import Record
from scaling.stages.examples.docstrings import corpus_pairs
from scaling.stages.examples.pairs import Example, encode, parts, read_pairs, rows_file
from scaling.stages.loop import Tally, fit, shuffled
from scaling.stages.stage import Stage, make_room
from scaling.stages.stage_record import write_record
from scaling.train import checkpoint
from scaling.train.heldout import clustered_error
from scaling.train.step import Diverged
from scaling.train.tensor_files import write_tensors

log = logging.getLogger(__name__)

METHODS = ("full", "lora", "qlora")
TEST_EXAMPLES = 512  # at most so many held-out pairs are scored
TEST_ROWS = 64
BODY_SHARE = 0.5  # of the context, the longest body that is learned; longer ones cannot be sampled


@dataclass(frozen=True, kw_only=True)
class SftData:
    """Encoded pairs; `test` prompts never occur in `train`; `left` is what is not among them."""

    train: list[Example]
    test: list[Example]
    left: LeftOut = field(default_factory=LeftOut)

    def prompts(
        self, *, context: int, max_new_tokens: int, left: LeftOut | None = None
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Return the different prompts, training and held-out, that leave room for a completion.

        The others are counted in `left`. ValueError when either part has none.
        """
        room = context - max_new_tokens
        known = [dict.fromkeys(tuple(e.prompt) for e in part) for part in (self.train, self.test)]
        found = [[p for p in part if len(p) <= room] for part in known]
        if left is not None:
            left.add("too_long", sum(map(len, known)) - sum(map(len, found)))
        if not all(found):
            shortest = min((len(e.prompt) for e in [*self.train, *self.test]), default=0)
            raise ValueError(
                f"every prompt is longer than the {room} tokens "
                f"that ppo.max_new_tokens={max_new_tokens} "
                "leaves of the "
                f"context of {context} (the shortest has {shortest}); "
                "lower ppo.max_new_tokens or pretrain with a longer context"
            )
        return [list(p) for p in found[0]], [list(p) for p in found[1]]


def load_pairs(stage: Stage) -> SftData:
    """Return the pairs of `sft.data` that fit the context; ValueError where none does."""
    block, context = stage.config.sft, stage.cell.data.context
    tokenizer, cache, left = stage.corpus.tokenizer, cache_folder(stage.cell), LeftOut()
    one_of("sft.template", block.template, TEMPLATES)
    if block.data == "docstrings":
        train, test = corpus_pairs(stage.corpus)
        longest = round(BODY_SHARE * context)
    else:
        found, held_out = (
            read_pairs(rows_file(name, cache), template=block.template, name=name, left=left)
            if name
            else []
            for name in (block.data, block.test)
        )
        train, test = parts(found, held_out, left=left)
        longest = context
    what = f"sft.data={block.data}"
    found = [
        encode(
            tokenizer,
            part,
            context=context,
            longest=longest,
            what=name,
            setting=stage.context_key,
            left=left,
        )
        for part, name in ((train, what), (test, f"the held-out {what}"))
    ]
    return SftData(train=found[0], test=found[1], left=left)


def run_sft(stage: Stage) -> Record:
    """Fine-tune the pretrained model; write weights and record."""
    block = stage.config.sft
    if block.method not in METHODS:
        raise ValueError(
            f"sft.method={block.method!r} is unknown; choose one of {', '.join(METHODS)}"
        )
    adapted = block.method != "full"
    if adapted and stage.cell.model.n_experts:
        raise ValueError(
            f"sft.method={block.method} adapts linear layers, not the stacked experts of "
            f"model.n_experts={stage.cell.model.n_experts}; set sft.method=full"
        )
    data = load_pairs(stage)
    n = len(data.train) + len(data.test)
    stage.tell_left_out(data.left, used=f"{n:,} pairs of sft.data={block.data} are")
    train, test = chosen(data.train, block.examples, seed=block.seed), data.test[:TEST_EXAMPLES]
    make_room(stage)
    model = stage.new_model()
    checkpoint.load_weights(stage.weights_of("pretrain"), model)
    start_separator(model, stage)
    before = test_loss(model, test)
    metrics: dict[str, float] = {}
    if adapted:
        add_lora(model, rank=block.lora_rank, four_bits=block.method == "qlora")
        metrics["frozen_bytes"] = frozen_bytes(model)
    lengths = [len(e.prompt) + len(e.completion) for e in train]
    batches = shuffled(
        len(train),
        batch=block.batch_examples,
        epochs=block.epochs,
        seed=block.seed,
        lengths=None if block.packing else lengths,
    )
    options = {"lora": adapted, "packed": block.packing}

    def loss_of(step: int) -> tuple[Tensor, int, float]:
        return sft_loss(model, [train[i] for i in batches[step]], **options)

    tally = Tally()
    try:
        fit(stage, model, tally, n_steps=len(batches), peak_lr=block.peak_lr, loss_of=loss_of)
    except Diverged as error:
        return write_record(stage, tally, error=str(error), left=data.left)
    if adapted:
        header = {"rank": str(block.lora_rank)}
        write_tensors(stage.folder / ADAPTERS, adapters(model), header)
        merge_lora(model)
    after = test_loss(model, test)
    checkpoint.save(stage.folder, model=model, name="model", state={"step": tally.step})
    metrics |= {
        "test_loss_before": before[0],
        "test_loss_before_se": before[1],
        "test_loss": after[0],
        "test_loss_se": after[1],
        "examples": len(train),
        "test_examples": len(test),
        "completion_tokens": sum(len(e.completion) for e in train),
    }
    return write_record(stage, tally, unique_tokens=sum(lengths), metrics=metrics, left=data.left)


@torch.no_grad()
def start_separator(model: Transformer, stage: Stage) -> None:
    """Give the separator, which pretraining never saw, the embedding of a line end.

    Small models otherwise spend most of a short fine-tuning on learning what it is.
    """
    line_end = stage.corpus.tokenizer.encode("\n").ids[-1]
    for table in {model.embedding.weight, model.head.weight}:
        table[SEP] = table[line_end]


def chosen(found: Sequence[Example], wanted: int, *, seed: int) -> list[Example]:
    """Draw `wanted` examples (or all), a larger draw beginning with the smaller one."""
    if wanted > len(found):
        log.info("sft: %d examples planned, %d are at hand; all are used", wanted, len(found))
    elif wanted < len(found):
        log.info(
            "sft: %d examples of %d are drawn; sft.examples=%d takes all",
            wanted,
            len(found),
            len(found),
        )
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed)).tolist()
    return [found[i] for i in order[:wanted]]


def sft_loss(
    model: Transformer,
    examples: Sequence[Example],
    *,
    lora: bool = False,
    packed: bool = False,
) -> tuple[Tensor, int, float]:
    """Return the mean loss of the completions' tokens (nats), the tokens passed and the FLOPs.

    A mixture of experts' router losses are added. Examples are `packed` into rows of the context or
    have a row each: the loss is the same.

    An update costs three forward passes; with adapters two, as frozen weights need no gradient (the
    adapters' own share, some percent, is left out).
    """
    sides = [e.prompt for e in examples], [e.completion for e in examples]
    if packed:
        rows = pack(*sides, context=model.context, device=model.device)
    else:
        rows = join(*sides, model.device)
    flops = (2 if lora else 3) * forward_flops(model.config, model.vocab_size, rows)
    hidden = states(model, rows)  # (M, C)
    loss = linear_cross_entropy(hidden, model.head.weight, rows.tokens[:, 1:][rows.mask])
    return loss + model.router_loss(), rows.n_tokens, flops


@torch.inference_mode()
def test_loss(model: Transformer, examples: Sequence[Example]) -> tuple[float, float]:
    """Return the mean loss of completions in nats/token and its error, clustered by example."""
    model.eval()
    losses, owners = [], []
    for at in range(0, len(examples), TEST_ROWS):
        part = examples[at : at + TEST_ROWS]
        rows = join([e.prompt for e in part], [e.completion for e in part], model.device)
        losses.append(completion_losses(model, rows).double().cpu())
        owners += [at + i for i, e in enumerate(part) for _ in e.completion]
    values = torch.cat(losses).numpy()
    return float(values.mean()), clustered_error(values, torch.tensor(owners).numpy())


test_loss.__test__ = False  # type: ignore[attr-defined]  not a test
