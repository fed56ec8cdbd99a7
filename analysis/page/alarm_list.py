"""Every alarm of a report once: of the plan, the law, the records, the stages.

Cells that ended alike, by status and last line of their error, are one alarm that counts them.
"""

from collections.abc import Iterable, Mapping

from analysis.alarms.alarm import Alarm
from analysis.page.contents import Material
from scaling.schema import FEW_ROWS, Record

NAMED_CELLS = 3  # of those that ended alike


def alarms(material: Material) -> list[dict[str, str]]:
    """Return every alarm once: of the plan, of the law, of the records, of the stages."""
    law, plan = material.law, material.plan
    of_law = list(law.alarms) if law else []
    of_plan = [a for a in (plan.alarms if plan else ()) if a not in of_law]
    rows = [{**a, "where": "mixture"} for a in (material.mixture or {}).get("alarms", ())]
    rows += [_alarm_row(a, "plan") for a in of_plan] + [_alarm_row(a, "law") for a in of_law]
    if law and not law.usable:
        rows.insert(
            0,
            {
                "code": law.status,
                "sentence": "The fit has no answer that a plan should rest on.",
                "where": "law",
            },
        )
    rows += _stale(material)
    if other := material.final.other_plan:
        rows.append({"code": "other_plan", "sentence": other, "where": "final run"})
    if shares := material.final.band.get("left"):
        rows.append(
            {
                "code": "left_forecast",
                "sentence": (
                    "The final run left the 95% band of its forecast curve at"
                    f" {' and '.join(f'{share:.0%}' for share in shares)} of its tokens."
                ),
                "where": "final run",
            }
        )
    if length := length_alarm(material.final.stages.get("reward")):
        rows.append({"code": "reward_by_length", "sentence": length, "where": "reward"})
    if not any(row["code"] == "few_rows" for row in rows):
        rows += _few_rows(material.final.stages)
    rows += _unfinished((*material.records, *material.final.stages.values()))
    once = {(a["code"], a["sentence"]): a for a in reversed(rows)}
    return list(reversed(once.values()))


def _alarm_row(alarm: Alarm, where: str) -> dict[str, str]:
    return {"code": alarm.code, "sentence": alarm.sentence, "where": where}


def length_alarm(record: Record | None) -> str:
    """Return the alarm of a reward model that may measure length alone; "" where it does not."""
    m = record.metrics if record else {}
    if "over_length" not in m or m["over_length"] > 2 * m["over_length_se"]:
        return ""
    return (
        f"The reward model orders {m['accuracy']:.1%} of held-out pairs rightly, length alone"
        f" {m['length_accuracy']:.1%} (difference {m['over_length']:+.1%} ±"
        f" {m['over_length_se']:.1%}): it is not shown to measure more than length; give it more"
        " pairs, or pairs of equal length."
    )


def _few_rows(stages: Mapping[str, Record]) -> list[dict[str, str]]:
    """Return the alarms of stages that learned from a file of few rows."""
    return [
        {
            "code": "few_rows",
            "sentence": f"The {stage} data have {record.metrics['rows']:.0f} rows that fit, fewer"
            f" than {FEW_ROWS}: see the standard error beside its result.",
            "where": stage,
        }
        for stage, record in stages.items()
        if record.metrics.get("rows", FEW_ROWS) < FEW_ROWS
    ]


def _unfinished(records: Iterable[Record]) -> list[dict[str, str]]:
    """Return an alarm for each way in which cells failed or diverged."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for r in records:
        if r.status != "done":
            lines = (r.error or "").strip().splitlines()
            why = lines[-1] if lines else "no reason was recorded"
            alike.setdefault((r.status, r.stage, why), []).append(r.run_id)
    rows = []
    for (status, stage, why), names in alike.items():
        named = ", ".join(names[:NAMED_CELLS])
        more = f" and {len(names) - NAMED_CELLS} more" if len(names) > NAMED_CELLS else ""
        rows.append({"code": status, "sentence": f"{named}{more}: {why}", "where": stage})
    return rows


def _stale(material: Material) -> list[dict[str, str]]:
    """Return the alarm of a plan that was made from another law than the one shown."""
    made_from = material.plan.made_from.get("law") if material.plan else None
    current = material.sha256.get("law.json")
    if not made_from or not current or made_from == current:
        return []
    return [
        {
            "code": "stale_plan",
            "sentence": (
                "The plan was made from another version of law.json than the one shown here."
            ),
            "where": "report",
        }
    ]
