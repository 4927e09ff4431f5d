"""The template: a real one, whose supervisor and gateway are played by a script."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.msgpack import Decoder

from runtime import frames
from runtime.door import Door, socket_pair
from runtime.worker.template import Template

# Starts the template as the supervisor does, asks it for workers of functions, boots them as
# the gateway does, and runs the case's own code.
PLAY = """
import json, os, select, signal, socket, subprocess, sys, time
import msgspec
from runtime import frames, process
from runtime.door import Door, socket_pair
from runtime.errors import ChannelClosed
from runtime.ledger import new_file
from runtime.sharedfile import shared_file

temp = sys.argv[1]
process.adopt_orphans()  # as the supervisor: workers become its children

ours, theirs = socket_pair()
template = subprocess.Popen(
    [sys.executable, "-I", "-m", "runtime.worker.template", "--fd", str(theirs.fileno())],
    pass_fds=[theirs.fileno()],
    env={},
)
theirs.close()
door = Door(ours, msgspec.msgpack.Decoder(frames.TemplateToSupervisor))

class Worker:
    def __init__(self, token, function):
        self.token, self.function, self.pid = token, function, 0
        mine, self.control = socket_pair()
        self.door = Door(mine, msgspec.msgpack.Decoder(frames.WorkerFrame))
        self.log, self.log_writer = os.pipe()

    def ask(self):
        door.send(frames.Fork(self.token, self.function, 0), [self.control.detach(), self.log_writer])

    def boot(self, source):
        archive = shared_file(msgspec.msgpack.encode({f"{self.function}/index.py": source.encode()}))
        boot = frames.Boot(
            function=self.function, generation="g", directory="/nowhere",
            entrypoint=f"{self.function}/index.py", environ={"OWN": self.function},
        )
        self.door.send(boot, [archive, new_file(8)])
        while True:
            for frame, _ in self.door.wait():
                if not isinstance(frame, frames.Loading):
                    return frame

def forked(workers):
    waiting = {worker.token: worker for worker in workers}
    while waiting:
        for frame, _ in door.wait():
            waiting.pop(frame.token).pid = frame.pid

def told(result):
    print(json.dumps(result))

door.send(frames.TemplateBoot(temp=temp))
"""
HELLO = "async def handler(request): return 'hello'"


def play(temp: Path, case: str) -> Any:
    """What the case told."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", PLAY + case, str(temp)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_worker_is_the_supervisor_s_child_and_reports_that_it_is_ready(tmp_path: Path) -> None:
    result = play(
        tmp_path,
        f"""
worker = Worker(7, "hello")
worker.ask()
forked([worker])
frame = worker.boot({HELLO!r})
leads = os.getsid(worker.pid) == worker.pid
told([type(frame).__name__, frame.boot_ms, os.waitpid(worker.pid, os.WNOHANG)[0], leads])
""",
    )
    name, boot_ms, ended, leads = result
    assert name == "Ready"
    assert 0 < boot_ms < 10_000
    assert ended == 0  # waitpid knows it as a child, and it lives
    assert leads


def test_a_function_that_does_not_load_is_told_with_its_traceback(tmp_path: Path) -> None:
    name, message, traceback = play(
        tmp_path,
        """
worker = Worker(1, "bad")
worker.ask()
forked([worker])
frame = worker.boot("1 / 0")
told([type(frame).__name__, frame.message, frame.traceback])
""",
    )
    assert (name, message) == ("BootFailed", "ZeroDivisionError: division by zero")
    assert 'File "/nowhere/bad/index.py", line 1' in traceback


