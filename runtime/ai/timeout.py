"""How long a call may take."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from typing import Literal, TypeVar

import msgspec

from runtime.errors import InferenceTimeout, InvalidInput

T = TypeVar("T")
Phase = Literal["first_token", "idle", "total"]


class Timeout(msgspec.Struct, frozen=True):
    """Limits of one call, each in seconds; None: no limit.

    Attributes:
        connect: until the LLM server has taken the connection.
        first_token: from the call until the first piece of the answer.
        idle: between two pieces of the answer.
        total: the whole call, a stream up to its last piece. The only one that counts for
            a local model.

    Raises:
        InvalidInput: a limit is no positive number.
    """

    connect: float | None = 5
    first_token: float | None = None
    idle: float | None = None
    total: float | None = 60

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            _check(f"timeout.{name}", getattr(self, name))


def _check(name: str, seconds: object) -> None:
    if seconds is None:
        return
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise InvalidInput(f"{name} is {type(seconds).__name__}: give a number of seconds, or None")
    if not (math.isfinite(seconds) and seconds > 0):
        raise InvalidInput(f"{name} is {seconds}: give a positive number of seconds, or None")


def timeout_of(value: Timeout | float | None) -> Timeout:
    """A number bounds the whole call.

    Raises:
        InvalidInput: neither a `Timeout` nor a positive number.
    """
    if isinstance(value, Timeout):
        return value
    _check("timeout", value)
    return Timeout(total=value)


class Clock:
    """The deadlines of one call, counted from now.

    Args:
        who: the model or server waited for, as messages shall call it.
    """

    def __init__(self, timeout: Timeout, who: str) -> None:
        self._timeout, self._who = timeout, who
        self._began = asyncio.get_running_loop().time()

    async def bounded(self, awaitable: Awaitable[T], phase: Phase = "total") -> T:
        """What `awaitable` gives, unless a deadline passes first.

        Raises:
            InferenceTimeout: it did; the message names the limit.
        """
        when, message = self._deadline(phase)
        try:
            async with asyncio.timeout_at(when) as limit:
                return await awaitable
        except TimeoutError:
            if not limit.expired():
                raise
            raise InferenceTimeout(message) from None

    def _deadline(self, phase: Phase) -> tuple[float | None, str]:
        limit, who = self._timeout, self._who
        total = math.inf if limit.total is None else self._began + limit.total
        when, message = (
            total,
            f"{who} did not finish within {limit.total:g} s (timeout.total)" if limit.total else "",
        )
        if phase == "first_token" and limit.first_token and self._began + limit.first_token < when:
            when = self._began + limit.first_token
            message = f"{who} sent nothing within {limit.first_token:g} s (timeout.first_token)"
        elif phase == "idle" and limit.idle:
            pause = asyncio.get_running_loop().time() + limit.idle
            if pause < when:
                when = pause
                message = f"{who} sent nothing for {limit.idle:g} s, amid its answer (timeout.idle)"
        return (None if when == math.inf else when), message
