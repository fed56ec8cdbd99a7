"""Dialogues as text: one template for messages, for prompts put into it and for the export.

A system's message stands first, then turns, as in the dialogues of Bai et al. 2022 (2204.05862).
A message has `role` and `content`, or `from` and `value`; a content is a text or a list of parts
with text. Tool calls of an assistant are written as JSON, one a line, after the text of the
message. Each turn of the assistant is a completion, and all text before it the prompt.
"""

import json
from typing import Any

from scaling.data.row_text import clean, describe, is_none, text_of
from scaling.data.tokenizer import SEP, SPECIAL

HUMAN, TURN, TOOL = "\n\nHuman:", "\n\nAssistant:", "\n\nTool:"
ROLES = {  # The mark that opens a message of a role; a system's message has none.
    "system": "",
    "user": HUMAN,
    "human": HUMAN,
    "assistant": TURN,
    "gpt": TURN,
    "developer": "",
    "tool": TOOL,
    "function": TOOL,
}
TEXT_PARTS = (
    None,
    "text",
    "input_text",
    "output_text",
)  # Types of a content's parts that are read.


def _jinja() -> str:
    """Return `render(turns_of(...))` as a template of transformers, for the export.

    The last turn is closed by the end of text alone. transformers stores the text of this template,
    so its variables keep their names.
    """
    human, turn, tool = (mark.replace("\n", "\\n") for mark in (HUMAN, TURN, TOOL))
    return (
        "{% for m in messages %}"
        "{% set said = m['content'] or '' %}"
        "{% set said = said if said is string else said | map(attribute='text') | join %}"
        "{% set all = namespace(lines=[said | trim] if said | trim else []) %}"
        "{% set calls = m['tool_calls'] or "
        "([m['function_call']] if m['function_call'] else []) %}"
        "{% for c in calls %}"
        "{% set all.lines = all.lines + [(c['function'] or c) | tojson] %}{% endfor %}"
        "{% set text = all.lines | join('\\n') %}"
        "{% if m['role'] in ('system', 'developer') %}"
        "{{ text if loop.first else '\\n\\n' + text }}"
        f"{{% elif m['role'] == 'user' %}}{{{{ '{human} ' + text }}}}"
        f"{{% elif m['role'] in ('tool', 'function') %}}{{{{ '{tool} ' + text }}}}"
        f"{{% else %}}{{{{ '{turn} ' + text }}}}{{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ '{turn}{SPECIAL[SEP]}' }}}}{{% endif %}}"
    )


JINJA = _jinja()


def is_messages(value: Any) -> bool:
    """Say whether a value is a list of messages."""
    return isinstance(value, list) and bool(value) and all(isinstance(m, dict) for m in value)


def turns_of(messages: list[dict[str, Any]], where: str) -> list[tuple[str, str]]:
    """Return each message's mark and text; `where` names the row in errors.

    Raises NoText for a message without text, ValueError for an unknown role or content.
    """
    turns = []
    for number, message in enumerate(messages, start=1):
        at = f"{where}, message {number}"
        role = message.get("role", message.get("from"))
        if not isinstance(role, str) or role not in ROLES:
            raise ValueError(
                f"{at} has the role {role!r} of no turn; give one of {', '.join(ROLES)}"
            )
        turns.append((ROLES[role], _text(message, at)))
    return turns


def _text(message: dict[str, Any], at: str) -> str:
    """Return a message's text: its content, then the tool calls of an assistant as JSON."""
    value, calls = message.get("content"), _calls(message, at)
    value = message.get("value") if value is None else value
    if isinstance(value, list):
        text = "".join(_part(part, at) for part in value)
    else:
        text = "" if calls and is_none(value) else text_of(value, "content", at)
    return "\n".join([text.strip(), *calls] if text.strip() else calls)


def _part(part: Any, at: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or kind not in TEXT_PARTS:
        what = f"of type {kind!r}" if kind else describe(part)
        raise ValueError(f"{at} has a part {what}; text models read parts of type 'text' alone")
    return text_of(part.get("text"), "text of a part", at)


def _calls(message: dict[str, Any], at: str) -> list[str]:
    """Return the tool calls of a message, each as JSON."""
    one = message.get("function_call")
    calls = message.get("tool_calls") or ([one] if one else [])
    if not isinstance(calls, list) or not all(isinstance(c, dict) for c in calls):
        raise ValueError(f"{at} has tool_calls of another layout; give a list of objects")
    return [clean(json.dumps(c.get("function") or c, ensure_ascii=False)) for c in calls]


def render(turns: list[tuple[str, str]]) -> str:
    """Return turns as one text."""
    first, *rest = [f"{mark} {text}" if mark else text for mark, text in turns]
    later = [t if mark else f"\n\n{t}" for t, (mark, _) in zip(rest, turns[1:], strict=True)]
    return "".join([first, *later])


def completions_of(messages: list[dict[str, Any]], where: str) -> list[tuple[str, str]]:
    """Return prompt and completion of each turn of the assistant that has a turn before it.

    A completion may be empty.
    """
    turns = turns_of(messages, where)
    return [
        (render(turns[:i]) + TURN, f" {text}" if text else "")
        for i, (mark, text) in enumerate(turns)
        if mark == TURN and i
    ]


def as_dialogue(prompt: str) -> str:
    """Return a prompt as the one turn of a dialogue."""
    return f"{HUMAN} {prompt.strip()}{TURN}"


def before_first_answer(text: str) -> str:
    """Return a dialogue up to its first answer, which all of its later prompts share."""
    return text[: text.find(TURN)] if TURN in text else text
