"""What stands below the table of methods: which sizes and which C the IsoFLOP lines come from."""

from typing import Any


def isoflop_notes(block: dict[str, Any] | None) -> list[str]:
    """Return the lines of a `methods.isoflop` block, each at most 100 columns wide."""
    if not block:
        return []
    notes = []
    if block.get("near") is not None:
        notes.append(_sizes(block))
    if "convention" in block:
        notes.append(f"IsoFLOP: budgets and lines by {block['convention']}"[:100])
    return notes


def _sizes(block: dict[str, Any]) -> str:
    near, wide = block["near"], block.get("all_sizes")
    if not block["n_cut"]:
        return f"IsoFLOP: all sizes lie within x{near:g} of the best of their budget, none was cut"
    here = f"IsoFLOP b {block['b']:.3f} from sizes within x{near:g} of the best"
    if wide is None:
        return f"{here}; with all sizes too few budgets have a minimum"
    return f"{here}, {wide['b']:.3f} from all, whose far sizes tilt the parabola"
