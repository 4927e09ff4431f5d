"""Process 0 with children that are scripts: who is started, told, connected, replaced and ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from runtime import frames
from runtime.supervisor import proctable
from runtime.supervisor.plan import Plan
from runtime.supervisor.supervisor import Supervisor
from tests.running import eventually

# Stands for runtime.supervisor.__main__: the real supervisor, whose three children are
# scripts. Each child appends what it sees to a file; the scripts below say how it behaves.
HARNESS = """
import os, sys
from runtime.supervisor import supervisor as module
from runtime.supervisor.plan import Plan

folder = sys.argv[1]
real = os.posix_spawn

def spawn(path, arguments, environ, **options):
    role = arguments[arguments.index("-m") + 1].split(".")[-1]
    return real(path, [path, f"{folder}/{role}.py", "3"], {"FOLDER": folder}, **options)

module.os.posix_spawn = spawn
temp = f"{folder}/temp"
os.mkdir(temp)
keeper, _writer = os.pipe()
plan = Plan(sockets=(), options=b"{}", environ={}, root=folder, shutdown_s=SHUTDOWN)
sys.exit(module.Supervisor(plan, temp, keeper).run())
"""
CHILD = """
import os, signal, socket, sys, time
import msgspec
from runtime import frames, process
from runtime.door import Door
from runtime.errors import ChannelClosed

role = os.path.basename(sys.argv[0]).removesuffix(".py")
everything = frames.SupervisorToGateway | frames.SupervisorToTemplate | frames.EngineBoot | frames.Connect
door = Door(socket.socket(fileno=3), msgspec.msgpack.Decoder(everything))
signal.signal(signal.SIGINT, signal.SIG_IGN)

def note(*words):
    with open(os.path.join(os.environ["FOLDER"], "notes"), "a") as file:
        print(role, *words, file=file)

def frames_forever():
    while True:
        try:
            yield from door.wait()
        except ChannelClosed:
            return

note("started", os.getpid())
"""
QUIET = """
for frame, fds in frames_forever():
    told = isinstance(frame, frames.Told)
    note(type(frame).__name__, *([frame.level, frame.message] if told else [len(fds)]))
    if isinstance(frame, frames.Drain):
        sys.exit(0)
"""


ROLES = ("gateway", "engine", "template")


class Tree:
    """A supervisor and what its children have noted."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process, self.folder = process, folder

    @property
    def notes(self) -> list[str]:
        path = self.folder / "notes"
        return path.read_text().splitlines() if path.exists() else []

    def wait_for(self, *lines: str) -> None:
        eventually(lambda: set(lines) <= set(self.notes), f"{lines} in {self.notes}")

    def pids(self, role: str) -> list[int]:
        return [int(line.split()[2]) for line in self.notes if line.startswith(f"{role} started")]

    def pid(self, role: str, count: int = 1) -> int:
        """The pid of the latest process of a role, when that many were started."""
        eventually(lambda: len(self.pids(role)) >= count, f"{count} of {role}: {self.notes}")
        return self.pids(role)[-1]

    def end(self, seconds: float = 10) -> tuple[int, str]:
        """Its exit status and what it said."""
        _, said = self.process.communicate(timeout=seconds)
        return self.process.returncode, said


Start = Callable[..., Tree]


