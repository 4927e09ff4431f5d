"""On loopback only known Host names are served."""

from __future__ import annotations

import pytest

from runtime.errors import BadRequest
from runtime.gateway.hosts import HostCheck
from runtime.project.settings import Settings


def check(host: str = "127.0.0.1", *names: str) -> HostCheck:
    return HostCheck(Settings(root="/", host=host, hosts=names))


@pytest.mark.parametrize(
    "host",
    [
        b"localhost",
        b"localhost:54321",
        b"LocalHost:1",
        b"localhost.",
        b"localhost.:80",
        b"127.0.0.1",
        b"127.0.0.1:54321",
        b"[::1]",
        b"[::1]:54321",
        b"host.docker.internal:54321",
        b"Dev.Example:3000",
    ],
)
@pytest.mark.parametrize("bound", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_local_and_configured_names_are_served_on_loopback(bound: str, host: bytes) -> None:
    assert check(bound, "dev.example.").allows(host)


@pytest.mark.parametrize(
    "host",
    [
        None,
        b"",
        b"evil.example",
        b"localhost.evil.example",
        b"evil-localhost",
        b"localhost:80@evil.example",
        b"evil.example:localhost",
        b"user@localhost",
        b"localhost/",
        b"localhost..",
        b"localhost,evil.example",
        b"localhost evil.example",
        b"localhost:http",
        b"localhost:123456",
        b"localhost\n",
        b"127.0.0.2",
        b"127.1",
        b"2130706433",
        b"::1",
        b"[::1",
        b"[::2]",
        b"0.0.0.0",
        b"192.168.0.1",
        b"\xff\xfe",
    ],
)
def test_any_other_name_is_refused_on_loopback(host: bytes | None) -> None:
    assert not check().allows(host)


@pytest.mark.parametrize("bound", ["0.0.0.0", "::", "10.0.0.5", "functions.example"])
@pytest.mark.parametrize("host", [b"evil.example", b"", None])
def test_every_name_is_served_when_bound_elsewhere(bound: str, host: bytes | None) -> None:
    assert check(bound).allows(host)
    check(bound).check([] if host is None else [(b"host", host)])


def test_the_address_that_the_server_is_bound_to_is_served() -> None:
    assert check("127.0.0.2").allows(b"127.0.0.2:54321")


@pytest.mark.parametrize(
    "headers",
    [[], [(b"host", b"evil.example")], [(b"host", b"localhost"), (b"host", b"localhost")]],
    ids=["missing", "foreign", "doubled"],
)
def test_the_refusal_names_the_setting(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(BadRequest, match=r"\[edge_runtime\] hosts"):
        check().check(headers)


def test_a_served_host_passes_the_check() -> None:
    check().check([(b"accept", b"*/*"), (b"host", b"localhost:54321")])
