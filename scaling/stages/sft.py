"""Supervised fine-tuning on prompt/completion pairs; the loss counts completion tokens alone.

`sft.method=full` tunes all weights; `lora` tunes low-rank adapters on every linear layer; `qlora`
does so with the layers themselves in 4 bits. Adapters are merged into the weights at the end, and
also kept in a file beside them. The pairs are cut from the corpus (docstring to body) or read from
a JSONL file.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scaling.data.row_text import LeftOut
from scaling.data.tokens import cache_folder
from scaling.inference.completions import completion_losses, forward_flops, join, pack, states
from scaling.model.lora import ADAPTERS, adapters, add_lora, frozen_bytes, merge_lora
from scaling.model.loss import linear_cross_entropy
from scaling.model.transformer import Transformer
from scaling.schema import Record
from scaling.stages.examples.docstrings import corpus_pairs
from scaling.stages.examples.pairs import (
    Example,
    Layout,
    encode,
    read_pairs,
    rows_file,
    split_held_out,
)
from scaling.stages.loop import Tally, fit, shuffled_batches
from scaling.stages.plan import StageName
from scaling.stages.stage import DOCSTRINGS, Stage, discard_other_inputs
from scaling.stages.stage_record import write_record
from scaling.train import checkpoint
from scaling.train.heldout import clustered_error
from scaling.train.step import Diverged
from scaling.train.tensor_files import write_tensors

log = logging.getLogger(__name__)

TEST_EXAMPLES = 512  # at most this many held-out pairs are scored
TEST_ROWS = 64  # rows that are scored at once
# The longest body that is learned, as a share of the context: longer ones cannot be sampled.
BODY_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class SftData:
    """The encoded pairs of a stage."""

    train: list[Example]
    test: list[Example]  # held out: no prompt of these occurs in `train`
    left_out: LeftOut = field(default_factory=LeftOut)  # how many pairs were not used, by reason

    def prompts(
        self, *, context: int, max_new_tokens: int, left_out: LeftOut | None = None
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Return the prompts that leave room for a completion: training and held-out ones.

        Each prompt comes once. Prompts that are too long are counted in `left_out`. ValueError when
        either part has no prompt that is short enough.
        """
        room = context - max_new_tokens
        prompts = [dict.fromkeys(tuple(e.prompt) for e in part) for part in (self.train, self.test)]
        fitting = [[p for p in part if len(p) <= room] for part in prompts]
        if left_out is not None:
            left_out.add("too_long", sum(map(len, prompts)) - sum(map(len, fitting)))
        if not all(fitting):
            shortest = min((len(e.prompt) for e in [*self.train, *self.test]), default=0)
            raise ValueError(
                f"every prompt is longer than the {room} tokens that"
                f" ppo.max_new_tokens={max_new_tokens} leaves of the"
                f" context of {context} (the shortest has {shortest}); "
                "lower ppo.max_new_tokens or pretrain with a longer context"
            )
        return [list(p) for p in fitting[0]], [list(p) for p in fitting[1]]


def load_pairs(stage: Stage) -> SftData:
    """Return the pairs of `sft.data` that fit the context; ValueError where none does."""
    block, context = stage.config.sft, stage.cell.data.context
    vocabulary, cache, left_out = stage.corpus.vocabulary, cache_folder(stage.cell), LeftOut()
    layout = Layout(template=block.template, chat=vocabulary.chat, columns=block.columns.given())
    if block.data == DOCSTRINGS:
        parts = corpus_pairs(stage.corpus)
        longest = round(BODY_SHARE * context)
    else:
        parts = tuple(
            read_pairs(
                rows_file(name, cache, what=key), layout=layout, name=name, left_out=left_out
            )
            if name
            else []
            for key, name in (("sft.data", block.data), ("sft.test", block.test))
        )
        longest = context
    what = f"sft.data={block.data}"
    train, test = (
        encode(
            vocabulary,
            part,
            context=context,
            longest=longest,
            truncate=block.truncate,
            may_cut=block.data != DOCSTRINGS,
            what=name,
            longer=stage.longer_context(),
            left_out=left_out,
        )
        if part
        else []
        for part, name in zip(parts, (what, f"the held-out {what}"), strict=True)
    )
    if block.data != DOCSTRINGS:  # of the rows that fit, so that as many as stated are held out
        train, test = split_held_out(train, test, left_out=left_out, chat=layout.chat)
        if stage.name == StageName.SFT:  # later stages read the pairs again
            stage.log_held_out(held_out=len(test), rows=len(train) + len(test), what="pairs")
    examples = [[example for _, example in part] for part in (train, test)]
    return SftData(train=examples[0], test=examples[1], left_out=left_out)


