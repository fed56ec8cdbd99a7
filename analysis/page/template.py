"""Templates of this room filled with values: style, macros, figures as markup, script."""

import re
from importlib.resources import files
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from analysis.page.gallery import Picture


def render(name: str, **values: Any) -> str:
    """Return a template of this room with its values and the common style."""
    folder = files("analysis.page") / "templates"
    names = (name, "macros.html.j2", "style.css.j2")
    texts = {n: folder.joinpath(n).read_text(encoding="utf-8") for n in names}
    texts[name] = "{% from 'macros.html.j2' import figures, grid, head %}" + texts[name]
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, loader=DictLoader(texts)
    )
    style = Markup(texts["style.css.j2"])
    return environment.get_template(name).render(**values, style=style)


def page_script() -> Markup:
    """Return the script of a page: folding, downloads, points, the table of cells."""
    return Markup(files("analysis.page").joinpath("page.js").read_text(encoding="utf-8"))


def inline(pictures: list[Picture]) -> list[dict[str, Any]]:
    """Return figures as markup without XML namespaces, which a page does not need."""
    figures = []
    for picture in pictures:
        svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", picture.svg).replace("xlink:href", "href")
        figures.append({"svg": Markup(svg), "caption": picture.caption, "name": picture.name})
    return figures
