"""Dialogues as text: one template for messages, for prompts put into it and for the export.

A tokenizer of somebody else brings a template of its own; the rest of this text is of ours.

A system's message stands first, then turns, as in the dialogues of Bai et al. 2022 (2204.05862).
A message has `role` and `content`, or `from` and `value`; a content is a text or a list of parts
with text. Tool calls of an assistant are written as JSON, one a line, after the text of the
message. Each turn of the assistant is a completion, and all text before it the prompt.
"""

import json
import re
from dataclasses import dataclass
from datetime import datetime
from functools import cache, cached_property
from typing import Any, NoReturn

from jinja2 import Environment, TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from scaling.data.row_text import clean, describe, is_none, text_of

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

TEMPLATE = "the chat template of the tokenizer"
# The marks of the text that was generated, which `transformers` adds to Jinja.
GENERATION = re.compile(r"{%-?\s*(?:end)?generation\s*-?%}")


def jinja_of_own_marks(separator: str) -> str:
    """Return `render(turns_of(...))` as a template of transformers, for the export.

    separator: the token that ends a prompt; empty in a vocabulary without one

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
        f"{{% if add_generation_prompt %}}{{{{ '{turn}{separator}' }}}}{{% endif %}}"
    )


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


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """How dialogues become text: our own marks, or the Jinja template of somebody's tokenizer.

    jinja: the template; empty for our own marks
    names: the special tokens that a template may write, as (eos_token, text)
    """

    jinja: str = ""
    names: tuple[tuple[str, str], ...] = ()

    @cached_property
    def turn(self) -> str:
        """The text that every prompt of a dialogue ends with: it opens an answer.

        ValueError for a template that does not write the text of a message.
        """
        if not self.jinja:
            return TURN
        mark = "message"
        text = self._text([{"role": "user", "content": mark}], opens_answer=True, where=TEMPLATE)
        if mark not in text:
            raise ValueError(f"{TEMPLATE} does not write the text of a user's message; mend it")
        return text.rpartition(mark)[2]

    def is_dialogue(self, prompt: str) -> bool:
        """Say whether a prompt ends as a dialogue's prompts do."""
        return bool(self.turn) and prompt.endswith(self.turn)

    def completions_of(self, messages: list[dict[str, Any]], where: str) -> list[tuple[str, str]]:
        """Return prompt and completion of each turn of the assistant that has a turn before it.

        messages: the dialogue
        where: the row, for messages of errors

        A completion may be empty.
        """
        turns = turns_of(messages, where)
        answers = [i for i, (mark, _) in enumerate(turns) if mark == TURN and i]
        if not self.jinja:
            return [
                (render(turns[:i]) + TURN, f" {turns[i][1]}" if turns[i][1] else "")
                for i in answers
            ]
        plain, completions = _plain(messages, turns), []
        for i in answers:
            prompt = self._text(plain[:i], opens_answer=True, where=where)
            whole = self._text(plain[: i + 1], opens_answer=False, where=where)
            completion = turns[i][1]
            if whole.startswith(prompt):  # else the template writes the last answer otherwise
                end = dict(self.names).get("eos_token", "")
                completion = whole[len(prompt) :]
                completion = completion.rpartition(end)[0] if end in completion else completion
            completions.append((prompt, completion if turns[i][1] else ""))
        return completions

    def prompt_of(self, messages: list[dict[str, Any]], where: str) -> str:
        """Return messages as the prompt of the answer that follows them."""
        turns = turns_of(messages, where)
        if not self.jinja:
            return render(turns) + TURN
        return self._text(_plain(messages, turns), opens_answer=True, where=where)

    def as_dialogue(self, prompt: str, completion: str) -> tuple[str, str]:
        """Return a prompt as the one turn of a dialogue, and its completion."""
        if not self.jinja:
            return f"{HUMAN} {prompt.strip()}{TURN}", f" {completion.strip()}"
        messages = [{"role": "user", "content": prompt.strip()}]
        text = self._text(messages, opens_answer=True, where=TEMPLATE)
        return text, completion.strip()

    def before_first_answer(self, text: str) -> str:
        """Return a dialogue up to its first answer, which all of its later prompts share."""
        return text[: text.find(self.turn)] if self.turn and self.turn in text else text

    def _text(self, messages: list[dict[str, str]], *, opens_answer: bool, where: str) -> str:
        try:
            template = _environment().from_string(GENERATION.sub("", self.jinja))
            return template.render(
                messages=messages, add_generation_prompt=opens_answer, **dict(self.names)
            )
        except Exception as error:  # a template may raise anything
            raise ValueError(
                f"{where}: the chat template of the tokenizer refuses the messages ({error}); mend"
                " the row, or the template"
            ) from error


OWN_CHAT = ChatTemplate()


def check_template(jinja: str, where: str) -> None:
    """Raise ValueError for a template that is no Jinja; `where` names its folder."""
    try:
        _environment().from_string(GENERATION.sub("", jinja))
    except TemplateError as error:
        raise ValueError(
            f"{where} has a chat template that is no Jinja ({error}); mend chat_template in"
            " tokenizer_config.json (or chat_template.jinja), or take it out"
        ) from error


def _plain(messages: list[dict[str, Any]], turns: list[tuple[str, str]]) -> list[dict[str, str]]:
    """Return messages with the roles that templates know and their texts."""
    names = {"human": "user", "gpt": "assistant", "developer": "system", "function": "tool"}
    roles = [str(m.get("role", m.get("from"))) for m in messages]
    return [
        {"role": names.get(role, role), "content": text}
        for role, (_, text) in zip(roles, turns, strict=True)
    ]


@cache
def _environment() -> Environment:
    """Return the sandbox in which `transformers` runs chat templates too."""

    def raise_exception(message: str) -> NoReturn:
        raise TemplateError(message)

    def as_json(value: Any, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    options = {"trim_blocks": True, "lstrip_blocks": True, "extensions": [loopcontrols]}
    environment = ImmutableSandboxedEnvironment(**options)
    environment.filters["tojson"] = as_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment
