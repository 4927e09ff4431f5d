"""Threads that a function starts belong to the request that starts them.

A new thread begins with an empty context (until Python 3.14), so what it prints would
name no request, and what it takes of the processor would be charged to none. Only the
request goes over to it, none of the function's own context variables.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Thread
from typing import Any, TypeVar

from runtime.context import Call, current

T = TypeVar("T")
Charge = Callable[[Callable[..., Any]], Callable[..., Any]]

_charge: Charge = lambda function: function  # noqa: E731
_start = Thread.start
_submit = ThreadPoolExecutor.submit


def install(charge: Charge) -> None:
    """From now on, in this process.

    Args:
        charge: what will be called on a thread, so that the current request is charged with it.
    """
    global _charge
    _charge = charge
    Thread.start = _starting  # type: ignore[assignment,method-assign]
    ThreadPoolExecutor.submit = _submitting  # type: ignore[assignment,method-assign]


def _starting(thread: Thread) -> None:
    call = current.get()
    if call is not None and not thread.ident and not _serves_others(thread):
        run = _charge(thread.run)

        def belong() -> None:
            vars(thread).pop("run", None)  # ours, which holds the thread; of a second attempt it is gone
            current.set(call)
            run()

        thread.run = belong  # type: ignore[method-assign]
    _start(thread)


def _submitting(
    pool: ThreadPoolExecutor, function: Callable[..., T], /, *arguments: Any, **named: Any
) -> Future[T]:
    work = partial(_belonging, current.get(), _charge(function), arguments, named)
    token = current.set(None)  # a pool's thread serves one request after another, whichever began it
    try:
        return _submit(pool, work)
    finally:
        current.reset(token)


def _serves_others(thread: Thread) -> bool:
    """It is of anyio's pool, which has its calls charged one by one."""
    return type(thread).__module__.startswith("anyio.")


def _belonging(
    call: Call | None, function: Callable[..., T], arguments: tuple[Any, ...], named: dict[str, Any]
) -> T:
    token = current.set(call)
    try:
        return function(*arguments, **named)
    finally:
        current.reset(token)
