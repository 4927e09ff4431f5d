"""The sandbox: what a confined process can still do, and what not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from runtime.errors import StartError
from runtime.worker import landlock

ABI = landlock.version()
needs_landlock = pytest.mark.skipif(ABI < 1, reason="this kernel has no Landlock")
IS_ROOT = os.geteuid() == 0

PRELUDE = """
import errno, json, os, signal, socket, subprocess, sys, tempfile
from runtime.worker import landlock

project, folder, outside = sys.argv[1:4]
os.chdir(folder)
BEFORE
os.environ["TMPDIR"] = os.environ["HOME"] = folder
landlock.confine(writable=folder, hidden=project)

def can(action):
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"

def read(path):
    return can(lambda: open(path, "rb").read(1))

def write(path):
    return can(lambda: open(path, "ab").close())
"""


class Place:
    """A project, a worker's folder and somebody else's, all on one disk."""

    def __init__(self, root: Path) -> None:
        self.project, self.folder, self.other = root / "project", root / "4711", root / "4712"
        for folder in (self.project, self.folder, self.other):
            folder.mkdir()
        (self.project / "secret").write_text("secret")
        (self.other / "secret").write_text("secret")

    def confined(self, code: str, before: str = "") -> Any:
        program = PRELUDE.replace("BEFORE", before) + code
        done = subprocess.run(
            [sys.executable, "-I", "-c", program, self.project, self.folder, self.other],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def place() -> Iterator[Place]:
    with TemporaryDirectory() as root:
        yield Place(Path(root))


@needs_landlock
def test_only_its_own_folder_may_be_changed(place: Place) -> None:
    code = """
os.makedirs("a/b")
print(json.dumps({
    "own": [write("file"), can(lambda: os.rename("file", "a/b/file")), can(lambda: os.unlink("a/b/file"))],
    "link": can(lambda: os.symlink(f"{project}/secret", "link")),
    "through the link": read("link"),
    "system": write("/etc/new"),
    "program": write("/usr/bin/env"),
    "package": write(landlock.__file__),
    "shared memory": write("/dev/shm/new"),
    "common": write("/tmp/new-of-a-function"),
    "other": [read(f"{outside}/secret"), write(f"{outside}/new"), can(lambda: os.listdir(outside))],
    "project": [read(f"{project}/secret"), write(f"{project}/new"), can(lambda: os.listdir(project))],
    "root": can(lambda: os.listdir("/")),
    "home": can(lambda: os.listdir(os.path.expanduser("~root"))),
}))
"""
    refused = ["EACCES"] * 3
    assert place.confined(code) == {
        "own": ["done"] * 3,
        "link": "done",
        "through the link": "EACCES",
        "system": "EACCES",
        "program": "EACCES",
        "package": "EACCES",
        "shared memory": "EACCES",
        "common": "EACCES",
        "other": refused,
        "project": refused,
        "root": "EACCES",
        "home": "EACCES",
    }


@needs_landlock
def test_what_ordinary_code_needs_is_there(place: Place) -> None:
    code = """
import ssl, sqlite3, time, urllib.request, xml.etree.ElementTree, zoneinfo
import anyio, httpx2, msgspec, starlette.applications

