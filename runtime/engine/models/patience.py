"""How long to keep trying when a hub or the way to it fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

import msgspec

from runtime.errors import HubError

Say = Callable[[str], None]
"""Told what a person should know: one sentence at a time."""


class Patience(msgspec.Struct, frozen=True):
    """Bounds on every wait.

    Attributes:
        attempts: in a row, without one new byte.
        in_all: for one file, however much each of them brought.
        first_wait: seconds before the second attempt; each further wait is twice as long.
        longest_wait: seconds; a hub that asks for more is an error at once.
        silence: seconds without a byte after which an attempt has failed; None: what
            `HF_HUB_DOWNLOAD_TIMEOUT` says, or 10.
    """

    attempts: int = 5
    in_all: int = 100
    first_wait: float = 1.0
    longest_wait: float = 60.0
    silence: float | None = None


class Passing(Exception):
    """Something went wrong that may go right the next time.

    Args:
        what: for people.
        wait: seconds that the hub asks for; None: it does not say.
    """

    def __init__(self, what: str, wait: float | None = None) -> None:
        self.what, self.wait = what, wait
        super().__init__(what)


class Attempts:
    """The attempts at one thing.

    Args:
        where: the hub, for messages.
    """

    def __init__(self, patience: Patience, where: str, say: Say) -> None:
        self._patience, self._where, self._say = patience, where, say
        self._failed = self._failed_in_all = 0

    def failed(self, trouble: Passing, *, progress: bool = False) -> None:
        """Wait until the next attempt.

        Args:
            progress: the attempt brought something.

        Raises:
            HubError: there is no next one.
        """
        self._failed_in_all += 1
        self._failed = 1 if progress else self._failed + 1
        if self._failed >= self._patience.attempts or self._failed_in_all >= self._patience.in_all:
            times = "one attempt" if self._failed_in_all == 1 else f"{self._failed_in_all} attempts"
            raise self._end(trouble, f"after {times}")
        wait = trouble.wait
        if wait is None:
            wait = min(self._patience.first_wait * 2 ** (self._failed - 1), self._patience.longest_wait)
        elif wait > self._patience.longest_wait:
            raise self._end(trouble, f"and wants to be left alone for {wait:.0f} s")
        self._say(f"{self._where} {trouble.what}; trying again in {wait:.3g} s")
        time.sleep(wait)

    def _end(self, trouble: Passing, how: str) -> HubError:
        return HubError(
            f"The model hub {trouble.what} ({how})",
            where=self._where,
            remedy="try again later: what was downloaded is kept. HF_ENDPOINT names another hub",
        )


def wait_of(header: str | None) -> float | None:
    """The seconds that a Retry-After header asks for (RFC 9110, 10.2.3); None: it has none."""
    if not header:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None
