"""A law as MathML, from its formula in ASCII and its numbers.

A formula of `analysis.forms` is sums of products: factors stand beside each other, `/` and `^-`
make fractions, `^` superscripts, `_` and trailing digits subscripts, Greek names letters. Numbers
have the digits that their intervals support.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import escape

from analysis.forms import FORMS
from analysis.laws.law import Law
from analysis.number_text import supported

GREEK = {
    **{"alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "eps": "ε", "eta": "η", "rho": "ρ"},
    **{"exponent": "α"},
    **{"kappa": "κ", "lambda": "λ", "mu": "μ", "sigma": "σ", "tau": "τ"},
}
FUNCTIONS = ("exp", "log", "min", "max", "sqrt")
_TOKEN = re.compile(r"\s*(\d+\.?\d*(?:e[-+]?\d+)?|[A-Za-z][A-Za-z]*\d*(?:_\w+)?'?|.)")
_MINUS = "−"


@dataclass(frozen=True)
class Node:
    """A part of a formula: its kind, its parts, and the text of a number, name or sign.

    kind: number, name, call, power, product (`parts` over `below`) or sum (`signs` of its parts)
    """

    kind: str
    text: str = ""
    parts: tuple["Node", ...] = ()
    below: tuple["Node", ...] = ()
    signs: tuple[str, ...] = ()


@dataclass
class _Reader:
    """Reads tokens from the left; `values` are the texts of the numbers that stand for names."""

    tokens: list[str]
    values: Mapping[str, str]
    at: int = field(default=0)

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1]

    def sum(self) -> Node:
        signs, parts = [], []
        while True:
            sign = self.take() if self.peek() in "+-" and self.peek() else "+"
            part = self.product()
            if part.kind == "number" and part.text.startswith("-"):
                sign, part = "-" if sign == "+" else "+", Node("number", part.text[1:])
            signs.append(sign)
            parts.append(part)
            if self.peek() not in ("+", "-"):
                break
        if len(parts) == 1 and signs[0] == "+":
            return parts[0]
        return Node("sum", parts=tuple(parts), signs=tuple(signs))

    def product(self) -> Node:
        above, below, under = [], [], False
        while self.peek() and self.peek() not in "+-)],=":
            if self.peek() == "/":
                self.take()
                under = True
                continue
            factor, inverse = self.power()
            (below if under != inverse else above).append(factor)
            under = False
        if len(above) == 1 and not below:
            return above[0]
        return Node("product", parts=tuple(above), below=tuple(below))

    def power(self) -> tuple[Node, bool]:
        """Return a factor, and whether a negative exponent puts it below the line."""
        base = self.atom()
        if self.peek() != "^":
            return base, False
        self.take()
        inverse = self.peek() == "-"
        if inverse:
            self.take()
        exponent = self.atom()
        if exponent.kind == "number" and exponent.text.startswith("-"):
            inverse, exponent = not inverse, Node("number", exponent.text[1:])
        return Node("power", parts=(base, exponent)), inverse

    def atom(self) -> Node:
        token = self.take()
        if token in ("(", "["):
            inside = self.sum()
            self.take()
            return Node("call", parts=(inside,))
        if token in FUNCTIONS and self.peek() == "(":
            self.take()
            inside = self.sum()
            self.take()
            return Node("call", token, (inside,))
        if token[0].isdigit():
            return Node("number", token)
        value = self.values.get(token)
        return Node("name", token) if value is None else Node("number", value)


def law_mathml(law: Law | None) -> str:
    """Return the law with its numbers as a MathML block; "" without a law of a known formula."""
    if law is None or law.form not in FORMS:
        return ""
    form, ends = FORMS[law.form], (law.intervals or {}).get("parameters", {})
    values = {k: supported(v, ends.get(k)) for k, v in law.parameters.items()}
    rows = []
    for equation in re.split(r",\s+(?=[A-Z]'? = )", form.formula):
        equation, *note = re.split(r",\s+(?=[A-Z] [a-z])", equation)
        rows.append(mathml(equation, values, of="(N, D)" if form.is_surface and not rows else ""))
        if note:
            rows[-1] += f"<mtext>, {escape(note[0])}</mtext>"
    missing = [k for k in values if k not in _TOKEN.findall(form.formula)]
    rows += [f"{name_markup(k)}<mo>=</mo>{_number(values[k])}" for k in missing]
    inside = '<mspace width="1.5em"></mspace>'.join(f"<mrow>{row}</mrow>" for row in rows)
    return f'<math display="block">{inside}</math>'


def mathml(equation: str, values: Mapping[str, str] | None = None, *, of: str = "") -> str:
    """Return an equation `left = right` as the inside of a MathML row.

    values: texts of the numbers that take the place of names on the right
    of: what the left is a function of, as (N, D)
    """
    left, right = equation.split(" = ", 1)
    reader = _Reader([t for t in _TOKEN.findall(right) if t.strip()], values or {})
    names = _Reader([t for t in _TOKEN.findall(left) if t.strip()], {})
    argument = f"<mtext>{escape(of)}</mtext>" if of else ""
    return f"{_markup(names.sum())}{argument}<mo>=</mo>{_markup(reader.sum())}"


def name_mathml(name: str) -> str:
    """Return a parameter's name as inline MathML."""
    return f"<math>{name_markup(name)}</math>"


