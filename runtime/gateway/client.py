"""What the server knows of a client's connection and ASGI does not tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from starlette.types import Scope

CLIENT = "runtime.client"
"""Key of the scope under which our HTTP protocol leaves itself; absent under other servers.

It spares the gateway a task per request whose only work is to wait for a disconnect.
"""


class Client(Protocol):
    """One connection of a client.

    Attributes:
        on_leave: called when the connection is lost; belongs to the request in progress.
    """

    on_leave: Callable[[], object] | None

    def has_left(self) -> bool:
        """The connection is lost."""

    def has_sent_all(self, scope: Scope) -> bool:
        """The whole body of the request with this scope is here."""

    def give_up(self) -> None:
        """Break the connection off if it does not take what it is sent."""
