"""Newline-delimited JSON, as Ollama streams it. Pure: bytes in, lines out."""

from __future__ import annotations


class Lines:
    """Cuts bytes, however they are split, into lines.

    Only LF ends a line: cutting bytes there never cuts a character, and U+0085 or U+2028
    inside a string stay what they are. Blank lines are skipped.
    """

    def __init__(self) -> None:
        self._rest: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes."""
        first, *others = data.split(b"\n")
        self._rest.append(first)
        if not others:
            return []
        lines = [b"".join(self._rest), *others[:-1]]
        self._rest = [others[-1]]
        return [line for line in lines if line.strip()]

    def end(self) -> bytes:
        """What came after the last LF; empty when nothing did."""
        return b"".join(self._rest).strip()
