"""Read a YAML file of values: without tags, without interpolations, of a bounded size.

YAML's aliases let forty lines stand for 10^12 nodes, so nodes are counted before they are built.
Numbers are read as Hydra reads them.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from scaling.schema.safety import check_readable, refuse_code

MOST_BYTES = 8 << 20  # The largest file in bytes; a plan has about 40 kB.
MOST_NODES = 500_000  # The most values, aliases written out; a plan has about a thousand.
DEEPEST = 60  # The most mappings and lists inside one another; a plan has six.


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the floats of YAML 1.2 (1e-3 is one) and without dates."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if not tag.endswith(":timestamp")]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def read_yaml(path: str | Path) -> Any:
    """Return the values of a YAML file.

    Raises FileNotFoundError for a missing file, and ValueError for a file that is no YAML, holds a
    tag or an interpolation, names a key twice, or stands for too many values.
    """
    path = check_readable(path, most_bytes=MOST_BYTES)
    try:
        text = path.read_text(encoding="utf-8-sig")
        node = yaml.compose(text, Loader=_Loader)
        if node is None:
            return None
        _count(node, path, {}, ())
        values = yaml.load(text, Loader=_Loader)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8; write it again") from error
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deep to be read; write it again") from error
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{path} is not YAML ({reason}); write it again") from error
    except ValueError as error:
        if str(error).startswith(str(path)):  # raised by _count
            raise
        raise ValueError(f"{path} holds a value that cannot be read ({error})") from error
    refuse_code(values, path)
    return values


def _count(node: yaml.Node, path: Path, counts: dict[int, int], above: tuple[int, ...]) -> int:
    """Return how many nodes a node stands for, with aliases written out; ValueError for too many.

    node: of PyYAML
    path: the file, for the error
    counts: nodes that are counted already, by their id
    above: ids of the nodes around this one
    """
    if id(node) in counts:
        return counts[id(node)]
    if id(node) in above or len(above) > DEEPEST:
        raise ValueError(f"{path} is nested more than {DEEPEST} deep; write it again")
    inside: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        names = [k.value for k, _ in node.value if isinstance(k, yaml.ScalarNode)]
        if twice := sorted(n for n, many in Counter(names).items() if many > 1 and n != "<<"):
            raise ValueError(f"{path} names the key {twice[0]!r} twice; keep one")
        inside = [n for pair in node.value for n in pair]
    elif isinstance(node, yaml.SequenceNode):
        inside = node.value
    total = 1 + sum(_count(n, path, counts, (*above, id(node))) for n in inside)
    if total > MOST_NODES:
        raise ValueError(
            f"{path} stands for more than {MOST_NODES:,} values; a plan has about a thousand"
        )
    counts[id(node)] = total
    return total
