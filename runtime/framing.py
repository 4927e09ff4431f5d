"""Frames on the wire: four bytes and a msgpack payload of at most `MAX_FRAME` bytes.

Of the four (little-endian), the low 24 bits are the payload's length and the high 8 the
number of descriptors that travel with it. Nothing here does I/O.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from runtime.errors import FrameError

MAX_FRAME = 1 << 20

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding something that is no message may raise: of a text that is none, and of a deep one too."""

_HEADER = 4
_LENGTH_MASK = 0xFFFFFF

_encoder = msgspec.msgpack.Encoder()


def pack(frame: Any, fds: int = 0) -> bytes:
    """One frame as bytes.

    Raises:
        FrameError: the payload is longer than `MAX_FRAME`.
    """
    payload = _encoder.encode(frame)
    if len(payload) > MAX_FRAME:
        raise FrameError(f"a {type(frame).__name__} frame of {len(payload)} bytes is over {MAX_FRAME}")
    return (len(payload) | fds << 24).to_bytes(_HEADER, "little") + payload


class Unpacker:
    """Cuts a byte stream, however it is split, into `(payload, descriptors)` pairs."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def pending(self) -> bool:
        """The beginning of a frame is here whose end is not."""
        return bool(self._buffer)

    def feed(self, data: bytes, most: int = sys.maxsize) -> list[tuple[bytes, int]]:
        """The frames that `data` completes.

        Args:
            most: how many; the next call (with nothing, if need be) gives the others.

        Raises:
            FrameError: a header announces more than `MAX_FRAME` bytes.
        """
        whole = self._one(data) if not self._buffer else None
        if whole is not None:
            return [whole]
        buffer = self._buffer
        buffer += data
        frames: list[tuple[bytes, int]] = []
        start, end = 0, len(buffer)
        while end - start >= _HEADER and len(frames) < most:
            header = int.from_bytes(buffer[start : start + _HEADER], "little")
            length = header & _LENGTH_MASK
            if length > MAX_FRAME:
                raise FrameError(f"a frame of {length} bytes is over {MAX_FRAME}")
            stop = start + _HEADER + length
            if stop > end:
                break
            frames.append((bytes(buffer[start + _HEADER : stop]), header >> 24))
            start = stop
        if start:
            del buffer[:start]
        return frames

    @staticmethod
    def _one(data: bytes) -> tuple[bytes, int] | None:
        """The frame that `data` is, if it is exactly one: the usual case, without copies."""
        header = int.from_bytes(data[:_HEADER], "little")
        length = header & _LENGTH_MASK
        if len(data) != length + _HEADER or length > MAX_FRAME:
            return None
        return data[_HEADER:], header >> 24
