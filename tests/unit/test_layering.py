"""What import-linter cannot say: fwrunner imports the standard library, and nothing else.

(That it is the library of Python 3.6, and its syntax, is checked by vermin in `make lint`.)
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import fwrunner

ALLOWED = sys.stdlib_module_names | {"fwrunner"}


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").partition(".")[0]


def test_fwrunner_needs_nothing_but_the_standard_library() -> None:
    sources = sorted(Path(str(fwrunner.__file__)).parent.rglob("*.py"))
    assert len(sources) > 1
    foreign = {
        (path.name, name)
        for path in sources
        for name in imported(ast.parse(path.read_bytes()))
        if name not in ALLOWED
    }
    assert not foreign
