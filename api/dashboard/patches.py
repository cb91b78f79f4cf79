"""JSON patches (RFC 6902): the operations that the repairs of objections use."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from core.errors import ModelpressError


def apply(patch: Sequence[Mapping[str, Any]], document: Mapping[str, Any]) -> dict[str, Any]:
    """The document after `add`, `replace` and `remove`; raises `invalid_request` for a path that is not there."""
    result: dict[str, Any] = deepcopy(dict(document))
    for operation in patch:
        *way, last = [part.replace("~1", "/").replace("~0", "~") for part in str(operation["path"]).split("/")[1:]]
        try:
            _change(_walk(result, way), last, operation)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise ModelpressError("invalid_request", f"The repair does not fit: {operation['path']}.") from error
    return result


def _walk(node: Any, way: Sequence[str]) -> Any:
    for part in way:
        node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
    return node


def _change(parent: Any, key: str, operation: Mapping[str, Any]) -> None:
    kind = operation["op"]
    if kind == "remove":
        parent.pop(int(key) if isinstance(parent, list) else key)
    elif kind == "add" and isinstance(parent, list):
        parent.insert(len(parent) if key == "-" else int(key), operation["value"])
    elif kind in ("add", "replace"):
        parent[int(key) if isinstance(parent, list) else key] = operation["value"]
    else:
        raise ValueError(kind)
