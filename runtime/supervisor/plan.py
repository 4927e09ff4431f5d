"""What the command line hands to the supervisor across the exec."""

from __future__ import annotations

import msgspec


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the supervisor needs; it reads no file of the project itself.

    Attributes:
        sockets: descriptors of the listening sockets, inherited.
        options: JSON of `project.settings.Options`, for the gateway.
        environ: the environment of the person's shell, for the gateway alone.
        root: the project's folder.
        shutdown_s: how long requests in flight may take after SIGTERM.
        uid_base: first of the unprivileged users for workers; 0: workers keep our user.
        users: descriptor that keeps them from other servers, inherited; -1: there is none.
        color: standard error is a terminal that shows colours.
        log_json: the log is for machines.
    """

    sockets: tuple[int, ...]
    options: bytes
    environ: dict[str, str]
    root: str
    shutdown_s: float = 10
    models_dir: str = ""
    preload: tuple[str, ...] = ()
    engine_threads: int = 0
    engine_providers: tuple[str, ...] = ()
    models_bytes: int = 0
    precisions: dict[str, str] = {}
    uid_base: int = 0
    users: int = -1
    color: bool = False
    log_json: bool = False
