from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.ai.llm.ndjson import Lines
from tests.ai.upstream import SONG, generated, ndjson

RECORDED = ndjson(*generated(*SONG))


def lines(*pieces: bytes) -> tuple[list[bytes], bytes]:
    cutter = Lines()
    return [line for piece in pieces for line in cutter.feed(piece)], cutter.end()


def test_a_stream_cut_in_two_at_every_byte_gives_the_same_lines() -> None:
    whole = RECORDED.split(b"\n")[:-1]
    for at in range(len(RECORDED) + 1):
        assert lines(RECORDED[:at], RECORDED[at:]) == (whole, b"")


def test_a_stream_that_comes_byte_by_byte_gives_the_same_lines() -> None:
    assert lines(*(bytes([byte]) for byte in RECORDED)) == (RECORDED.split(b"\n")[:-1], b"")


@given(st.lists(st.binary(max_size=12).map(lambda data: data.replace(b"\n", b"")), max_size=8), st.data())
def test_lines_do_not_depend_on_how_the_bytes_were_cut(content: list[bytes], data: st.DataObject) -> None:
    stream = b"\n".join(content)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    found, rest = lines(*pieces)
    assert found == [line for line in content[:-1] if line.strip()]
    assert rest == (content[-1].strip() if content else b"")


def test_only_a_line_feed_ends_a_line() -> None:
    text = '{"a":"\u2028\u2029\u0085\x0b\x0c"}\r'.encode()
    assert lines(text + b"\n") == ([text], b"")


def test_blank_lines_are_skipped_and_the_last_needs_no_line_feed() -> None:
    assert lines(b"\n\r\n  \na\n\nb") == ([b"a"], b"b")
