"""Catalogue 5.2: bodies of many bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import httpx2
import pytest

from tests.catalogue.place import Place, RawWire, over, told

MB = 1_000_000
BLOCK = hashlib.sha512(b"block").digest() * 15_625  # a MB


def file(size: int) -> dict[str, tuple[str, bytes, str]]:
    return {"file": ("picture.png", (BLOCK * (size // MB + 1))[:size], "image/png")}


def blocks(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield BLOCK


@pytest.mark.parametrize("size", [1000, 9_980_000])
def test_a_file_in_a_form_arrives_byte_for_byte(client: httpx2.Client, size: int) -> None:
    """18, 19"""
    sent = file(size)
    response = client.post("/uploads", files=sent)
    assert response.status_code == 201
    digest = hashlib.sha256(sent["file"][1]).hexdigest()
    assert response.json() == {"name": "picture.png", "size": size, "sha256": digest}


def test_a_function_that_refuses_a_large_file_is_heard(client: httpx2.Client) -> None:
    """20"""
    response = client.post("/uploads", files=file(10 * MB))
    assert (response.status_code, response.text) == (500, "Error!")
    assert "sb-error-code" not in response.headers


def test_a_body_over_the_host_s_limit_is_a_413_that_can_be_read(client: httpx2.Client) -> None:
    """20: the host has a limit of its own"""
    message = told(client.post("/uploads", files=file(51 * MB)), 413, "PAYLOAD_TOO_LARGE")
    assert "max_body_mb" in message


def test_120_mb_to_a_function_without_the_time_for_them(client: httpx2.Client) -> None:
    """21"""
    over(client.post("/burns", content=blocks(120), headers={"content-length": str(120 * MB)}), "cpu_ms")


def test_a_picture_of_10_mb_to_a_function_without_the_time_for_it(client: httpx2.Client) -> None:
    """22"""
    over(client.post("/burns", content=BLOCK * 10, headers={"content-type": "image/png"}), "cpu_ms")


def test_a_response_dropped_half_read_disturbs_no_other(place: Place, client: httpx2.Client) -> None:
    """23"""
    for _ in range(3):
        wire: RawWire = place.wire()
        wire.call("GET", "/basic/large")
        assert wire.head().status == 200
        assert len(wire.chunk()) > 0
        wire.close()
        assert client.get("/basic/stream").text.endswith("piece 4\n")
