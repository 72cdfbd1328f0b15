"""The small changes of a module that its tests should notice."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import NamedTuple

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}


class Change(NamedTuple):
    """A piece of a module's source and what it is replaced by.

    Attributes:
        line: number of its first line, from 1.
        start, end: offsets in the source, encoded as UTF-8.
    """

    line: int
    start: int
    end: int
    before: str
    after: str

    def apply(self, source: str) -> str:
        """Return the module's source with the change."""
        data = source.encode()
        return (data[: self.start] + self.after.encode() + data[self.end :]).decode()


def changes(source: str, without: tuple[str, ...] = ()) -> list[Change]:
    """Return the possible changes of a module, in the order of its source.

    Types, docstrings, decorators, f-strings and the texts of errors stay as they are.

    Args:
        without: names of functions and classes that are not changed.
    """
    starts = [0]
    for row in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(row))
    found = []
    for node in _changeable(ast.parse(source), without):
        for after in _replacements(node):
            start = starts[node.lineno - 1] + node.col_offset
            end = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
            before = source.encode()[start:end].decode()
            found.append(Change(node.lineno, start, end, before, after))
    return sorted(found)


def _changeable(node: ast.AST, without: tuple[str, ...]) -> Iterator[ast.stmt | ast.expr]:
    if isinstance(node, ast.JoinedStr | ast.Raise):
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    if isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias":
        return
    if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in without:
        return
    if isinstance(node, ast.stmt | ast.expr):
        yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _changeable(child, without)


def _replacements(node: ast.stmt | ast.expr) -> Iterator[str]:
    make: Callable[..., Iterator[str]] | None = _BY_TYPE.get(type(node))
    if make is not None:
        yield from make(node)


def _comparison(node: ast.Compare) -> Iterator[str]:
    for at, operator in enumerate(node.ops):
        ops = [*node.ops[:at], COMPARISONS[type(operator)](), *node.ops[at + 1 :]]
        yield ast.unparse(ast.Compare(node.left, ops, node.comparators))


def _boolean(node: ast.BoolOp) -> Iterator[str]:
    other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    yield f"({ast.unparse(ast.BoolOp(other, node.values))})"


def _arithmetic(node: ast.BinOp) -> Iterator[str]:
    if isinstance(node.op, ast.Add | ast.Sub):
        other = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        yield ast.unparse(ast.BinOp(node.left, other, node.right))


def _negation(node: ast.UnaryOp) -> Iterator[str]:
    if isinstance(node.op, ast.Not):
        yield f"({ast.unparse(node.operand)})"


def _constant(node: ast.Constant) -> Iterator[str]:
    value = node.value
    if isinstance(value, bool):
        yield repr(not value)
    elif isinstance(value, int | float):
        yield from (repr(value + 1), repr(value - 1))
    elif isinstance(value, str):
        yield repr("") if value else repr("changed")


def _result(node: ast.Return) -> Iterator[str]:
    if node.value is not None and ast.unparse(node.value) not in ("None", "False"):
        yield "return None"


def _call(node: ast.Expr) -> Iterator[str]:
    if isinstance(node.value, ast.Call):
        yield "pass"


_BY_TYPE: dict[type[ast.AST], Callable[..., Iterator[str]]] = {
    ast.Compare: _comparison,
    ast.BoolOp: _boolean,
    ast.BinOp: _arithmetic,
    ast.UnaryOp: _negation,
    ast.Constant: _constant,
    ast.Return: _result,
    ast.Expr: _call,
}