def ran(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

with tempfile.NamedTemporaryFile() as file:
    in_folder = file.name.startswith(folder)
database = sqlite3.connect("data.db")
database.execute("create table texts (text)")
print(json.dumps({
    "tempfile": in_folder,
    "program": ran("/bin/sh", "-c", "echo said > told && cat told"),
    "python": ran(sys.executable, "-I", "-c", "import json; print(json.dumps(1))"),
    "pipes": ran("sh", "-c", "echo a > /dev/null; head -c 3 /dev/zero | wc -c"),
    "names": sorted({info[4][0] for info in socket.getaddrinfo("localhost", 80, socket.AF_INET)}),
    "certificates": ssl.create_default_context().cert_store_stats()["x509_ca"] >= 0,
    "itself": read("/proc/self/status"),
    "by a child": ran("cat", "/proc/self/comm"),
    "zone": str(zoneinfo.ZoneInfo("Europe/Berlin").utcoffset(__import__("datetime").datetime(2026, 1, 1))),
    "random": read("/dev/urandom"),
    "memory": can(lambda: os.memfd_create("x")),
    "user": can(lambda: __import__("pwd").getpwuid(0)),
}))
"""
    assert place.confined(code) == {
        "tempfile": True,
        "program": "said",
        "python": "1",
        "pipes": "3",
        "names": ["127.0.0.1"],
        "certificates": True,
        "itself": "done",
        "by a child": "cat",
        "zone": "1:00:00",
        "random": "done",
        "memory": "done",
        "user": "done",
    }


@needs_landlock
def test_trusted_certificates_are_as_many_as_outside(place: Place) -> None:
    count = "import ssl; print(ssl.create_default_context().cert_store_stats()['x509_ca'])"
    outside = subprocess.run([sys.executable, "-I", "-c", count], capture_output=True, check=True)
    assert place.confined(count) == json.loads(outside.stdout)


@needs_landlock
def test_the_network_stays_open(place: Place) -> None:
    code = """
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
client.sendall(b"through")
print(json.dumps(listener.accept()[0].recv(10).decode()))
"""
    assert place.confined(code) == "through"


@pytest.mark.skipif(ABI < 6, reason="this kernel's Landlock knows nothing of signals")
def test_no_process_outside_can_be_signalled_or_looked_into(place: Place) -> None:
    """Not even one of the same user."""
    before = """
if os.geteuid() == 0:
    from runtime.worker import visibility
    visibility.show_interpreter()
    os.chown(folder, 54330, 54330), os.setresuid(54330, 54330, 54330)
# It ends with our input.
neighbour = subprocess.Popen(["cat"], env={"SECRET": "1"}, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
while b"cat" not in open(f"/proc/{neighbour.pid}/cmdline", "rb").read():
    pass
assert open(f"/proc/{neighbour.pid}/environ").read()
"""
    code = """
child = subprocess.Popen(["sleep", "60"])
print(json.dumps({
    "signal": can(neighbour.kill),
    "environment": read(f"/proc/{neighbour.pid}/environ"),
    "its files": can(lambda: os.listdir(f"/proc/{neighbour.pid}/cwd")),
    "own child": can(child.kill),
    "ended by": child.wait(),
}), flush=True)
"""
    place.folder.parent.chmod(0o711)
    assert place.confined(code, before) == {
        "signal": "EPERM",
        "environment": "EACCES",
        "its files": "EACCES",
        "own child": "done",
        "ended by": -9,
    }


@needs_landlock
def test_what_it_does_not_stop(place: Place) -> None:
    """As docs/security.md says. Should a kernel stop more one day, the page is to be changed."""
    before = """
door = socket.socket(socket.AF_UNIX)
door.bind(f"{outside}/door")
door.listen()
"""
    code = """
caller = socket.socket(socket.AF_UNIX)
print(json.dumps({
    "that a file is there": can(lambda: os.stat(f"{project}/secret")),
    "its permissions": can(lambda: os.chmod(f"{project}/secret", 0o600)),
    "sockets in the file system": can(lambda: caller.connect(f"{outside}/door")),
    "what others are called": read(f"/proc/{os.getppid()}/cmdline"),
}))
"""
    assert set(place.confined(code, before).values()) == {"done"}


@needs_landlock
def test_programs_that_it_starts_are_shut_in_too(place: Place) -> None:
    code = 'print(subprocess.run(["cat", f"{project}/secret"], stderr=-1).returncode)'
    assert place.confined(code) == 1


@needs_landlock
def test_a_project_inside_a_folder_of_the_system_is_hidden(place: Place) -> None:
    """As /usr/src/app in a container."""
    code = """
print(json.dumps([read(f"{project}/secret"), read(f"{project}/../beside/module.py")]))
"""
    system = place.project.parent / "system"
    (system / "beside").mkdir(parents=True)
    (system / "beside" / "module.py").write_text("there = True")
    place.project = place.project.rename(system / "app")
    in_system = f'import runtime.worker.landlock as one; one._SYSTEM = (*one._SYSTEM, "{system}")'
    assert place.confined(code, in_system) == ["EACCES", "done"]


@needs_landlock
def test_open_descriptors_stay_open(place: Place) -> None:
    """As the snapshot of the function and the connections to the gateway are."""
    before = """
file = os.memfd_create("snapshot")
os.write(file, b"data")
outer = [one.detach() for one in socket.socketpair()]
"""
    code = """
print(json.dumps([os.pread(file, 4, 0).decode(), can(lambda: os.write(outer[0], b"x"))]))
"""
    assert place.confined(code, before) == ["data", "done"]


@pytest.mark.skipif(not IS_ROOT, reason="only root can become another user")
@needs_landlock
def test_it_goes_together_with_the_namespace_that_shows_the_interpreter(place: Place) -> None:
    code = """
import os, sys
from runtime.worker import landlock, visibility

project, folder, _ = sys.argv[1:4]
visibility.show_interpreter()
os.chown(folder, 54329, 54329)
os.setresgid(54329, 54329, 54329), os.setresuid(54329, 54329, 54329)
os.chdir(folder)
landlock.confine(writable=folder, hidden=project)
import xml.dom.minidom, wave, starlette.applications
open("own", "w").close()
print("imported")
"""
    place.folder.parent.chmod(0o711)
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, place.project, place.folder, place.other],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout == "imported\n", done.stderr


def test_a_kernel_without_it_is_told_and_not_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(number: int, *arguments: object) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(landlock, "_syscall", refuse)
    with pytest.raises(StartError, match='this kernel cannot do what sandbox = "landlock" asks for') as error:
        landlock.confine(writable=str(tmp_path), hidden=str(tmp_path))
    assert 'or set sandbox = "off"' in str(error.value)


@needs_landlock
def test_other_threads_would_stay_outside_so_it_refuses(place: Place) -> None:
    code = """
import sys, threading
from runtime.worker import landlock
over = threading.Event()
threading.Thread(target=over.wait).start()
try:
    landlock.confine(writable=sys.argv[1], hidden="/nowhere")
except Exception as error:
    print(error)
over.set()
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(place.folder)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "the sandbox cannot be closed any more: this process has several threads already\n"


def test_nothing_that_is_readable_holds_the_project(tmp_path: Path) -> None:
    for hidden in ("/usr", "/usr/local/share", str(tmp_path), sys.prefix):
        hole = os.path.realpath(hidden)
        assert [path for path in landlock.readable(hidden) if f"{hole}/".startswith(f"{path}/")] == []


def test_packages_inside_the_project_stay_readable() -> None:
    """A virtual environment usually lies there."""
    inside = os.path.realpath(sys.prefix)
    assert inside in landlock.readable(os.path.dirname(inside))
