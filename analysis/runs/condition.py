"""The conditions of `where=`, which choose rows of a table.

    rows(frame, "group == 'x' and 1e18 <= flops < 1e20 and not `is test`")      one bool a row

A condition may come from somebody else's file (law.json stores it), so the language is closed: it
reads columns and compares them, and nothing in it can name a function, an attribute or a variable.

    condition   = conjunction {"or" conjunction}
    conjunction = negation {"and" negation}
    negation    = "not" negation | comparison
    comparison  = value {operator value} | value ["not"] "in" list
    operator    = "==" | "!=" | "<" | "<=" | ">" | ">="
    list        = "[" literal {"," literal} "]", or the same in parentheses
    value       = literal | column | "(" condition ")"
    literal     = a number, 'text', "text", True, False

A column name that is not a single word stands in backticks. A missing value meets only `!=`.
"""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import numpy as np
import pandas as pd

LONGEST = 10_000  # characters of a condition, which a person types
DEEPEST = 50  # nested parentheses and `not`: far above any use, far below Python's stack
SHOWN = 80  # characters of a condition, and of a list of columns, that an error repeats
LANGUAGE = (
    "a condition has column names (in `backticks` where they are no single word), numbers, 'text', "
    "True, False, == != < <= > >=, in [..], and, or, not and parentheses"
)
TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?!\w))
    | (?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
    | `(?P<quoted>[^`]+)`
    | (?P<word>[^\W\d]\w*)
    | (?P<mark>==|!=|<=|>=|<|>|\(|\)|\[|\]|,)
    )""",
    re.VERBOSE,
)
COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
INSTEAD = {
    "&": "and",
    "|": "or",
    "~": "not",
    "!": "not",
    "=": "==",
    "&&": "and",
    "||": "or",
    "<>": "!=",
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "AND": "and",
    "OR": "or",
    "NOT": "not",
    "IN": "in",
    "is": "==",
}
Kind = Literal["number", "text", "truth", "mixed"]  # of a value, for comparisons
WORDS = {"True": True, "False": False}
KEYWORDS = ("and", "or", "not", "in")


@dataclass(frozen=True)
class Token:
    """One symbol of a condition: its kind, its value, and where it begins (from 0)."""

    kind: str
    value: Any
    at: int


def rows(table: pd.DataFrame, condition: str) -> np.ndarray:
    """Return which rows of a table meet a condition, a bool array of its length.

    Raises ValueError, in one sentence, for what is no condition, for an unknown column and for a
    comparison of text with numbers.
    """
    return Reader(condition, table).mask()


def as_column(name: str) -> str:
    """Return a column's name as a condition writes it, in backticks where it is no single word."""
    plain = re.fullmatch(r"[^\W\d]\w*", name) and name not in {*KEYWORDS, *WORDS}
    return name if plain else f"`{name}`"


class Reader:
    """Reads one condition from left to right over one table (recursive descent)."""

    def __init__(self, condition: str, table: pd.DataFrame) -> None:
        self.condition = condition
        self.table = table
        self.tokens = self.split()
        self.at = 0
        self.depth = 0

    def mask(self) -> np.ndarray:
        """Read the whole condition."""
        if self.next.kind == "end":
            self.refuse("is empty", self.next)
        value = self.disjunction()
        if self.next.kind != "end":
            self.refuse_misplaced("an operator, and, or, or the end")
        return self.truth(value)

    def split(self) -> list[Token]:
        """Cut the condition into symbols."""
        if len(self.condition) > LONGEST:
            raise ValueError(
                f"where= holds {len(self.condition):,} characters; at most {LONGEST:,} are read"
            )
        tokens, at, end = [], 0, len(self.condition.rstrip())
        while at < end:
            match = TOKEN.match(self.condition, at)
            if match is None or match.lastgroup is None:
                self.refuse_character(at)
            kind = match.lastgroup
            tokens.append(Token(kind, match[kind], match.start(kind)))
            at = match.end()
        return [*tokens, Token("end", "", end)]

    @property
    def next(self) -> Token:
        """The symbol to be read next."""
        return self.tokens[self.at]

    def take(self, *words: str) -> Token | None:
        """Read the next symbol if it is one of some words or marks."""
        token = self.next
        if token.kind in ("word", "mark") and token.value in words:
            self.at += 1
            return token
        return None

    def expect(self, mark: str) -> None:
        """Read a mark that must stand here."""
        if not self.take(mark):
            self.refuse_misplaced(repr(mark))

    def disjunction(self) -> Any:
        """Read what `or` joins."""
        value = self.conjunction()
        while self.take("or"):
            value = self.truth(value) | self.truth(self.conjunction())
        return value

    def conjunction(self) -> Any:
        """Read what `and` joins."""
        value = self.negation()
        while self.take("and"):
            value = self.truth(value) & self.truth(self.negation())
        return value

    def negation(self) -> Any:
        """Read a comparison, or one that `not` turns round."""
        if not self.take("not"):
            return self.comparison()
        self.enter_nesting()
        value = ~self.truth(self.negation())
        self.depth -= 1
        return value

    def comparison(self) -> Any:
        """Read a value, or a chain of comparisons, each with its neighbour."""
        value, result = self.value(), None
        while True:
            if sign := self.take(*COMPARE):
                right = self.value()
                one = self.compare(value, sign, right)
                value = right
            elif self.take("in"):
                one = self.member(value)
            elif self.next.value == "not" and self.tokens[self.at + 1].value == "in":
                self.at += 2
                one = ~self.member(value)
            else:
                return value if result is None else result
            result = one if result is None else result & one

    def value(self) -> Any:
        """Read a literal, a column, or a condition in parentheses."""
        if self.take("("):
            self.enter_nesting()
            value = self.disjunction()
            self.expect(")")
            self.depth -= 1
            return value
        token = self.next
        if token.kind in ("number", "text") or token.value in WORDS:
            return self.literal()
        if token.kind == "quoted" or (token.kind == "word" and token.value not in KEYWORDS):
            self.at += 1
            return self.column(token)
        self.refuse_misplaced("a column or a value")

    def literal(self) -> Any:
        """Read a number, a text, True or False."""
        token = self.next
        self.at += 1
        if token.kind == "number":
            whole = token.value.lstrip("+-").isdigit() and len(token.value) < 19
            return int(token.value) if whole else float(token.value)
        if token.kind == "text":
            return re.sub(r"\\(.)", r"\1", token.value[1:-1], flags=re.DOTALL)
        if token.kind == "word" and token.value in WORDS:
            return WORDS[token.value]
        self.at -= 1
        self.refuse_misplaced("a number, 'text', True or False")

    def column(self, token: Token) -> pd.Series:
        """Return the column that a symbol names."""
        matching = [c for c in self.table.columns if str(c) == token.value]
        if not matching:
            hint = self.hint(token)
            names = short(", ".join(map(str, self.table.columns)), 10 * SHOWN)
            self.refuse(
                f"names the column {token.value!r}, which is not there{hint}; columns are {names}",
                token,
            )
        column = self.table[matching[0]]
        if isinstance(column, pd.DataFrame):
            self.refuse(f"names the column {token.value!r}, which is there twice", token)
        if isinstance(column.dtype, pd.api.extensions.ExtensionDtype) and is_number(column):
            column = pd.Series(column.to_numpy(dtype=float, na_value=np.nan))
        return column.reset_index(drop=True)

    def hint(self, token: Token) -> str:
        """Return what a word that is no column may have been meant for."""
        before = self.tokens[self.at - 2].value if self.at > 1 else ""
        if token.value in ("true", "false"):
            return f"; write {token.value.title()}"
        if token.value in INSTEAD:
            return f"; write {INSTEAD[token.value]!r}"
        return f"; for the text write '{token.value}'" if before in ("==", "!=") else ""

    def member(self, left: Any) -> np.ndarray:
        """Read a list; return for each row whether its value is in the list."""
        close = {"[": "]", "(": ")"}
        opened = self.take(*close)
        if not opened:
            self.refuse_misplaced("a list, as ['a', 'b'],")
        choices = [self.literal()]
        while self.take(","):
            if self.next.value == close[opened.value]:
                break  # a comma may end the list, as in Python
            choices.append(self.literal())
        self.expect(close[opened.value])
        return np.any([self.compare(left, Token("mark", "==", opened.at), c) for c in choices], 0)

    def compare(self, left: Any, sign: Token, right: Any) -> np.ndarray:
        """Compare two values row by row: text only with text, a number or truth only with these."""
        kinds = kind_of(left), kind_of(right)
        if "text" in kinds and set(kinds) & {"number", "truth"}:
            self.refuse(
                "compares text with a number; put the number in quotes, or the text without",
                sign,
            )
        if sign.value not in ("==", "!=") and "truth" in kinds:
            self.refuse(f"orders True and False by {sign.value}; use == or not", sign)
        try:
            answer = COMPARE[sign.value](left, right)
        except (TypeError, ValueError):
            self.refuse(
                f"compares, by {sign.value}, values that have no order; write the column's values "
                "alike in the table",
                sign,
            )
        return self.one_bool_a_row(answer)

    def truth(self, value: Any) -> np.ndarray:
        """Return the rows that meet a condition; refuse a value that is no condition."""
        if kind_of(value) != "truth":
            self.refuse(
                "has a value where a condition is needed; compare it, as in loss < 3", self.next
            )
        return self.one_bool_a_row(value)

    def one_bool_a_row(self, value: Any) -> np.ndarray:
        """Return one bool a row; a missing one is False."""
        if isinstance(value, pd.Series):
            return value.astype("boolean").fillna(False).to_numpy(dtype=bool)
        return np.broadcast_to(np.asarray(value, dtype=bool), len(self.table))

    def enter_nesting(self) -> None:
        """Refuse conditions nested beyond any use before Python's own stack ends."""
        self.depth += 1
        if self.depth > DEEPEST:
            self.refuse(f"is nested more than {DEEPEST} deep", self.next)

    def refuse_character(self, at: int) -> NoReturn:
        """Refuse a character that begins no symbol, and name what to write for it."""
        at += len(self.condition[at:]) - len(self.condition[at:].lstrip())
        if number := re.match(r"\d[\w.]*", self.condition[at:]):
            self.refuse(
                f"holds {number[0]!r}, which is no number; write digits, as 1000 or 1e3",
                Token("strange", number[0], at),
            )
        dotted = re.search(r"\w+(\.\w+)*$", self.condition[:at])
        after = re.match(r"(\.\w+)+", self.condition[at:])
        if dotted and after and dotted[0] + after[0] in map(str, self.table.columns):
            name = dotted[0] + after[0]
            self.refuse(f"holds the column {name}; write `{name}`", Token("strange", name, at))
        mark = self.condition[at : at + 2]
        mark = mark if mark in INSTEAD else mark[:1]
        if mark in INSTEAD:
            self.refuse(f"holds {mark!r}; write {INSTEAD[mark]!r}", Token("strange", mark, at))
        if mark in ("'", '"', "`"):
            self.refuse(f"opens {mark} and does not close it", Token("strange", mark, at))
        self.refuse(f"holds {mark!r}; {LANGUAGE}", Token("strange", mark, at))

    def refuse_misplaced(self, expected: str) -> NoReturn:
        """Refuse the next symbol: something else belongs at its place."""
        token = self.next
        what = "ends" if token.kind == "end" else f"has {str(token.value)!r}"
        if token.kind == "word" and token.value in INSTEAD:
            self.refuse(f"has {token.value!r}; write {INSTEAD[token.value]!r}", token)
        previous = self.tokens[self.at - 1]
        if token.value == ">" and previous.value == "<" and previous.at == token.at - 1:
            self.refuse("has '<>'; write '!='", previous)
        self.refuse(f"{what} where {expected} belongs; {LANGUAGE}", token)

    def refuse(self, what: str, token: Token) -> NoReturn:
        """Raise the sentence: the condition, what is wrong and where."""
        raise ValueError(f"where={short(self.condition)} {what} (at character {token.at + 1})")


def kind_of(value: Any) -> Kind:
    """Return the kind of a value for comparisons: number, text, truth, or mixed."""
    if isinstance(value, pd.Series):
        if pd.api.types.is_bool_dtype(value):
            return "truth"
        if is_number(value):
            return "number"
        kinds: set[Kind] = {kind_of(v) for v in value.dropna().tolist()}  # an object has no hash
        return kinds.pop() if len(kinds) == 1 else "mixed"
    if isinstance(value, bool | np.ndarray):
        return "truth"
    return (
        "text"
        if isinstance(value, str)
        else "number"
        if isinstance(value, int | float)
        else "mixed"
    )


def is_number(column: pd.Series) -> bool:
    """Return whether a column holds numbers, and not true and false."""
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def short(text: str, most: int = SHOWN) -> str:
    """Return a text, cut off where it is long."""
    return text if len(text) <= most else f"{text[:most]}..."
