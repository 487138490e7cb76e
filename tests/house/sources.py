"""The product's source files, parsed: what the house's rules look at."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("client/earmark_client", "server/earmark_server", "shared/earmark_shared")
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def modules():
    """Return `{path from the root: syntax tree}` of every module that people write."""
    found = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")) if "wire/v1" not in path.as_posix()]
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in found}


def imported_names(tree):
    """Return the top-level names of every import of a module, wherever in it the import stands."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def functions(tree):
    """Yield every function of a module with whether it is public: no name on the way to it starts with an underscore."""

    def walk(node, is_public):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, FUNCTION):
                yield child, is_public and not child.name.startswith("_")
                yield from walk(child, False)
            else:
                inner = is_public and not (isinstance(child, ast.ClassDef) and child.name.startswith("_"))
                yield from walk(child, inner)

    yield from walk(tree, True)


def body_lines(function):
    """Return how many lines a function takes, without decorators and docstring."""
    total = function.end_lineno - function.lineno + 1
    first = function.body[0]
    has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    return total - (first.end_lineno - first.lineno + 1 if has_docstring else 0)
