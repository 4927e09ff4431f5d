"""The request that a handler gets."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import msgspec
import starlette.requests
from starlette.datastructures import FormData

from runtime.errors import InvalidJSON
from runtime.worker import forms


class Request(starlette.requests.Request):
    """Starlette's request, with the verified claims in `auth`.

    `auth` holds the token's claims; it is empty when the function asked for no check
    (`verify_jwt = false`). No header of the client can set it.
    """

    @property
    def auth(self) -> dict[str, Any]:
        """The verified claims."""
        claims: dict[str, Any] = self.scope["auth"]
        return claims

    async def json(self) -> Any:
        """The body as JSON.

        Raises:
            InvalidJSON: it is empty or no JSON; unhandled, the client gets a 400 that says so.
        """
        if not hasattr(self, "_json"):
            body = await self.body()
            if not body:
                raise InvalidJSON("The request body is empty; send JSON")
            try:
                self._json = msgspec.json.decode(body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise InvalidJSON(f"The request body is not valid JSON: {error}") from None
        return self._json

    async def _get_form(
        self, *, max_files: float = 1000, max_fields: float = 1000, max_part_size: int = 1024 * 1024
    ) -> FormData:
        """What `form` awaits: as Starlette's, and a form that cannot be read is a 400 that says so."""
        if self._form is None:
            async with aclosing(self.stream()) as stream:
                self._form = await forms.parse(
                    self.headers,
                    stream,
                    max_files=max_files,
                    max_fields=max_fields,
                    max_part_size=max_part_size,
                )
        return self._form
