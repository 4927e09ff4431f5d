"""Streams of each API as bytes, and what is in them by another way of reading: all at once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from runtime.ai.llm.ollama import Ollama
from runtime.ai.llm.openai import OpenAI
from runtime.ai.llm.sse import Event
from runtime.ai.llm.wire import Wire

_FOLDER = Path(__file__).parents[2] / "data" / "streams"


class Recorded(NamedTuple):
    """One stream.

    Attributes:
        objects: what a client must get, in order.
        text: what they add up to.
        closing: the first byte after what makes the stream whole.
    """

    name: str
    mode: str
    wire: type[Wire]
    content_type: str
    data: bytes
    objects: list[dict[str, Any]]
    text: str
    closing: int


def interpreted(stream: bytes) -> list[Event]:
    """The specification's algorithm over the whole stream at once, by fields."""
    text = stream.removeprefix(b"\xef\xbb\xbf").decode(errors="replace")
    lines = re.split("\r\n|\n|\r", text)[:-1]
    found, name, data = [], "", ""
    for line in lines:
        if line == "":
            if data:
                found.append(Event(name or "message", data[:-1]))
            name, data = "", ""
            continue
        field, colon, value = line.partition(":")
        value = value[1:] if colon and value.startswith(" ") else value
        if field == "data":
            data += value + "\n"
        elif field == "event":
            name = value
    return found


def _ollama(name: str, text: str) -> Recorded:
    data = (_FOLDER / name).read_bytes()
    objects = [json.loads(line) for line in data.split(b"\n") if line]
    closing = len(data.rstrip())  # the last line needs no line feed
    return Recorded(name, "ollama", Ollama, "application/x-ndjson", data, objects, text, closing)


def _openai(name: str, text: str, last: bytes) -> Recorded:
    data = (_FOLDER / name).read_bytes()
    told = [event.data for event in interpreted(data) if event.data]
    assert told[-1] == "[DONE]"
    objects = [json.loads(value) for value in told[:-1]]
    end = re.compile(rb"\r\n\r|\n\n").search(data, data.index(last))
    assert end is not None
    closing = end.end()
    return Recorded(name, "openaicompatible", OpenAI, "text/event-stream", data, objects, text, closing)


STREAMS = [
    _ollama("ollama-generate.ndjson", 'Ich höre 火 und 🎵🎶 <naïve> &\n"Reime" \\ 👩‍👩‍👧!'),
    _ollama("ollama-chat.ndjson", "Ich sehe nach \u2028☂️."),
    _openai("llama-cpp-chat.sse", " gir gon gir ber ri fen pe ma", b'"finish_reason":"length"'),
    _openai(
        "openai-everything.sse",
        "Ich höre 火 und 🎵🎶:\u2028\u0085 naïve",
        b'"finish_reason":"tool_calls"',
    ),
]
