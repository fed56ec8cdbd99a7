"""A fitted offset against the known entropy of its source (scaling.data.synthetic)."""

from analysis.laws.law_file import LawFile


def true_offset(law: LawFile) -> tuple[float, str] | None:
    """Return the known least loss of a law's test set, and whether the fitted E agrees with it."""
    known = law.inputs.get("bayes_loss")
    if known is None or "E" not in law.parameters:
        return None
    ends = (law.intervals or {}).get("parameters", {}).get("E")
    if not ends:
        return known, f"of the source; the fitted E is {law.parameters['E'] - known:+.4f} off"
    inside = "inside" if ends[0] <= known <= ends[1] else "OUTSIDE"
    return known, f"of the source: {inside} the interval of the fitted E"
