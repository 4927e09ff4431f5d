"""What functions under load tell about themselves, in datagrams to the bench."""

from __future__ import annotations

import contextlib
import socket
import threading

SAY = """
import socket

_report = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def say(port, text):
    _report.sendto(text.encode(), ("127.0.0.1", int(port)))
"""
"""The other side, for the source of a function."""


class Reports:
    """A place that takes datagrams for the time of a `with` block.

    Attributes:
        port: where to send them.
        said: what came so far.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._listen)
        self.port: int = self._socket.getsockname()[1]
        self.said: list[str] = []

    def __enter__(self) -> Reports:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.closing(self._socket):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"", ("127.0.0.1", self.port))
            self._thread.join()

    def _listen(self) -> None:
        while text := self._socket.recv(1000):
            self.said.append(text.decode())
