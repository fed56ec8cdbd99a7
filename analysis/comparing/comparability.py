"""Whether the losses of several arms compare, what their recipes differ in, and what to run if not.

Losses compare on one test text, in nats per token only with one vocabulary. Hashes say so: of the
test part that was scored, of a named test set, of the vocabulary. Different vocabularies compare in
bits per byte of a named test set that all studies have. What differs between the recipes is either
the question (data, optimizer, architecture) or an accident (context, precision, schedule, batch
rule), which is said.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from analysis.comparing.arms import Arm
from scaling.app.quoting import override
from scaling.schema import BITS_PER_BYTE, Measure, Record, Shape, read_commands

ACCIDENTS = ("data.context", "machine.precision", "schedule", "optim.batch")  # starts of keys
QUESTIONS = ("data", "optim", "model")  # groups of settings that people compare
UNREAD = (  # settings that follow from the size, from files, or that the checks above cover
    *("data.sha256", "data.train", "data.test", "optim.peak_lr"),
    *(f"model.{name}" for name in Shape.__dataclass_fields__),
    *("model.d_expert", "model.base_width", "model.base_depth", "model.base_head"),
)
FEATURES = {  # columns of somebody's table that say how a run was measured: what they are
    "vocabulary": ("tokenizer", "vocab", "vocabulary", "vocab_size"),
    "test text": ("test_set", "eval_set", "validation_set", "test_text"),
    "context": ("context", "context_length", "seq_len", "sequence_length"),
    "precision": ("precision", "dtype"),
}
MOST_SHOWN = 3  # values of a setting that a sentence shows
SAME_RATIO = 1e-9  # relative difference of bytes per token of one text with one vocabulary


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether arms compare.

    why: what does not match and what to run; empty where the arms compare
    question: what the recipes differ in on purpose, a phrase each
    accidents: what they differ in beside it
    notes: what could not be checked, or that nothing differs
    """

    why: str = ""
    question: list[str] = field(default_factory=list)
    accidents: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def comparable(self) -> bool:
        """Whether the losses may be compared."""
        return not self.why


def judge(arms: Sequence[Arm], measure: Measure) -> Verdict:
    """Say whether arms compare, and what they differ in.

    arms: studies, or groups of one table
    measure: which loss of studies is compared
    """
    if not arms[0].records:
        return _judge_table(arms, measure)
    notes: list[str] = []
    why = _other_text(arms, measure, notes) or _other_vocabulary(arms, measure, notes)
    question, accidents = _differences(arms)
    if not question:
        notes.append(
            "The recipes do not differ in data, optimizer or architecture; a difference would be"
            " one of seeds" + (" or of what differs by accident." if accidents else ".")
        )
    return Verdict(why=why, question=question, accidents=accidents, notes=notes)


def check_measured(arms: Mapping[str, Sequence[Record]], measure: Measure) -> str:
    """Say which studies do not hold the loss that is compared; empty where all do.

    arms: records of each study by its name
    measure: which loss
    """
    lacking = {
        name: next(filter(None, map(measure.why_missing, records)))
        for name, records in arms.items()
        if all(measure.why_missing(r) for r in records)
    }
    if not lacking:
        return ""
    whys = "; ".join(f"{name}: {why}" for name, why in lacking.items())
    return f"{measure.words} is not there for all studies ({whys})"


def left_out(arms: Sequence[Arm]) -> list[str]:
    """Return a sentence for each arm of which cells or settings were left out in reading."""
    said = []
    for arm in arms:
        if dropped := arm.runs.dropped:
            whys = "; ".join(dict.fromkeys(d["why"] for d in dropped))
            said.append(f"Left out of {arm.name}: {len(dropped)} cells ({whys}).")
        if arm.runs.replicates:
            said.append(f"{arm.name}: {arm.runs.replicates.alarm.sentence}")
    return said


