"""Settings as a command line takes them: what a message prints can be pasted into bash."""

import re
import shlex

_PLAIN = re.compile(r"(\.{0,2}/)*[A-Za-z_][A-Za-z0-9_./-]*")
_WORDS = {"null", "true", "false", "nan", "inf"}  # which Hydra's grammar reads as values


def override(key: str, value: str) -> str:
    """Return key=value, quoted for Hydra's grammar and for the shell where either needs it."""
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return f"{key}={value}"
    text = re.sub(r'(\\*)"', r'\1\1\\"', value)  # backslashes count only before a quote
    text = re.sub(r"(\\+)$", r"\1\1", text)
    text = re.sub(r"\$\{", r"\\${", text)  # no interpolation
    return shlex.quote(f'{key}="{text}"')
