"""What a public function takes and gives is said where it stands: shapes of every array."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("emcfsys_engine", "emcfsys_tui")
_ARRAY = re.compile(r"\b(np\.ndarray|Tensor)\b")
# Tensors by name (a network's weights) and lists of any arrays have no shape to tell.
_MANY = re.compile(r"\b(Mapping|dict|Sequence|Iterable|list|Callable|OrderedDict)\[")


def _public(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from _public(node)
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node


def _has_an_array(function: ast.FunctionDef) -> bool:
    arguments = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    notes = [function.returns, *(argument.annotation for argument in arguments)]
    words = [ast.unparse(note) for note in notes if note is not None]
    return any(_ARRAY.search(word) and not _MANY.search(word) for word in words)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_function_of_arrays_says_their_shapes(package: str) -> None:
    silent = [
        f"{file.relative_to(ROOT)}:{function.lineno} {function.name}"
        for file in sorted((ROOT / package).rglob("*.py"))
        for function in _public(ast.parse(file.read_text(encoding="utf-8")))
        if _has_an_array(function) and "×" not in (ast.get_docstring(function) or "")
        and "Shapes:" not in (ast.get_docstring(function) or "")
    ]  # fmt: skip
    assert silent == []