def _other_text(arms: Sequence[Arm], measure: Measure, notes: list[str]) -> str:
    """Return why the test texts differ; empty where they are one."""
    if measure.target:
        hashes = {a.name: _hashes(a, f"test_set:{measure.target}") for a in arms}
        if _all_same(hashes):
            return ""
        return (
            f"the test set {measure.target} is not the same text in all studies"
            f" ({_shown_hashes(hashes)}); train with one and the same eval.sets, as"
            f" {_sweep(arms[-1], measure.target)}"
        )
    hashes = {a.name: _hashes(a, "test") for a in arms}
    if all(hashes.values()):
        same = _all_same(hashes)
    else:
        same, words = _same_by_other_signs(arms)
        if same:
            notes.append(f"The records are older than the hash of the test part; {words}.")
    if same:
        return ""
    if not all(hashes.values()):
        hashes = {a.name: _hashes(a, "corpus") for a in arms}
    return f"the test parts are different text ({_shown_hashes(hashes)}); {_remedy(arms)}"


def _same_by_other_signs(arms: Sequence[Arm]) -> tuple[bool, str]:
    """Return whether the test part is the same by what older records hold, and by what."""
    corpora = {r.inputs.get("corpus", "") for a in arms for r in a.records}
    if len(corpora) == 1 and "" not in corpora:
        return True, "the whole corpus, test part included, is the same"
    ratios = [
        r.test_loss / r.bits_per_byte
        for a in arms
        for r in a.records
        if r.test_loss and r.bits_per_byte
    ]
    if len(ratios) < sum(len(a.records) for a in arms):
        return False, ""
    spread = (max(ratios) - min(ratios)) / min(ratios)
    return spread < SAME_RATIO, "bytes per token of it are the same to nine digits"


def _other_vocabulary(arms: Sequence[Arm], measure: Measure, notes: list[str]) -> str:
    """Return why the vocabularies do not allow the comparison; empty where they do."""
    hashes = {
        a.name: {r.tokenizer or r.inputs.get("tokenizer", "") for r in a.records} - {""}
        for a in arms
    }
    if not all(hashes.values()):
        notes.append(
            "No hash of the vocabulary is recorded for"
            f" {', '.join(n for n, h in hashes.items() if not h)}; only its size was compared."
        )
        sizes = {a.name: {str(r.setting("tokenizer").get("vocab_size"))
                 for r in a.records} for a in arms}  # fmt: skip
        hashes = sizes
    if _all_same(hashes) or (measure.target and measure.unit == BITS_PER_BYTE):
        if not _all_same(hashes):
            notes.append(
                f"The vocabularies differ; bits per byte of {measure.target} compare all the same."
            )
        return ""
    return (
        f"the vocabularies differ ({_shown_hashes(hashes)}), and a loss per token, or of test parts"
        f" cut by tokens, does not compare; {_remedy(arms)}"
    )


def _remedy(arms: Sequence[Arm]) -> str:
    """Say what to run: the comparison on a common named set, or the sweep that gives one."""
    folders = f"studies=[{','.join(a.folder for a in arms)}]"
    for name in arms[0].records[0].test_sets:
        if _all_same({a.name: _hashes(a, f"test_set:{name}") for a in arms}):
            return (
                f"they share the test set {name}: python -m analysis.compare '{folders}'"
                f" {override('target', name)} unit={BITS_PER_BYTE}"
            )
    return (
        "train each with one named test set, as"
        f" {_sweep(arms[0], 'common')} and {_sweep(arms[-1], 'common')}, then compare with"
        f" target=common unit={BITS_PER_BYTE}"
    )


def _sweep(arm: Arm, name: str) -> str:
    """Return the command that trains a study with a named test set."""
    sweeps = [c for c in read_commands(arm.folder) if c.module == "scaling.sweep"]
    line = f"python -m scaling.sweep -m study={arm.name}"
    if sweeps:
        others = [a for a in sweeps[-1].arguments if not a.startswith("eval.sets=")]
        line = replace(sweeps[-1], arguments=others).line()
    return f"`{line} 'eval.sets={{{name}: [FILE.jsonl]}}'`"


def _hashes(arm: Arm, name: str) -> set[str]:
    return {r.inputs[name] for r in arm.records if r.inputs.get(name)}


