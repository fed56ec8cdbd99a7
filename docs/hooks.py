"""What MkDocs does to a page before it is built: equations become MathML.

Pages write equations as $...$ and $$...$$, which GitHub shows too. Every browser draws MathML, so
the site needs no script for them.
"""

import re

from latex2mathml.converter import convert

# Fenced blocks and code spans are left alone; in them a dollar is a prompt or a variable.
CODE = re.compile(r"(^```.*?^```|^    [^\n]*$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
INLINE = re.compile(r"(?<![\\$\w])\$(?!\s)([^$\n]+?)(?<!\s)\$(?![\w$])")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Return a page with its equations as MathML."""
    parts = CODE.split(markdown)
    parts[::2] = [equations(part) for part in parts[::2]]
    return "".join(parts)


def equations(text: str) -> str:
    """Return a text without code, its equations converted."""
    text = BLOCK.sub(lambda m: f"\n\n{convert(m[1].strip(), display='block')}\n\n", text)
    return INLINE.sub(lambda m: convert(m[1]), text)
