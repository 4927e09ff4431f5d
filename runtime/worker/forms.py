"""Forms: what a browser's `<form>` or `FormData` sends.

Starlette's parsers, with two differences: a form that breaks off is an error, and so is
one that is malformed in any other way, instead of an exception nobody handles.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers
from starlette.formparsers import FormParser, MultiPartException, MultiPartParser

from runtime.errors import InvalidForm


class _WholeParser(MultiPartParser):
    """Notices whether the form's last boundary has come."""

    _ended = False

    def on_end(self) -> None:
        self._ended = True

    async def parse(self) -> FormData:
        try:
            form = await super().parse()
        except UnicodeError:  # of a charset like "undefined"
            raise self._failure("Its charset cannot be used.") from None
        if not self._ended:
            raise self._failure("It breaks off before its end.")
        return form

    def _failure(self, message: str) -> MultiPartException:
        for file in self._files_to_close_on_error:
            file.close()
        return MultiPartException(message)


async def parse(
    headers: Headers,
    stream: AsyncGenerator[bytes, None],
    *,
    max_files: float,
    max_fields: float,
    max_part_size: int,
) -> FormData:
    """The fields and files of a form; empty when the content type is another.

    Files over 1 MB are in the worker's temporary folder.

    Args:
        max_part_size: bytes of one field; a file may be of any size.

    Raises:
        InvalidForm: it is malformed, or over one of the limits.
    """
    kind, _ = parse_options_header(headers.get("content-type"))
    try:
        if kind == b"multipart/form-data":
            return await _WholeParser(
                headers, stream, max_files=max_files, max_fields=max_fields, max_part_size=max_part_size
            ).parse()
        if kind == b"application/x-www-form-urlencoded":
            return await FormParser(
                headers, stream, max_fields=max_fields, max_part_size=max_part_size
            ).parse()
    except MultiPartException as error:
        raise InvalidForm(f"The form cannot be read: {error.message}") from error
    return FormData()
