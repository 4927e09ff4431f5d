"""Texts on their way to the engine, and vectors on their way back."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

from runtime.errors import InputTooLarge, InvalidInput

MAX_TEXT = 512 * 1024
"""One text may be at most this many bytes of UTF-8."""
MAX_QUERY = 16 * 1024
"""A query may be at most this many characters: it is read again with every document."""
PART_BYTES = 256 * 1024
PART_TEXTS = 64


def checked(prompt: object, name: str = "prompt") -> list[str]:
    """The texts of a prompt: one string, or a list of them.

    Raises:
        InvalidInput: something in it is no text, or empty; the message says what and where.
        InputTooLarge: a text is over `MAX_TEXT`.
    """
    if isinstance(prompt, str):
        _check(prompt, name)
        return [prompt]
    if not isinstance(prompt, list | tuple):
        raise InvalidInput(f"{name} is {type(prompt).__name__}: give a string or a list of strings")
    for index, text in enumerate(prompt):
        _check(text, f"{name}[{index}]")
    return list(prompt)


def _check(text: object, where: str) -> None:
    if not isinstance(text, str):
        raise InvalidInput(f"{where} is {type(text).__name__}: give a string")
    if not text:
        raise InvalidInput(f"{where} is empty: there is nothing to read")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{where} has half a character (a lone surrogate) at {error.start}") from None
    if size > MAX_TEXT:
        raise InputTooLarge(
            f"{where} is {size} bytes of UTF-8; one text may have {MAX_TEXT}. A model reads a few hundred "
            "words and ignores the rest: split the text into passages and give a list of them"
        )


def checked_query(query: object) -> str:
    """What documents shall be ranked by.

    Raises:
        InvalidInput: it is no text, or empty.
        InputTooLarge: it is over `MAX_QUERY`.
    """
    if not isinstance(query, str):
        raise InvalidInput(f"query is {type(query).__name__}: give a string")
    _check(query, "query")
    if len(query) > MAX_QUERY:
        raise InputTooLarge(f"query has {len(query)} characters; it may have {MAX_QUERY}: shorten it")
    return query


def parts(texts: Sequence[str]) -> Iterator[list[str]]:
    """Cut a list into pieces that fit into a frame each."""
    part: list[str] = []
    size = 0
    for text in texts:
        length = len(text.encode())
        if part and (len(part) == PART_TEXTS or size + length > PART_BYTES):
            yield part
            part, size = [], 0
        part.append(text)
        size += length
    if part:
        yield part


def vectors(data: bytes | bytearray, dimensions: int) -> list[list[float]]:
    """Float32 rows as lists."""
    flat = array("f")
    flat.frombytes(data)
    values = flat.tolist()
    return [values[start : start + dimensions] for start in range(0, len(values), dimensions)]


def grouped(rows: list[list[float]], counts: Sequence[int]) -> list[list[list[float]]]:
    """The rows of each text, given how many each has."""
    groups, start = [], 0
    for count in counts:
        groups.append(rows[start : start + count])
        start += count
    return groups
