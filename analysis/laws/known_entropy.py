"""The fitted offset E of a law beside the known entropy of its data (scaling.data.synthetic)."""

from analysis.laws.law_file import LawFile


def true_offset(law: LawFile) -> tuple[float, str] | None:
    """Return the known least loss of a law's test set, and whether the fitted E meets it."""
    entropy = law.inputs.get("bayes_loss")
    if entropy is None or "E" not in law.parameters:
        return None
    ends = (law.intervals or {}).get("parameters", {}).get("E")
    if not ends:
        return entropy, f"of the source; the fitted E is {law.parameters['E'] - entropy:+.4f} off"
    inside = "inside" if ends[0] <= entropy <= ends[1] else "OUTSIDE"
    return entropy, f"of the source: {inside} the interval of the fitted E"
