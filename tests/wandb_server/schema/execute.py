"""Run a GraphQL document against plain Python objects, without a schema.

graphql-core parses; this module walks the selection sets. A field is looked up as a method,
attribute or dictionary entry of that very name, so the classes in this package read like the
GraphQL types they stand for. An unknown field of an object is null and is noted down rather
than refused; an unknown query or mutation is an error, because answering it with null would
hide a gap in this server.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

from graphql import (
    DirectiveNode,
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLSyntaxError,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
    Undefined,
    parse,
    value_from_ast_untyped,
)


class GraphQLFailure(Exception):
    """An error that is reported in the `errors` list of the answer."""


class View:
    """Base of the objects that answer for a GraphQL type; methods are fields."""

    typename: str = ""
    interfaces: ClassVar[tuple[str, ...]] = ()
    strict: ClassVar[bool] = False
    """Whether an unknown field is an error; true for the query and mutation roots."""


def obj(typename: str, **fields: Any) -> dict[str, Any]:
    """A small object that needs no class of its own."""
    return {"__typename": typename, **fields}


@dataclass
class Executor:
    """Runs operations; `unknown` collects the (type, field) pairs it answered with null."""

    roots: dict[str, Callable[[], View]]
    unknown: set[tuple[str, str]] = field(default_factory=set)

    def run(
        self, document: str, variables: dict[str, Any] | None, operation_name: str | None
    ) -> dict[str, Any]:
        """The body of the answer: `data`, or `errors`."""
        try:
            walk = self._start(document, variables or {}, operation_name)
            root = self.roots[walk.operation.operation.value]()
            return {"data": walk.complete(root, [walk.operation.selection_set])}
        except (GraphQLFailure, GraphQLSyntaxError) as error:
            return {"data": None, "errors": [{"message": str(error)}]}

    def _start(self, document: str, variables: dict[str, Any], name: str | None) -> _Walk:
        operations = []
        fragments = {}
        for node in _parse(document).definitions:
            if isinstance(node, OperationDefinitionNode):
                operations.append(node)
            elif isinstance(node, FragmentDefinitionNode):
                fragments[node.name.value] = node
        chosen = [
            node for node in operations if not name or (node.name and node.name.value == name)
        ]
        if not chosen:
            raise GraphQLFailure(f"no operation named {name!r}")
        return _Walk(self, chosen[0], fragments, _with_defaults(chosen[0], variables))


def operation_name(document: str) -> str:
    """The name of the first operation in a document, or an empty string."""
    try:
        definitions = _parse(document).definitions
    except GraphQLSyntaxError:
        return ""
    names = (d.name for d in definitions if isinstance(d, OperationDefinitionNode))
    return next((name.value for name in names if name), "")


@dataclass
class _Walk:
    executor: Executor
    operation: OperationDefinitionNode
    fragments: dict[str, FragmentDefinitionNode]
    variables: dict[str, Any]

    def complete(self, value: Any, selections: list[SelectionSetNode]) -> Any:
        if value is None or not selections:
            return value
        if isinstance(value, list | tuple):
            return [self.complete(item, selections) for item in value]
        fields: dict[str, list[FieldNode]] = {}
        for selection in selections:
            for node in self._collect(value, selection):
                key = node.alias.value if node.alias else node.name.value
                fields.setdefault(key, []).append(node)
        return {key: self._field(value, nodes) for key, nodes in fields.items()}

    def _collect(self, value: Any, selection_set: SelectionSetNode) -> Iterator[FieldNode]:
        for node in selection_set.selections:
            if not all(self._wanted(directive) for directive in node.directives):
                continue
            if isinstance(node, FieldNode):
                yield node
            elif isinstance(node, InlineFragmentNode):
                if node.type_condition is None or _is_a(value, node.type_condition.name.value):
                    yield from self._collect(value, node.selection_set)
            elif isinstance(node, FragmentSpreadNode):
                fragment = self.fragments[node.name.value]
                if _is_a(value, fragment.type_condition.name.value):
                    yield from self._collect(value, fragment.selection_set)

    def _wanted(self, directive: DirectiveNode) -> bool:
        condition = bool(self._arguments(directive).get("if"))
        return not condition if directive.name.value == "skip" else condition

    def _arguments(self, node: FieldNode | DirectiveNode) -> dict[str, Any]:
        values = {
            argument.name.value: value_from_ast_untyped(argument.value, self.variables)
            for argument in node.arguments
        }
        defined: dict[str, Any] = _drop_undefined(values)
        return defined

    def _field(self, parent: Any, nodes: list[FieldNode]) -> Any:
        name = nodes[0].name.value
        typename = _typename(parent)
        if name == "__typename":
            return typename
        value = parent.get(name, Undefined) if isinstance(parent, dict) else Undefined
        if isinstance(parent, View):
            value = getattr(parent, name, Undefined)
        if value is Undefined:
            if isinstance(parent, View) and parent.strict:
                raise GraphQLFailure(f'Cannot query field "{name}" on type "{typename}".')
            self.executor.unknown.add((typename, name))
            return None
        if callable(value):
            value = _call(value, self._arguments(nodes[0]))
        return self.complete(value, [node.selection_set for node in nodes if node.selection_set])


@lru_cache(maxsize=512)
def _parse(document: str) -> DocumentNode:
    return parse(document, no_location=True)


def _with_defaults(operation: OperationDefinitionNode, variables: dict[str, Any]) -> dict[str, Any]:
    defaults = {
        node.variable.name.value: value_from_ast_untyped(node.default_value)
        for node in operation.variable_definitions
        if node.default_value is not None
    }
    return {**defaults, **variables}


def _drop_undefined(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _drop_undefined(v) for k, v in value.items() if v is not Undefined}
    if isinstance(value, list):
        return [_drop_undefined(item) for item in value]
    return value


def _call(method: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Call with the arguments the method knows; a null argument means the default."""
    known = _parameters(getattr(method, "__func__", method))
    given = {k: v for k, v in arguments.items() if v is not None}
    if known is not None:
        given = {k: v for k, v in given.items() if k in known}
    return method(**given)


@lru_cache(maxsize=1024)
def _parameters(function: Callable[..., Any]) -> frozenset[str] | None:
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return frozenset(p.name for p in parameters)


def _typename(value: Any) -> str:
    if isinstance(value, View):
        return value.typename
    return str(value.get("__typename", "")) if isinstance(value, dict) else type(value).__name__


def _is_a(value: Any, condition: str) -> bool:
    interfaces = value.interfaces if isinstance(value, View) else ()
    return _typename(value) in ("", condition) or condition in interfaces