@contextmanager
def tree(folder: Path, scripts: dict[str, str], shutdown_s: float) -> Iterator[Tree]:
    for role in ROLES:
        source = textwrap.dedent(scripts.get(role, QUIET))
        (folder / f"{role}.py").write_text(CHILD + source)
    (folder / "notes").touch()
    process = subprocess.Popen(
        [sys.executable, "-c", HARNESS.replace("SHUTDOWN", str(shutdown_s)), str(folder)],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Tree(process, folder)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def start(shutdown_s: float = 5, **scripts: str) -> Tree:
            return stack.enter_context(tree(tmp_path, scripts, shutdown_s))

        yield start


def stop(tree: Tree, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
    tree.process.send_signal(number)
    return tree.end()


def test_each_child_is_told_what_it_needs_and_the_engine_is_connected(start: Start) -> None:
    tree = start()
    tree.wait_for("engine EngineBoot 0", "template TemplateBoot 0", "gateway GatewayBoot 1")
    tree.wait_for("engine Connect 1", "gateway EngineDoor 1")
    assert stop(tree) == (0, "")
    assert not (tree.folder / "temp").exists()
    assert "gateway Drain 0" in tree.notes


def test_children_lead_sessions_of_their_own(start: Start) -> None:
    tree = start()
    for role in ROLES:
        pid = tree.pid(role)
        assert os.getsid(pid) == pid
    stop(tree)


@pytest.mark.parametrize("role", ROLES)
def test_a_child_that_dies_is_started_again_and_told_again(start: Start, role: str) -> None:
    tree = start()
    tree.wait_for("engine Connect 1", "gateway EngineDoor 1")
    os.kill(tree.pid(role), signal.SIGKILL)
    tree.pid(role, 2)
    boot = f"{role} {role.capitalize()}Boot {int(role == 'gateway')}"  # it comes with the plan
    eventually(lambda: tree.notes.count(boot) == 2, "a second boot")
    if role != "template":
        eventually(lambda: tree.notes.count("engine Connect 1") == 2, "a new connection")
        eventually(lambda: tree.notes.count("gateway EngineDoor 1") == 2, "its other end")
    text = f"{role} ended (SIGKILL); starting it again"
    if role != "gateway":
        eventually(lambda: f"gateway Told warning {text}" in tree.notes, "a line for the log")
    status, said = stop(tree)
    assert (status, said.endswith(f"Z WARNING {text}\n")) == (0, role == "gateway")


def test_a_child_that_keeps_dying_is_started_ever_later(start: Start) -> None:
    tree = start(engine="sys.exit(9)")
    tree.pid("engine", 4)
    stop(tree)
    lines = [line for line in tree.notes if line.startswith("gateway Told warning engine ended (status 9)")]
    waits = [line.partition("again")[2] for line in lines]
    assert waits[:3] == ["", " in 0.1 s", " in 0.2 s"]
    assert len(tree.pids("gateway")) == len(tree.pids("template")) == 1


def test_a_child_without_its_door_is_of_no_use_and_replaced(start: Start) -> None:
    tree = start(template="note('closing'); door.sock.close(); time.sleep(600)")
    first = tree.pid("template")
    assert tree.pid("template", 2) != first
    assert not psutil.pid_exists(first)
    stop(tree)


def test_what_makes_no_sense_costs_the_sender_its_life(start: Start) -> None:
    tree = start(engine="door.sock.sendall(b'\\x05\\0\\0\\0hello'); time.sleep(600)")
    tree.pid("engine", 2)
    assert len(tree.pids("gateway")) == 1
    stop(tree)


FORKING_GATEWAY = """
import socket
from runtime.door import socket_pair

for frame, fds in frames_forever():
    match frame:
        case frames.GatewayBoot():
            control, theirs = socket_pair()
            reader, writer = os.pipe()
            door.send(frames.Fork(1, "hello", 0), [theirs.detach(), writer])
        case frames.Forked():
            note("forked", frame.token, frame.pid)
            if "KILLS":
                door.send(frames.Kill(frame.pid, bool("DUMPS")))
        case frames.Exited():
            note("exited", frame.pid, frame.status)
        case frames.Drain():
            sys.exit(0)
"""
# Forks twice, as the real one does, so that the supervisor is the worker's parent.
FORKING_TEMPLATE = """
for frame, fds in frames_forever():
    if not isinstance(frame, frames.Fork):
        continue
    note("fork", frame.function, len(fds))
    reader, writer = os.pipe()
    if os.fork() == 0:
        if (pid := os.fork()) == 0:
            os.setsid()
            WORKER
            os._exit(5)
        os.write(writer, str(pid).encode())
        os._exit(0)
    os.wait()
    LATE
    door.send(frames.Forked(frame.token, int(os.read(reader, 20))))
"""


def forking(worker: str, *, late: str = "pass", kills: bool = False, dumps: bool = False) -> dict[str, str]:
    return {
        "gateway": FORKING_GATEWAY.replace('"KILLS"', str(kills)).replace('"DUMPS"', str(dumps)),
        "template": FORKING_TEMPLATE.replace("WORKER", worker).replace("LATE", late),
    }


def worker_of(tree: Tree) -> int:
    def found() -> list[int]:
        return [int(line.split()[3]) for line in tree.notes if line.startswith("gateway forked 1")]

    return eventually(found, f"a worker in {tree.notes}")[0]


def test_the_gateway_learns_of_a_worker_and_of_its_end(start: Start) -> None:
    tree = start(**forking("pass"))
    tree.wait_for("template fork hello 2")
    pid = worker_of(tree)
    tree.wait_for(f"gateway exited {pid} 5")
    stop(tree)


def test_a_worker_whose_end_comes_before_its_name_is_reported_all_the_same(start: Start) -> None:
    """It ends at once, and the template takes its time to say who it was."""
    tree = start(**forking("os._exit(6)", late="time.sleep(0.2)"))
    pid = worker_of(tree)
    tree.wait_for(f"gateway exited {pid} 6")
    assert tree.notes.index(f"gateway forked 1 {pid}") < tree.notes.index(f"gateway exited {pid} 6")
    stop(tree)


def test_a_stray_that_ended_is_not_taken_for_a_worker_that_gets_its_number_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = Plan(sockets=(), options=b"{}", environ={}, root="/project")
    supervisor = Supervisor(plan, "/nowhere", -1)
    told: list[object] = []
    monkeypatch.setattr(supervisor._gateway, "send", told.append)
    for token, ended in ((1, 77), (2, 78)):
        supervisor._on_frame(frames.Fork(token, "hello", 0), [])
        supervisor._on_exit(ended, 0)
        supervisor._on_frame(frames.Forked(token, 78), [])
        supervisor._workers.clear()
    assert told == [frames.Forked(1, 78), frames.Forked(2, 78), frames.Exited(78, 0)]
    supervisor._on_frame(frames.Fork(3, "hello", 0), [])
    supervisor._on_frame(frames.Forked(3, 77), [])
    assert told[3:] == [frames.Forked(3, 77)]


def test_a_child_that_cannot_be_started_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A function may have used up the processes that there may be."""

    def refuse(*arguments: object, **options: object) -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "posix_spawn", refuse)
    supervisor = Supervisor(Plan(sockets=(), options=b"{}", environ={}, root="/project"), "/nowhere", -1)
    supervisor._start(supervisor._template)
    ((_, again),) = supervisor._timers
    again()
    assert len(supervisor._timers) == 2
    assert capfd.readouterr().err.count("Z WARNING template cannot be started (Resource temporarily") == 2


def test_without_a_gateway_a_line_is_of_the_form_that_the_log_has(capfd: pytest.CaptureFixture[str]) -> None:
    plan = Plan(sockets=(), options=b"{}", environ={}, root="/project", log_json=True)
    Supervisor(plan, "/nowhere", -1)._give_up()
    line = json.loads(capfd.readouterr().err)
    assert line["level"] == "warning"
    assert line["message"] == "some requests did not end in time; stopping anyway"
    assert line["time"].endswith("Z")


def test_the_end_of_a_stray_is_followed_by_a_look_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's list of children may leave some out while others of them end."""
    supervisor = Supervisor(Plan(sockets=(), options=b"{}", environ={}, root="/project"), "/nowhere", -1)
    looked: list[int] = []

    monkeypatch.setattr(proctable, "end_strays", lambda parent, known: looked.append(parent))
    supervisor._on_exit(77, 0)
    for _, action in supervisor._timers:
        action()
    assert looked == [os.getpid()]


def test_killing_a_worker_ends_what_it_has_started_too(start: Start) -> None:
    work = "import subprocess; note('child', subprocess.Popen(['sleep', '600']).pid); time.sleep(600)"
    tree = start(**forking(work))
    worker = worker_of(tree)
    eventually(lambda: any(line.startswith("template child") for line in tree.notes), "a child")
    child = next(int(line.split()[2]) for line in tree.notes if line.startswith("template child"))
    os.kill(worker, signal.SIGKILL)
    tree.wait_for(f"gateway exited {worker} -9")
    eventually(lambda: not psutil.pid_exists(child), "the end of its child")
    stop(tree)


def test_the_gateway_may_have_a_worker_killed(start: Start) -> None:
    tree = start(**forking("time.sleep(600)", kills=True))
    tree.wait_for(f"gateway exited {worker_of(tree)} -9")
    stop(tree)


def test_a_worker_may_write_its_stacks_before_it_is_killed(start: Start) -> None:
    writes = "signal.signal(signal.SIGUSR2, lambda *_: note('stacks')); time.sleep(600)"
    tree = start(**forking(f"import signal; {writes}", late="time.sleep(0.2)", kills=True, dumps=True))
    pid = worker_of(tree)
    tree.wait_for("template stacks", f"gateway exited {pid} -9")
    stop(tree)


def test_workers_go_with_their_gateway(start: Start) -> None:
    tree = start(**forking("time.sleep(600)"))
    worker = worker_of(tree)
    os.kill(tree.pid("gateway"), signal.SIGKILL)
    eventually(lambda: not psutil.pid_exists(worker), "the end of the worker")
    tree.pid("gateway", 2)
    stop(tree)


def test_a_fork_that_the_template_did_not_live_to_do_is_done_by_the_next(start: Start) -> None:
    template = """
    first = len(open(os.path.join(os.environ["FOLDER"], "notes")).read().split("template started")) == 2
    for frame, fds in frames_forever():
        if isinstance(frame, frames.Fork):
            if first:
                os._exit(1)
            note("fork", frame.function, len(fds))
            door.send(frames.Forked(frame.token, 0, "no"))
    """
    tree = start(gateway=FORKING_GATEWAY.replace('"KILLS"', "False"), template=template)
    tree.wait_for("template fork hello 2", "gateway forked 1 0")
    stop(tree)


def test_the_gateway_s_reason_to_stop_is_told_and_becomes_the_exit_status(start: Start) -> None:
    tree = start(gateway="door.send(frames.Stopped('error: no such thing', 2)); time.sleep(600)")
    assert tree.end() == (2, "error: no such thing\n")
    assert not any(psutil.pid_exists(pid) for role in ROLES for pid in tree.pids(role))


STUBBORN = """
for frame, fds in frames_forever():
    note(type(frame).__name__)
time.sleep(600)
"""


def test_a_gateway_that_does_not_end_is_ended(start: Start) -> None:
    tree = start(0.1, gateway=STUBBORN)
    tree.wait_for("gateway GatewayBoot")
    status, said = stop(tree)
    assert status == 0
    assert said.endswith("Z WARNING some requests did not end in time; stopping anyway\n")
    assert not psutil.pid_exists(tree.pids("gateway")[-1])


def test_a_second_interrupt_waits_for_nobody(start: Start) -> None:
    tree = start(60, gateway=STUBBORN)
    tree.wait_for("gateway GatewayBoot")
    tree.process.send_signal(signal.SIGINT)
    tree.wait_for("gateway Drain")
    tree.process.send_signal(signal.SIGINT)
    assert tree.end() == (0, "")


def test_a_second_sigterm_still_waits(start: Start) -> None:
    slow = QUIET.replace("sys.exit(0)", "time.sleep(0.2); note('finished'); sys.exit(0)")
    tree = start(60, gateway=slow)
    tree.wait_for("gateway GatewayBoot 1")
    tree.process.send_signal(signal.SIGTERM)
    tree.wait_for("gateway Drain 0")
    assert stop(tree) == (0, "")
    assert "gateway finished" in tree.notes


def test_nothing_is_restarted_while_everything_ends(start: Start) -> None:
    slow = QUIET.replace("sys.exit(0)", "note('draining'); time.sleep(0.3); sys.exit(0)")
    tree = start(60, gateway=slow)
    tree.wait_for("gateway GatewayBoot 1")
    engine = tree.pid("engine")
    tree.process.send_signal(signal.SIGTERM)
    tree.wait_for("gateway draining")
    os.kill(engine, signal.SIGKILL)
    assert tree.end() == (0, "")
    assert len(tree.pids("engine")) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may look at what process 0 has open")
def test_descriptors_that_nobody_expects_are_closed(start: Start) -> None:
    send = """
    for kind in [frames.Up(1), frames.Kill(1)] * 100:
        door.send(kind, [os.open("/dev/null", os.O_RDONLY)])
        while door.pending:
            door.flush()
    door.send(frames.Fork(1, "f", 0))
    """
    tree = start(gateway=textwrap.dedent(send) + QUIET)
    tree.wait_for("template Fork 0")
    assert psutil.Process(tree.process.pid).num_fds() < 50
    stop(tree)
