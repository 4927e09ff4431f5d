"""What `index.py` exports: `handler` or `app`, and what may stand beside it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import msgspec

Hook = Callable[..., Any]


def is_async(function: Any) -> bool:
    """`async def` (a generator too), also as a callable object or behind functools.partial."""
    method = getattr(function, "__call__", None)  # noqa: B004 - the method itself is inspected
    return any(
        inspect.iscoroutinefunction(candidate) or inspect.isasyncgenfunction(candidate)
        for candidate in (function, method)
    )


class Exports(msgspec.Struct, frozen=True):
    """The exports of a function.

    Attributes:
        handler: None: it exports `app`.
        startup: called without an argument.
        before_unload: called with the reason: "termination", "reload", "removed", "early_drop",
            "wall_clock", "memory" or "cpu".
    """

    handler: Hook | None = None
    app: Any = None
    websocket: Hook | None = None
    startup: Hook | None = None
    before_unload: Hook | None = None


def exports_of(module: ModuleType, where: str) -> Exports:
    """What a function's entry module exports.

    None and modules do not count: a file may well `import websocket`.

    Args:
        where: path of the entry file, for the messages.

    Raises:
        ImportError: nothing to serve, too much of it, or something of the wrong kind.
    """
    found = {name: getattr(module, name, None) for name in Exports.__struct_fields__}
    found = {
        name: value
        for name, value in found.items()
        if value is not None and not isinstance(value, ModuleType)
    }
    served = [name for name in ("handler", "app") if callable(found.get(name))]
    if len(served) != 1:
        raise ImportError(_nothing_served(served, found, where))
    if served == ["handler"]:
        found.pop("app", None)
        _check_function("handler", found["handler"], where, "async def handler(request)", "request")
        _check_socket(found.get("websocket"), where)
    else:
        found.pop("handler", None)
        _leave_to_the_app(found, module, where)
    _check_function("startup", found.get("startup"), where, "async def startup()")
    _check_function(
        "before_unload", found.get("before_unload"), where, "async def before_unload(reason)", "reason"
    )
    return Exports(**found)


def _nothing_served(served: list[str], found: dict[str, Any], where: str) -> str:
    if served:
        return f"{where} exports both `handler` and `app`: keep one of them"
    wrong = [name for name in ("handler", "app") if name in found]
    if wrong:
        kind = type(found[wrong[0]]).__name__
        return f"{where} exports `{wrong[0]}`, which cannot be called, for it is of type {kind}: {_DEFINE}"
    return f"{where} exports neither `handler` nor `app`: {_DEFINE}"


_DEFINE = "define `async def handler(request)`"


def _check_socket(websocket: Any, where: str) -> None:
    wanted = "async def websocket(ws)"
    _check_function("websocket", websocket, where, wanted, "ws")
    plain = inspect.isfunction(websocket) and not hasattr(websocket, "__wrapped__")
    if plain and not inspect.iscoroutinefunction(websocket):
        raise ImportError(f"{where}: `websocket` must be asynchronous: define `{wanted}`")


def _leave_to_the_app(found: dict[str, Any], module: ModuleType, where: str) -> None:
    """Take out of `found` what belongs to the application, although its name is one of ours.

    Raises:
        ImportError: a `websocket` that nobody would call.
    """
    app = found["app"]
    if _runs_itself(app, found.get("startup")):
        del found["startup"]  # it would run twice
    websocket = found.pop("websocket", None)
    is_ours = inspect.iscoroutinefunction(websocket) and websocket.__module__ == module.__name__
    if is_ours and not _routes_to(app, websocket):
        raise ImportError(
            f"{where} exports `websocket` beside `app`, which handles its own WebSockets: "
            "give the application a route for it, or rename it"
        )


def _runs_itself(app: Any, hook: Any) -> bool:
    """The application calls it at its own startup: frameworks keep such functions in lists."""
    if hook is None:
        return False
    lists: list[Any] = []
    for owner in (app, getattr(app, "router", None)):
        lists += [*getattr(owner, "__dict__", {}).values(), getattr(owner, "on_startup", None)]
    return any(item is hook for held in lists if isinstance(held, list | tuple) for item in held)


def _routes_to(app: Any, websocket: Any) -> bool:
    routes = getattr(app, "routes", None)
    return isinstance(routes, list | tuple) and any(
        getattr(route, "endpoint", None) is websocket for route in routes
    )


def _check_function(name: str, value: Any, where: str, wanted: str, *arguments: str) -> None:
    """It can be called like this.

    Raises:
        ImportError: it cannot.
    """
    if value is None:
        return
    if not callable(value):
        kind = type(value).__name__
        raise ImportError(f"{where}: `{name}` is of type {kind}: define `{wanted}`, or rename it")
    if isinstance(value, type):
        raise ImportError(f"{where}: `{name}` is a class: define `{wanted}`, or rename it")
    try:
        # A decorator may add arguments of its own: what it wraps is not what is called.
        inspect.signature(value, follow_wrapped=False).bind(*arguments)
    except TypeError as error:
        raise ImportError(f"{where}: `{name}` cannot be called as `{wanted}`: {error}") from None
    except ValueError:
        pass  # some builtins do not tell
