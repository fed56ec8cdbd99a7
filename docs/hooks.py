"""What MkDocs does to a page: equations become MathML, and nothing is loaded from elsewhere.

Pages write equations as $...$ and $$...$$, which GitHub shows too. Every browser draws MathML, so
the site needs no script for them. The theme's search loads a small script from a server where the
site is opened from a folder; the site carries that script (iframe-worker 1.0.4) instead.
"""

import re

from latex2mathml.converter import convert
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

# Fenced blocks and code spans are left alone; in them a dollar is a prompt or a variable.
CODE = re.compile(r"(^```.*?^```|^    [^\n]*$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
INLINE = re.compile(r"(?<![\\$\w])\$(?!\s)([^$\n]+?)(?<!\s)\$(?![\w$])")
ROOTED = re.compile(r'\b(href|src|action)="/(?!/)')
SHIM = "https://unpkg.com/iframe-worker/shim"


def on_post_page(output: str, *, page: Page, **_: object) -> str:
    """Return a page whose search finds its script in the site."""
    return output.replace(SHIM, get_relative_url("iframe_worker.js", page.url))


def on_post_template(output_content: str, *, template_name: str, **_: object) -> str:
    """Return a page of the theme's own, as 404.html, with links that hold in any folder."""
    relative = ROOTED.sub(r'\1="', output_content).replace('"base": "/"', '"base": "."')
    return relative.replace(SHIM, "iframe_worker.js")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Return a page with its equations as MathML."""
    parts = CODE.split(markdown)
    parts[::2] = [equations(part) for part in parts[::2]]
    return "".join(parts)


def equations(text: str) -> str:
    """Return a text without code, its equations converted."""
    text = BLOCK.sub(lambda m: f"\n\n{convert(m[1].strip(), display='block')}\n\n", text)
    # A line that begins with <math> would be a block to Markdown; one with <span> is not.
    return INLINE.sub(lambda m: f"<span>{convert(m[1])}</span>", text)