def run_sft(stage: Stage) -> Record:
    """Fine-tune the pretrained model; write weights and record.

    ValueError for a method that is unknown or does not suit the model, and for unusable data.
    """
    block = stage.config.sft
    check_method(stage)
    uses_adapters = block.method != "full"
    data = load_pairs(stage)
    n = len(data.train) + len(data.test)
    stage.log_left_out(data.left_out, used=f"{n:,} pairs of sft.data={block.data} are")
    train, test = (
        draw_examples(data.train, block.examples, seed=block.seed),
        data.test[:TEST_EXAMPLES],
    )
    discard_other_inputs(stage)
    model = stage.new_model()
    checkpoint.load_weights(stage.weights_of(StageName.PRETRAIN), model)
    start_separator(model, stage)
    before = test_loss(model, test)
    metrics: dict[str, float] = {}
    if uses_adapters:
        add_lora(model, rank=block.lora_rank, four_bits=block.method == "qlora")
        metrics["frozen_bytes"] = frozen_bytes(model)
    lengths = [len(e.prompt) + len(e.completion) for e in train]
    batches = shuffled_batches(
        len(train),
        batch=block.batch_examples,
        epochs=block.epochs,
        seed=block.seed,
        lengths=None if block.packing else lengths,
    )
    options = {"lora": uses_adapters, "packed": block.packing}

    def loss_of(step: int) -> tuple[Tensor, int, float]:
        return sft_loss(model, [train[i] for i in batches[step]], **options)

    tally = Tally()
    try:
        fit(stage, model, tally, n_steps=len(batches), peak_lr=block.peak_lr, loss_of=loss_of)
    except Diverged as error:
        return write_record(stage, tally, error=str(error), left_out=data.left_out)
    if uses_adapters:
        header = {"rank": str(block.lora_rank)}
        write_tensors(stage.folder / ADAPTERS, adapters(model), header)
        merge_lora(model)
    after = test_loss(model, test)
    if block.data != DOCSTRINGS:
        error = (
            f"the test loss {after[0]:.3f} has a standard error of {after[1]:.3f} nats per token"
        )
        metrics["rows"] = n
        stage.warn_of_few_rows(rows=n, held_out=len(test), what="pairs", error=error)
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
    return write_record(
        stage, tally, unique_tokens=sum(lengths), metrics=metrics, left_out=data.left_out
    )


def check_method(stage: Stage) -> None:
    """Raise ValueError for adapters on a mixture of experts."""
    method, n_experts = stage.config.sft.method, stage.cell.model.n_experts
    if method != "full" and n_experts:
        raise ValueError(
            f"sft.method={method} adapts linear layers, not the stacked experts of "
            f"model.n_experts={n_experts}; set sft.method=full"
        )


@torch.no_grad()
def start_separator(model: Transformer, stage: Stage) -> None:
    """Give the separator, which pretraining never saw, the embedding of a line end.

    A small model otherwise spends most of a short fine-tuning on learning the separator. Somebody
    else's vocabulary has no separator: nothing is changed.
    """
    line_end = stage.corpus.tokenizer.encode("\n").ids[-1]
    for table in {model.embedding.weight, model.head.weight}:
        for separator in stage.corpus.special.separator:
            table[separator] = table[line_end]


def draw_examples(examples: Sequence[Example], n: int, *, seed: int) -> list[Example]:
    """Draw `n` examples, or all; a larger draw of the same seed begins with the smaller one."""
    if n > len(examples):
        log.info("sft: %d examples planned, %d are at hand; all are used", n, len(examples))
    elif n < len(examples):
        log.info(
            "sft: %d examples of %d are drawn; sft.examples=%d takes all",
            n,
            len(examples),
            len(examples),
        )
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed)).tolist()
    return [examples[i] for i in order[:n]]


def sft_loss(
    model: Transformer,
    examples: Sequence[Example],
    *,
    lora: bool = False,
    packed: bool = False,
) -> tuple[Tensor, int, float]:
    """Return the mean loss of completion tokens in nats, the tokens passed and the FLOPs.

    model: the model, with adapters or without
    examples: the batch
    lora: whether only adapters learn; an update then costs two forward passes instead of three,
        because frozen weights need no gradient (some percent for the adapters are not counted)
    packed: whether several examples share a row of the context; the loss is the same either way

    The router losses of a mixture of experts are added to the loss.
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
    """Return the mean loss of completion tokens in nats and its error, clustered by example."""
    model.eval()
    losses, owners = [], []
    for at in range(0, len(examples), TEST_ROWS):
        part = examples[at : at + TEST_ROWS]
        rows = join([e.prompt for e in part], [e.completion for e in part], model.device)
        losses.append(completion_losses(model, rows).double().cpu())
        owners += [at + i for i, e in enumerate(part) for _ in e.completion]
    values = torch.cat(losses).numpy()
    return float(values.mean()), clustered_error(values, torch.tensor(owners).numpy())


test_loss.__test__ = False  # type: ignore[attr-defined]  pytest takes it for a test otherwise
