"""Pages of a list, in the shape of a GraphQL connection."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from .execute import GraphQLFailure, obj

T = TypeVar("T")


def global_id(*parts: object) -> str:
    """An opaque identifier; base64, because wandb-core decodes artifact identifiers."""
    return base64.b64encode(":".join(str(part) for part in parts).encode()).decode()


def connection(
    kind: str,
    items: Sequence[T],
    view: Callable[[T], Any],
    first: int | None = None,
    after: str | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """One page of `items`; only the items on the page are turned into views."""
    start = _offset(after) if after else 0
    stop = len(items) if first is None else min(len(items), start + first)
    edges = [
        obj(f"{kind}Edge", node=view(items[i]), cursor=_cursor(i + 1)) for i in range(start, stop)
    ]
    page = obj(
        "PageInfo",
        endCursor=_cursor(stop) if edges else None,
        startCursor=_cursor(start) if edges else None,
        hasNextPage=stop < len(items),
        hasPreviousPage=start > 0,
    )
    return obj(f"{kind}Connection", edges=edges, pageInfo=page, totalCount=len(items), **extra)


def _cursor(offset: int) -> str:
    return base64.b64encode(f"cursor:{offset}".encode()).decode()


def _offset(cursor: str) -> int:
    try:
        return int(base64.b64decode(cursor).decode().removeprefix("cursor:"))
    except ValueError:
        raise GraphQLFailure(f"not a cursor: {cursor!r}") from None
