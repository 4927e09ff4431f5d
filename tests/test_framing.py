"""Cutting a byte stream into frames."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import frames
from runtime.channel import CHUNK
from runtime.errors import FrameError
from runtime.framing import MAX_FRAME, Unpacker, pack

DECODER = msgspec.msgpack.Decoder(frames.RequestFrame)


class TestUnpacker:
    @given(
        st.lists(st.tuples(st.binary(max_size=300), st.integers(0, 255)), max_size=20),
        st.lists(st.integers(1, 40), min_size=1, max_size=50),
    )
    def test_frames_come_out_as_they_went_in_however_the_stream_is_split(
        self, sent: list[tuple[bytes, int]], cuts: list[int]
    ) -> None:
        data = b"".join(pack(frames.Body(content), fds) for content, fds in sent)
        unpacker, arrived = Unpacker(), []
        for cut in cuts:
            arrived += unpacker.feed(data[:cut])
            data = data[cut:]
        arrived += unpacker.feed(data)
        assert [(DECODER.decode(payload), fds) for payload, fds in arrived] == [
            (frames.Body(content), fds) for content, fds in sent
        ]

    def test_a_frame_may_be_as_long_as_the_limit_and_no_longer(self) -> None:
        envelope = len(pack(frames.Body(bytes(MAX_FRAME // 2)))) - 4 - MAX_FRAME // 2
        longest = pack(frames.Body(bytes(MAX_FRAME - envelope)))
        assert len(longest) == MAX_FRAME + 4
        ((payload, _),) = Unpacker().feed(longest)
        assert len(payload) == MAX_FRAME
        with pytest.raises(FrameError, match="Body frame"):
            pack(frames.Body(bytes(MAX_FRAME - envelope + 1)))

    @given(st.integers(MAX_FRAME + 1, 0xFFFFFF), st.integers(0, 255))
    def test_a_header_that_announces_too_much_is_refused_before_its_payload(
        self, length: int, fds: int
    ) -> None:
        with pytest.raises(FrameError, match=str(length)):
            Unpacker().feed((length | fds << 24).to_bytes(4, "little"))

    def test_an_empty_payload_is_a_frame(self) -> None:
        assert Unpacker().feed(bytes(4)) == [(b"", 0)]

    def test_a_piece_of_a_body_fits_into_a_frame(self) -> None:
        assert len(pack(frames.Body(bytes(CHUNK), True))) < MAX_FRAME
