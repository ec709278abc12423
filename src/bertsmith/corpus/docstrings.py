"""The docstrings of a Python source file, read without importing it."""

import ast
import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeGuard

_DOCUMENTING_CALLS = ("add_docstr", "add_newdoc", "_add_docstr")
_BLOCKS = ("body", "orelse", "handlers", "finalbody")


def docstrings_of(source: str) -> list[str]:
    """The docstrings of a module, in order.

    Also those that a module gives to functions written in C (`add_docstr`, `add_newdoc`).

    Args:
        source: Python source.

    Returns:
        Texts as written, with their line ends and indentation.

    Raises:
        SyntaxError, ValueError, RecursionError: The source is not Python of this version.
    """
    with warnings.catch_warnings(), _without_collector():
        warnings.simplefilter("ignore")  # such as an invalid escape in somebody's docstring
        tree = ast.parse(source)
    strings = list(_docstrings(tree))
    if any(call in source for call in _DOCUMENTING_CALLS):
        strings += _given_docstrings(tree)
    return [str(node.value) for node in sorted(strings, key=lambda node: node.lineno)]


@contextmanager
def _without_collector() -> Iterator[None]:
    """Let no garbage be looked for: a syntax tree has no cycles, and looking takes a third of the time of parsing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _docstrings(node: ast.AST) -> Iterator[ast.Constant]:
    """The docstrings of a module and of all classes and functions in it; only statements are visited."""
    for block in _BLOCKS:
        statements: list[ast.AST] = getattr(node, block, [])
        if block == "body" and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = statements[0] if statements else None
            if isinstance(first, ast.Expr) and _is_string(first.value):
                yield first.value
        for statement in statements if isinstance(statements, list) else []:
            yield from _docstrings(statement)


def _given_docstrings(tree: ast.Module) -> list[ast.Constant]:
    """The strings that are handed to the functions that document others."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _name(node.func) in _DOCUMENTING_CALLS:
            strings = [part for argument in node.args for part in ast.walk(argument) if _is_string(part)]
            found += [part for part in strings if " " in str(part.value)]  # not a name
    return found


def _is_string(node: ast.AST) -> TypeGuard[ast.Constant]:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