def test_workers_asked_for_at_once_hold_nothing_of_one_another(tmp_path: Path) -> None:
    """All requests are there before the first fork: descriptors of the later ones lie in the template."""
    functions, ends = play(
        tmp_path,
        f"""
workers = [Worker(token, f"function-{{token}}") for token in range(4)]
template.send_signal(signal.SIGSTOP)
for worker in workers:
    worker.ask()
template.send_signal(signal.SIGCONT)
forked(workers)
frames_seen = [type(worker.boot({HELLO!r})).__name__ for worker in workers]
last = workers[-1]
os.kill(last.pid, signal.SIGKILL)
# Nobody else holds its control socket or its log: both end with it.
select.select([last.door.sock], [], [], 10)
try:
    control = len(last.door.receive())
except ChannelClosed:
    control = "closed"
log = os.read(last.log, 100).decode() if select.select([last.log], [], [], 10)[0] else "still open"
told([frames_seen, [control, log]])
""",
    )
    assert functions == ["Ready"] * 4
    assert ends == ["closed", ""]


def test_a_worker_s_environment_is_what_it_is_given(tmp_path: Path) -> None:
    source = "import json, os\nprint(json.dumps(dict(os.environ)))\n" + HELLO
    log, folder = play(
        tmp_path,
        f"""
worker = Worker(1, "hello")
worker.ask()
forked([worker])
worker.boot({source!r})
told([os.read(worker.log, 65536).decode(), f"{{temp}}/{{worker.pid}}"])
""",
    )
    environ = json.loads(json.loads(log[1:])["m"])
    assert environ.pop("SB_EXECUTION_ID")
    assert environ == {"OWN": "hello", "HOME": folder, "TMPDIR": folder}


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="this system has no /proc")
def test_the_template_has_one_thread_and_an_empty_environment(tmp_path: Path) -> None:
    threads, environ = play(
        tmp_path,
        """
worker = Worker(1, "hello")
worker.ask()
forked([worker])
told([len(os.listdir(f"/proc/{template.pid}/task")), os.path.getsize(f"/proc/{template.pid}/environ")])
""",
    )
    assert threads == 1
    assert environ == 0


def test_workers_do_not_depend_on_the_template_s_life(tmp_path: Path) -> None:
    states = play(
        tmp_path,
        f"""
worker = Worker(1, "hello")
worker.ask()
forked([worker])
states = [type(worker.boot({HELLO!r})).__name__]
template.kill()
template.wait()
worker.door.send(frames.Drain(1.0))
states += [type(frame).__name__ for frame, _ in worker.door.wait()]
states.append(os.waitstatus_to_exitcode(os.waitpid(worker.pid, 0)[1]))
told(states)
""",
    )
    assert states == ["Ready", "Drained", 0]


def test_it_ends_with_its_supervisor_s_door(tmp_path: Path) -> None:
    assert play(tmp_path, "door.close()\ntold(template.wait())") == 0


def test_a_system_that_refuses_to_fork_costs_one_worker_and_not_the_template(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = socket_pair()
    door: Door[frames.TemplateToSupervisor] = Door(ours, Decoder(frames.TemplateToSupervisor))
    template = Template(
        frames.TemplateBoot(temp="/nowhere"), Door(theirs, Decoder(frames.SupervisorToTemplate))
    )
    before = os.listdir("/proc/self/fd") if sys.platform == "linux" else []

    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    template.fork(frames.Fork(7, "hello", 0), [os.dup(1), os.dup(1)])
    assert door.wait() == [(frames.Forked(7, 0, "the system refused to fork"), [])]
    assert len(os.listdir("/proc/self/fd") if before else []) == len(before)
    for one in (ours, theirs):
        one.close()


def test_a_function_for_which_no_user_is_left_shares_nobody_s() -> None:
    ours, theirs = socket_pair()
    door: Door[frames.TemplateToSupervisor] = Door(ours, Decoder(frames.TemplateToSupervisor))
    boot = frames.TemplateBoot(temp="/nowhere", uid_base=55_000, users=1000)
    with ours, theirs:
        template = Template(boot, Door(theirs, Decoder(frames.SupervisorToTemplate)))
        template.fork(frames.Fork(7, "hello", 1000), [os.dup(1), os.dup(1)])
        ((told, _),) = door.wait()
    assert isinstance(told, frames.Forked)
    assert told.pid == 0
    assert "there is no user left for it" in told.message
