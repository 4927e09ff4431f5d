"""Embeddings of an LLM server. Pure: texts in, a body out; an answer's bytes in, rows out.

Ollama: https://docs.ollama.com/api/embed. OpenAI: https://platform.openai.com/docs/api-reference/embeddings.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from runtime.ai.llm.chunk import failure_in, parse

if TYPE_CHECKING:
    from numpy.typing import NDArray

PART_TEXTS = 256
"""One request has at most so many texts."""


class Vectors(msgspec.Struct, frozen=True):
    """What an answer holds.

    Attributes:
        rows: float32, one row for each text, in their order.
        tokens: how many were read; None: the server does not tell.
    """

    rows: NDArray[np.float32]
    tokens: int | None


class _Ollama(msgspec.Struct):
    embeddings: list[list[float]]
    prompt_eval_count: Any = None

    def rows(self) -> list[list[float]]:
        return self.embeddings

    def tokens(self) -> object:
        return self.prompt_eval_count


class _Item(msgspec.Struct):
    embedding: list[float] | str
    index: int | None = None


class _OpenAI(msgspec.Struct):
    data: list[_Item]
    usage: Any = None

    def rows(self) -> list[list[float] | str]:
        """In the order of the texts: of `index`, or as they came if no row has one."""
        by_index = {item.index: item.embedding for item in self.data}
        if by_index.keys() == {None}:
            return [item.embedding for item in self.data]
        if by_index.keys() != set(range(len(self.data))):
            raise ValueError(f"its rows do not have the indices 0 to {len(self.data) - 1}, each of them once")
        return [by_index[index] for index in range(len(self.data))]

    def tokens(self) -> object:
        usage = self.usage if isinstance(self.usage, dict) else {}
        return usage.get("prompt_tokens", usage.get("total_tokens"))


_ANSWERS: dict[str, msgspec.json.Decoder[_Ollama] | msgspec.json.Decoder[_OpenAI]] = {
    "ollama": msgspec.json.Decoder(_Ollama),
    "openaicompatible": msgspec.json.Decoder(_OpenAI),
}


def parts(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """The texts of each request."""
    for start in range(0, len(texts), PART_TEXTS):
        yield texts[start : start + PART_TEXTS]


def request(mode: str, texts: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Path and body that ask for the embeddings of some texts."""
    if mode == "ollama":
        return "/api/embed", {"input": texts}
    return "/v1/embeddings", {"input": texts, "encoding_format": "base64"}


def read(mode: str, data: bytes, texts: int) -> Vectors:
    """What an answer to `request` for so many texts holds.

    Raises:
        ValueError: it is none; the message says what is wrong with it, in the server's words
            if it reports an error.
    """
    answer = _decoded(mode, data)
    rows = answer.rows()
    if len(rows) != texts:
        raise ValueError(f"it gave {len(rows)} embeddings for {texts} texts")
    matrix = _matrix([_row(row, at) for at, row in enumerate(rows)])
    return Vectors(matrix, _count(answer.tokens()))


def joined(answers: Sequence[Vectors], dimensions: int | None) -> Vectors:
    """All rows in one array.

    Args:
        dimensions: how long a row was to be; None: as long as the model has it.

    Raises:
        ValueError: the rows differ in length, or are not as long as they were to be.
    """
    if not answers:
        return Vectors(np.empty((0, dimensions or 0), np.float32), 0)
    lengths = {answer.rows.shape[1] for answer in answers}
    if len(lengths) > 1:
        raise ValueError(
            f"its embeddings differ in length: {' and '.join(map(str, sorted(lengths)))} numbers"
        )
    (length,) = lengths
    if dimensions not in (None, length):
        raise ValueError(f"its embeddings have {length} numbers, and {dimensions} were asked for")
    counts = [answer.tokens for answer in answers]
    known = [count for count in counts if count is not None]
    rows = np.concatenate([answer.rows for answer in answers])
    return Vectors(rows, sum(known) if len(known) == len(counts) else None)


def _decoded(mode: str, data: bytes) -> _Ollama | _OpenAI:
    try:
        return _ANSWERS[mode].decode(data)
    except msgspec.ValidationError as error:
        raise ValueError(_reported(data) or f"it has no embeddings where they belong: {error}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON ({error}): {data.decode(errors='replace')}") from None


def _reported(data: bytes) -> str:
    """The error that an answer with a good status reports; empty: none."""
    try:
        failure = failure_in(parse(data))
    except ValueError:
        return ""
    return "" if failure is None else failure.body


def _count(tokens: object) -> int | None:
    """A server that tells nonsense tells nothing."""
    return tokens if type(tokens) is int and tokens >= 0 else None


def _row(value: list[float] | str, at: int) -> NDArray[np.float32]:
    if not isinstance(value, str):
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which is refused below
            return np.array(value, np.float32)
    try:
        return np.frombuffer(base64.b64decode(value, validate=True), "<f4")
    except ValueError as error:
        raise ValueError(f"its embedding {at} is no base64 of float32 numbers ({error})") from None


def _matrix(rows: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    length = len(rows[0])
    if not length:
        raise ValueError("its embedding 0 is empty")
    for at, row in enumerate(rows):
        if len(row) != length:
            raise ValueError(
                f"its embeddings differ in length: 0 has {length} numbers, and {at} has {len(row)}"
            )
    matrix = np.stack(rows).astype(np.float32, copy=False)
    good = np.isfinite(matrix).all(axis=1)
    if not good.all():
        raise ValueError(f"its embedding {good.argmin()} has something in it that is no finite number")
    return matrix
