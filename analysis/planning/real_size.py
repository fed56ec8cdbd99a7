"""Vocabulary, context, learning rate and batch where no study fixes them and the budget is large.

A plan from a published law has no study whose settings it should keep. Below REAL_FLOPS it takes
the default family; from there on it takes what models of that size are trained with. With a study
these settings stay the study's, since the law holds for them, and an alarm says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from analysis.alarms.alarm import Alarm
from analysis.laws.law import Law
from analysis.planning.plan import PretrainBlock, Step
from analysis.planning.shapes.family import FamilySettings, best_vocabulary
from analysis.runs.study import Study

# FLOPs from which a plan is one of real size: about Llama 2 7B's data at a tenth of its tokens.
REAL_FLOPS = 1e22
# (least FLOPs, tokens of a window, who trained so)
CONTEXTS = (
    (1e22, 4096, "Llama 2 (2307.09288), DeepSeek-V3 (2412.19437) and OLMo 2 (2501.00656)"),
    (1e25, 8192, "Llama 3 (2407.21783)"),
)
MOST_VOCABULARY = 131_072  # 2^17: Llama 3 has 128,256, OLMo 2 100,278, Qwen2.5 151,643 tokens
FEWEST_CONTEXT, FEWEST_VOCABULARY = 1024, 16_384  # below them a study is a toy beside real models
# Heads are a multiple of the devices of a node, and share 8 key-value heads: all sizes of Llama 3
# from 8B to 405B (2407.21783, table 3) have 8 key-value heads of 128.
HEADS_MULTIPLE = KV_HEADS = 8
RATES = "deepseek2024_lr_batch"  # checked by its authors at 7B and 67B on 2e12 tokens


@dataclass(frozen=True, kw_only=True)
class RealSize:
    """The study with the settings of real size, and the reason of each that was set."""

    study: Study
    rules: dict[str, str] = field(default_factory=dict)
    lr_batch: str = ""


def at_real_size(study: Study, settings: FamilySettings, *, flops: float, law: Law) -> RealSize:
    """Return the study with context and vocabulary of real size, and the law of rates to take.

    study: a study with cells keeps all its settings
    settings: what the user set of the family goes before the rules
    flops: the budget
    law: gives the N at which the vocabulary is chosen
    """
    if study.cells or flops < REAL_FLOPS:
        return RealSize(study=study)
    rules = {}
    target = law.optimum(flops).params
    if settings.heads_multiple is None:
        study = replace(study, heads_multiple=HEADS_MULTIPLE)
    if settings.kv_heads is None and study.like.n_kv_head == study.like.n_head:
        study = _grouped(study, target, law.count)
    if settings.context is None:
        least, context, who = max(row for row in CONTEXTS if flops >= row[0])
        study = replace(study, like=replace(study.like, context=context))
        rules["context"] = f"from {least:g} FLOPs {context}, as {who}; shape.context= sets it"
    if settings.vocab_size is None and settings.vocab_rule == "tokenizer":
        width = study.ladder.width(target, law.count)  # hardly moves with the vocabulary
        best = best_vocabulary(flops, width)
        size = min(best, MOST_VOCABULARY)
        study = replace(study, like=replace(study.like, vocab_size=size))
        rules["vocabulary"] = (
            f"V x width = .20 C^.42 gives {best} (Tao et al. 2024, 2407.13623), at most"
            f" {MOST_VOCABULARY} as Llama 3 (2407.21783); shape.vocab_size= sets it; the law's"
            " losses are of its own tokenizer"
        )
    return RealSize(study=study, rules=rules, lr_batch=RATES if study.recipe is None else "")


def _grouped(study: Study, target: float, count: str) -> Study:
    """Return the study whose heads share 8 key-value heads, its line as they are near a size."""
    like = study.like
    heads = study.ladder.width(target, count) / like.d_head
    kv_heads = max(1, round(like.n_head * min(1.0, KV_HEADS / heads)))
    return replace(study, like=replace(like, n_kv_head=kv_heads), kv_heads=KV_HEADS)


def explained_steps(steps: Sequence[Step], rules: Mapping[str, str]) -> tuple[Step, ...]:
    """Return the lines of the derivation with the rules of real size."""
    return tuple(replace(s, rule=rules[s.what]) if s.what in rules else s for s in steps)


def explained(pretrain: PretrainBlock, rules: Mapping[str, str]) -> PretrainBlock:
    """Return the block with the reason of its context."""
    if "context" not in rules:
        return pretrain
    return replace(pretrain, reasons={**pretrain.reasons, "context": rules["context"]})


def toy_alarm(study: Study, flops: float) -> Alarm | None:
    """Return an alarm where a large budget would be spent with the settings of a small study."""
    like = study.like
    toys = [
        f"{name} {value}"
        for name, value, least in (
            ("context", like.context, FEWEST_CONTEXT),
            ("vocabulary", like.vocab_size, FEWEST_VOCABULARY),
        )
        if value < least
    ]
    if not study.cells or flops < REAL_FLOPS or not toys:
        return None
    return Alarm(
        code="small_settings",
        sentence=f"{flops:.3g} FLOPs would be spent with the study's {' and '.join(toys)}; models"
        f" of that size take 4096 and about 1e5: sweep with those (data.context=,"
        " tokenizer.vocab_size=) before you pay",
    )
