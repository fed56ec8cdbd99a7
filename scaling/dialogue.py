"""Dialogues as text: one template for messages, for prompts put into it and for the export.

A system's message stands first, then turns, as in the dialogues of Bai et al. 2022 (2204.05862).
Messages are lists of `role` and `content`, or of `from` and `value`. Each of the assistant's turns
is a completion, what was said before it the prompt.
"""

from typing import Any

from scaling.tokenizer import SEP, SPECIAL

HUMAN, TURN = "\n\nHuman:", "\n\nAssistant:"
ROLES = {
    "system": "",
    "user": HUMAN,
    "human": HUMAN,
    "assistant": TURN,
    "gpt": TURN,
}
TEMPLATES = ("", "chat")
# as transformers renders it; the last turn is closed by the end of text alone
JINJA = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}"
    "{% elif m['role'] == 'user' %}{{ '"
    + HUMAN.replace("\n", "\\n")
    + " ' + m['content'] }}{% else %}{{ '"
    + TURN.replace("\n", "\\n")
    + " ' + m['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '"
    + TURN.replace("\n", "\\n")
    + SPECIAL[SEP]
    + "' }}{% endif %}"
)


def is_messages(value: Any) -> bool:
    """Say whether a value is a list of messages."""
    return isinstance(value, list) and bool(value) and all(isinstance(m, dict) for m in value)


def turns_of(messages: list[dict[str, Any]], where: Any) -> list[tuple[str, str]]:
    """Return each message's mark and text; ValueError for a role that is unknown."""
    found = []
    for message in messages:
        role, text = message.get("role", message.get("from")), message.get("content")
        text = message.get("value") if text is None else text
        if role not in ROLES or not isinstance(text, str):
            raise ValueError(
                f"{where} has a message of role {role!r} with the keys "
                f"{', '.join(sorted(message))}; give role (one of {', '.join(ROLES)}) and content"
            )
        found.append((ROLES[role], text.strip()))
    return found


def rendered(turns: list[tuple[str, str]]) -> str:
    """Return turns as one text."""
    return "".join(f"{mark} {text}" if mark else text for mark, text in turns)


def completions_of(messages: list[dict[str, Any]], where: Any) -> list[tuple[str, str]]:
    """Return prompt and completion of each of the assistant's turns; the first may not be its."""
    turns = turns_of(messages, where)
    return [
        (rendered(turns[:i]) + TURN, f" {text}")
        for i, (mark, text) in enumerate(turns)
        if mark == TURN and i and text
    ]


def asked(prompt: str) -> str:
    """Return a prompt as the one turn of a dialogue."""
    return f"{HUMAN} {prompt.strip()}{TURN}"


def opening(text: str) -> str:
    """Return a dialogue up to its first answer, which all of its later prompts share."""
    return text[: text.find(TURN)] if TURN in text else text
