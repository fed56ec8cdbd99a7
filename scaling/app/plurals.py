"""A number with its noun, singular for one: `1 pass`, `2 passes`, `1,024 cells`."""

ENDINGS_IN_ES = ("s", "x", "ch", "sh")


def plural(n: float, noun: str, *, text: str = "") -> str:
    """Return a number and its noun.

    n: the number, which decides whether the noun is singular
    noun: in the singular
    text: the number as it is to be written; by default a whole number with commas, any other in
        three digits
    """
    text = text or (f"{n:,.0f}" if n == int(n) else f"{n:.3g}")
    if text == "1":
        return f"1 {noun}"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{text} {noun[:-1]}ies"
    return f"{text} {noun}{'es' if noun.endswith(ENDINGS_IN_ES) else 's'}"