def _all_same(hashes: Mapping[str, set[str]]) -> bool:
    """Return whether every arm has one hash, and all the same."""
    first = next(iter(hashes.values()))
    return len(first) == 1 and all(h == first for h in hashes.values())


def _shown_hashes(hashes: Mapping[str, set[str]]) -> str:
    return ", ".join(
        f"{name}: {' and '.join(sorted(h[:8] for h in values)[:MOST_SHOWN]) or 'unknown'}"
        for name, values in hashes.items()
    )


def _differences(arms: Sequence[Arm]) -> tuple[list[str], list[str]]:
    """Return the phrases of what differs on purpose, and of what differs by accident."""
    settings = {a.name: _settings(a.records) for a in arms}
    question, accidents = [], []
    for key in sorted(set().union(*settings.values())):
        values = {name: of_arm.get(key, frozenset()) for name, of_arm in settings.items()}
        if len(set(values.values())) == 1:
            continue
        phrase = f"{key} ({', '.join(f'{n}: {_values(v)}' for n, v in values.items())})"
        is_accident = key.startswith(ACCIDENTS) or not key.startswith(QUESTIONS)
        (accidents if is_accident else question).append(phrase)
    corpora = {a.name: frozenset(_hashes(a, "corpus")) for a in arms}
    if len(set(corpora.values())) > 1:
        question.insert(0, f"the corpus ({_shown_hashes({n: set(c) for n, c in corpora.items()})})")
    return question, accidents


def _settings(records: Sequence[Record]) -> dict[str, frozenset[str]]:
    """Return the values of each setting of a study's recipe, as JSON."""
    known: dict[str, set[str]] = {}
    for record in records:
        groups = {g: record.config.get(g, {}) for g in ("model", "optim", "schedule", "data")}
        groups["eval"] = {"test_tokens": record.config.get("eval", {}).get("test_tokens")}
        groups["machine"] = {"precision": record.config.get("machine", {}).get("precision")}
        for group, block in groups.items():
            for name, value in block.items():
                key = f"{group}.{name}"
                if not key.startswith(UNREAD):
                    known.setdefault(key, set()).add(json.dumps(value, sort_keys=True))
    return {key: frozenset(values) for key, values in known.items()}


def _values(values: frozenset[str]) -> str:
    shown = sorted(values)[:MOST_SHOWN]
    more = ["..."] if len(values) > MOST_SHOWN else []
    return " and ".join([*(v.strip('"') for v in shown), *more]) or "not set"


def _judge_table(arms: Sequence[Arm], measure: Measure) -> Verdict:
    """Compare columns of a table that say how its runs were measured."""
    del measure  # a table's column is what it is
    raws = {a.name: a.raw for a in arms}
    accidents = []
    unit = arms[0].runs.inputs.get("loss_unit", {}).get("unit", "")
    for what, names in FEATURES.items():
        for name in names:
            values: dict[str, set[Any]] = {
                n: set(raw.loc[:, name].dropna().astype(str))
                for n, raw in raws.items()
                if raw is not None and name in raw
            }
            if not values or _all_same(values) or len({frozenset(v) for v in values.values()}) == 1:
                continue
            phrase = f"{name} ({_shown_values(values)})"
            per_byte = unit.endswith("per_byte")
            if what == "test text" or (what == "vocabulary" and not per_byte):
                need = "a loss on one test text" if what == "test text" else (
                    "bits per byte of one test text, as columns.loss=bpb")  # fmt: skip
                return Verdict(
                    why=f"the arms differ in {what}: {phrase}, so that losses do not compare; give"
                    f" {need}, or keep the arms that share it with where="
                )
            accidents.append(phrase)
    return Verdict(accidents=accidents, notes=[
        "A table does not say whether test text and vocabulary are one; the comparison takes it"
        " that they are."
    ])  # fmt: skip


def _shown_values(values: Mapping[str, set[str]]) -> str:
    return ", ".join(f"{n}: {_values(frozenset(v))}" for n, v in values.items())