def _markup(node: Node) -> str:
    if node.kind == "number":
        return _number(node.text)
    if node.kind == "name":
        return name_markup(node.text)
    if node.kind == "call":
        inside = f"<mrow><mo>(</mo>{_markup(node.parts[0])}<mo>)</mo></mrow>"
        return f"<mi>{node.text}</mi>{inside}" if node.text else inside
    if node.kind == "power":
        base, above = node.parts
        base, exponent = f"<mrow>{_markup(base)}</mrow>", f"<mrow>{_in_line(above)}</mrow>"
        return f"<msup>{base}{exponent}</msup>"
    if node.kind == "product":
        above = _beside(node.parts) or "<mn>1</mn>"
        if not node.below:
            return above
        return f"<mfrac><mrow>{above}</mrow><mrow>{_beside(node.below)}</mrow></mfrac>"
    signs = ["" if i == 0 and s == "+" else s for i, s in enumerate(node.signs)]
    return "".join(
        (f"<mo>{_MINUS if sign == '-' else sign}</mo>" if sign else "") + _markup(part)
        for sign, part in zip(signs, node.parts, strict=True)
    )


def _in_line(node: Node) -> str:
    """Return an exponent: a fraction with a slash, without brackets around it."""
    if node.kind == "call" and not node.text:
        node = node.parts[0]
    if node.kind == "product" and node.below:
        return f"{_beside(node.parts) or '<mn>1</mn>'}<mo>/</mo>{_beside(node.below)}"
    return _markup(node)


def _beside(parts: Sequence[Node]) -> str:
    """Return factors side by side; two numbers with a sign between them."""
    texts, before = [], False
    for part in parts:
        is_number = (part.parts[0] if part.kind == "power" else part).kind == "number"
        texts.append("<mo>×</mo>" if before and is_number else "")
        texts.append(_markup(part))
        before = is_number
    return "".join(texts)


def _number(text: str) -> str:
    sign = f"<mo>{_MINUS}</mo>" if text.startswith("-") else ""
    mantissa, _, exponent = text.removeprefix("-").partition("e")
    if not exponent:
        return f"{sign}<mn>{mantissa}</mn>"
    minus = f"<mo>{_MINUS}</mo>" if exponent.startswith("-") else ""
    power = f"<mrow>{minus}<mn>{exponent.lstrip('-+')}</mn></mrow>"
    return f"{sign}<mn>{mantissa}</mn><mo>×</mo><msup><mn>10</mn>{power}</msup>"


def name_markup(name: str) -> str:
    """Return a name, with its subscript and prime, as the inside of a MathML row."""
    prime = "′" if name.endswith("'") else ""
    match = re.fullmatch(r"([A-Za-z]+?)(?:_(\w+)|(\d+))?", name.rstrip("'"))
    base, *below = match.groups() if match else (name, None, None)
    index = next((b for b in below if b), "")
    letter = f"<mi>{escape(GREEK.get(base, base) + prime)}</mi>"
    return f"<msub>{letter}<mi>{escape(GREEK.get(index, index))}</mi></msub>" if index else letter
