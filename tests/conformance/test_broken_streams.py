"""Streams that break off, on the wire and in a browser: what was said before is read."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.browser import EXECUTABLE, browsing
from tests.conformance.wire import Wire
from tests.running import Server, project, serving

# A burst of tokens, the last event that says why there are no more, and the end of the function.
BREAKS = """
from runtime import Response, StreamingResponse

async def words():
    for number in range(20):
        yield f"data: {number}\\n\\n"
    yield "event: error\\ndata: {}\\n\\n"
    raise ValueError("it broke")

async def handler(request):
    if request.url.path.endswith("/page"):
        return Response("<title>page</title>", media_type="text/html")
    return StreamingResponse(words(), media_type=request.query_params["kind"])
"""
CONFIG = "[ai]\npreload = []\n[functions.breaks]\nverify_jwt = false\n"
READ = """(async () => {
  let text = "";
  try {
    const body = (await fetch(URL)).body.pipeThrough(new TextDecoderStream());
    for await (const piece of body) text += piece;
  } catch (error) {
    return text;
  }
  return "it ended as if it were whole";
})()"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(project(tmp_path_factory.mktemp("breaks"), {"breaks": BREAKS}, CONFIG)) as server:
        yield server


@pytest.mark.parametrize("kind", ["text/event-stream", "text/plain"])
def test_everything_that_was_sent_arrives_and_then_an_end_that_is_no_reset(server: Server, kind: str) -> None:
    with contextlib.closing(Wire(server)) as wire:
        wire.ask("GET", f"/functions/v1/breaks?kind={kind}")
        assert wire.head().status == 200
        told = b"".join(wire.pieces())
    assert b"data: 19\n\n" in told
    assert b"event: error\n" in told
    assert not told.endswith(b"0\r\n\r\n")


@pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium on this machine")
def test_a_page_reads_the_last_event_of_a_stream_that_breaks(server: Server, tmp_path: Path) -> None:
    url = f"{server.functions}/breaks"
    with browsing(tmp_path) as page:
        page.open(f"{url}/page")
        read = READ.replace("URL", json.dumps(f"{url}?kind=text/event-stream"))
        told = [page.evaluate(read) for _ in range(30)]
    assert [text for text in told if not text.endswith("event: error\ndata: {}\n\n")] == []
