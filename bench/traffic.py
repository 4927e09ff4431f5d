"""Load on a server, from a process of its own: what to send, and what came of it."""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

ROOT = Path(__file__).absolute().parent.parent


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to send. It ends after so many seconds or requests, whichever comes first.

    Attributes:
        payloads: requests, head and body, sent in turns.
        rate: requests per second, of all connections together; 0: each connection sends
            a request when it has its last answer.
        answer: what the body of a right answer contains.
    """

    port: int
    payloads: Sequence[bytes]
    connections: int = 1
    rate: float = 0.0
    answer: bytes = b""
    seconds: float = 60.0
    requests: int = sys.maxsize


class Sample(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One request: when it was sent (CLOCK_MONOTONIC), how long it took, and what came of it.

    Attributes:
        outcome: "200"; a status and an error's code, with "(not run)" when the host says that
            the function was not called; "200 (wrong)" when the body is not what it should be;
            "refused", "reset" or "timeout".
    """

    at: float
    seconds: float
    outcome: str = "200"

    @property
    def ok(self) -> bool:
        return self.outcome == "200"

    @property
    def ended(self) -> float:
        return self.at + self.seconds


def request(method: str, path: str, token: str = "", body: bytes = b"") -> bytes:
    """A request's bytes."""
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", "accept: */*", "user-agent: bench"]
    lines += [f"authorization: Bearer {token}"] if token else []
    lines += ["content-type: application/json", f"content-length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "", ""]).encode() + body


class Load:
    """A running client process."""

    def __init__(self, plan: Plan) -> None:
        pipe = subprocess.PIPE
        command = [sys.executable, "-m", "bench.client"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe)
        self._output = b""
        self._talk = threading.Thread(target=self._communicate, args=(msgspec.msgpack.encode(plan),))
        self._talk.start()

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._talk.join()

    def _communicate(self, plan: bytes) -> None:
        self._output, _ = self._process.communicate(plan)

    @property
    def running(self) -> bool:
        return self._talk.is_alive()

    def samples(self) -> list[Sample]:
        """Wait for its end; everything it sent, in the order of the answers."""
        self._talk.join()
        return msgspec.msgpack.decode(self._output, type=list[Sample])


def drive(plan: Plan) -> list[Sample]:
    """Carry out a plan, in a process of its own."""
    with Load(plan) as load:
        return load.samples()


def all_good(samples: list[Sample]) -> list[Sample]:
    """The samples.

    Raises:
        RuntimeError: a request failed, so that its time means nothing.
    """
    outcomes = Counter(sample.outcome for sample in samples)
    if set(outcomes) != {"200"}:
        raise RuntimeError(f"requests failed: {dict(outcomes)}")
    return samples


def rate(samples: list[Sample]) -> float:
    """Requests per second."""
    return len(all_good(samples)) / (max(sample.ended for sample in samples) - samples[0].at)


def median_us(samples: list[Sample]) -> float:
    """The median time of a request in microseconds."""
    return statistics.median(sample.seconds for sample in all_good(samples)) * 1e6


def percentile(values: Iterable[float], percent: float) -> float:
    """The value that so many percent of them do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, -int(-len(ordered) * percent // 100) - 1)]
