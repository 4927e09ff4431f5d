"""One version of one function: its files, its environment, its limits."""

from __future__ import annotations

import msgspec

from runtime.project.settings import Function


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is booted from. Two that are equal behave alike.

    Attributes:
        name: digest of the files, with a count where only the environment changed.
        archive: the snapshot as `msgpack({path: bytes})`.
        entrypoint: the entry file's path inside the snapshot.
        oneshot: each of its workers serves one request.
    """

    name: str
    function: Function
    archive: bytes
    directory: str
    entrypoint: str
    environ: dict[str, str]
    oneshot: bool = False

    def same_as(self, other: Generation) -> bool:
        """Nothing that a worker could notice differs."""
        return (self.archive, self.environ, self.function, self.entrypoint, self.oneshot) == (
            other.archive,
            other.environ,
            other.function,
            other.entrypoint,
            other.oneshot,
        )

    def __repr__(self) -> str:
        return f"Generation({self.function.name}, {self.name})"
