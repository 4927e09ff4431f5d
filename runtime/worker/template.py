"""The template: a process that has imported everything a worker needs, and forks workers.

It has no event loop, no thread, no secret and an empty environment. A fork shares its
memory, so a worker is ready in milliseconds and costs about two megabytes of its own.
"""

from __future__ import annotations

import gc
import importlib
import os
import socket
import sys
import traceback

import msgspec

from runtime import frames, process
from runtime.door import Door, close_all
from runtime.errors import ChannelClosed, StartError
from runtime.worker import confine, identity, visibility
from runtime.worker.main import run as run_worker
from runtime.worker.rehearsal import rehearse

_TOO_MANY = (
    "there is no user left for it to run as: a server that root has started has {}, one for each function "
    "that it has had since its start; start it again if functions came and went, or use another server"
)

# Imported by the toolkit when first needed: better here, once, than in some first request.
_USED_LATER = (
    "anyio._backends._asyncio",
    "starlette.formparsers",
    "starlette.staticfiles",
    "json",
    "encodings.idna",
)


def main() -> int:
    """Serve forks until the supervisor is gone."""
    confine.go_first()
    process.become("template")
    door: Door[frames.SupervisorToTemplate] = Door(
        socket.socket(fileno=int(sys.argv[-1])),
        msgspec.msgpack.Decoder(frames.SupervisorToTemplate),
    )
    for module in _USED_LATER:
        importlib.import_module(module)
    rehearse()
    [(boot, _), *waiting] = door.wait()
    assert isinstance(boot, frames.TemplateBoot)
    if boot.uid_base:
        try:
            visibility.show_interpreter()
        except StartError as error:
            door.send(frames.Stopped(f"error: {error}", error.exit_code))
            return error.exit_code
    # What exists now is never collected nor, while it lives, written to: pages stay shared.
    gc.collect()
    gc.freeze()
    template = Template(boot, door)
    try:
        for frame, fds in waiting:
            template.fork(frame, fds)
        while True:
            for frame, fds in door.wait():
                template.fork(frame, fds)
    except ChannelClosed:
        return 0


class Template:
    """Makes workers on request."""

    def __init__(self, boot: frames.TemplateBoot, door: Door[frames.SupervisorToTemplate]) -> None:
        self._boot, self._door = boot, door
        self._supervisor = os.getppid()

    def fork(self, frame: frames.SupervisorToTemplate, fds: list[int]) -> None:
        """Make one worker and tell its pid.

        It is forked twice, so that it becomes the supervisor's child: the supervisor
        reaps it, and it does not depend on the template's life.
        """
        assert isinstance(frame, frames.Fork)
        pid, why = 0, "the system refused to fork"
        try:
            if self._boot.uid_base and frame.slot >= self._boot.users:
                why = _TOO_MANY.format(self._boot.users)
            else:
                pid = self._forked(frame, *fds)
        except OSError:
            pass  # there are too many processes: that is told, and we go on
        finally:
            close_all(fds)
        self._door.send(frames.Forked(frame.token, pid, "" if pid else why))

    def _forked(self, frame: frames.Fork, control: int, log: int) -> int:
        reader, writer = os.pipe()
        try:
            try:
                middle = os.fork()
                if middle == 0:
                    self._middle(frame, control, log, writer)
            finally:
                os.close(writer)
            pid = int.from_bytes(os.read(reader, 4), "little")
        finally:
            os.close(reader)
        os.waitpid(middle, 0)
        return pid

    def _middle(self, frame: frames.Fork, control: int, log: int, writer: int) -> None:
        middle = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            os._exit(1)
        if pid:
            os.write(writer, pid.to_bytes(4, "little"))
            os._exit(0)
        status = 1
        try:
            user = self._boot.uid_base + frame.slot if self._boot.uid_base else 0
            folder = identity.assume(frame.function, control, log, temp=self._boot.temp, user=user)
            while os.getppid() == middle:  # the supervisor adopts us when it has ended
                os.sched_yield()
            process.die_with_parent(self._supervisor)
            status = run_worker(socket.socket(fileno=control), folder, has_own_user=bool(user))
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(status)


if __name__ == "__main__":
    sys.exit(main())
