"""What a function can find out: its own secrets, and nobody else's.

The functions here look by themselves, in every place that the kernel shows them, and
return what they have found.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest

from tests.running import SECRET, Server, body, project

from .users import USERS, User

# A marker is told to the function in two halves, so that asking leaves no whole one in its memory.
MARKERS = {
    "jwt": SECRET,
    "shared": "marker-of-the-env-file-for-those-who-name-it",
    "alpha": "marker-of-the-function-alpha-itself",
    "beta": "marker-of-the-function-beta-itself",
    "config": "marker-in-the-configuration-for-nobody",
    "shell": "marker-in-the-environment-of-the-shell",
}
HALF = 20
SPY = '''
import ctypes, gc, os, re, signal, sys
from pathlib import Path

def halves(request):
    return {
        name: (first.encode(), second.encode())
        for name, first, second in (line.split("|") for line in request.headers["x-halves"].split(";"))
    }

def seen(data, markers):
    """The names of the markers whose halves stand side by side."""
    names = set()
    for name, (first, second) in markers.items():
        at = data.find(first)
        while at >= 0:
            if data[at + len(first): at + len(first) + len(second)] == second:
                names.add(name)
                break
            at = data.find(first, at + 1)
    return names

def environ(request):
    return dict(os.environ)

def proc(request):
    """Everything that other processes show, file by file: read, and what was in it."""
    markers, found, read, others = halves(request), {}, [], []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or entry.name == str(os.getpid()):
            continue
        others.append(int(entry.name))
        for name in ("environ", "cmdline", "stat", "status", "maps", "auxv", "stack", "syscall"):
            try:
                data = (entry / name).read_bytes()
            except OSError:
                continue
            read.append(f"{entry.name}/{name}")
            for marker in seen(data, markers):
                found.setdefault(marker, []).append(f"{entry}/{name}")
        for place in ("fd", "cwd", "root", "map_files"):
            try:
                os.listdir(entry / place)
                read.append(f"{entry.name}/{place}")
            except OSError:
                continue
        try:
            with open(entry / "mem", "rb", 0):
                read.append(f"{entry.name}/mem")
        except OSError:
            continue
    return {"found": found, "read": read, "others": others}

def memory(request):
    """Every page of this process that can be read."""
    markers, found, pages, blocks = halves(request), set(), 0, 0
    gc.collect()
    for line in own_maps():
        match = re.match(r"([0-9a-f]+)-([0-9a-f]+) r\\S* \\S+ \\S+ \\S+\\s*(.*)", line)
        if match is None or match[3] in ("[vvar]", "[vsyscall]", "[vvar_vclock]"):
            continue
        start, end = int(match[1], 16), int(match[2], 16)
        blocks += 1
        for at in range(start, end, 1 << 20):
            size = min((1 << 20) + 256, end - at)
            data = read_memory(at, size)
            pages += len(data) // 4096
            found |= seen(data, markers)
    return {"found": sorted(found), "pages": pages, "blocks": blocks}

def own_maps():
    return Path("/proc/self/maps").read_text().splitlines()

class Piece(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]

libc = ctypes.CDLL(None, use_errno=True)

def read_memory(at, size, pid=None):
    """As a debugger reads it: what cannot be read gives nothing instead of a crash."""
    data = ctypes.create_string_buffer(size)
    ours, theirs = Piece(ctypes.addressof(data), size), Piece(at, size)
    count = libc.process_vm_readv(pid or os.getpid(), ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0)
    return data.raw[:count] if count > 0 else b""

def others(request):
    """What it may do to the processes that it sees."""
    result = {"read": [], "traced": [], "signalled": []}
    for pid in map(int, request.query_params["pids"].split(",")):
        if read_memory(int(request.query_params["at"]), 16, pid):
            result["read"].append(pid)
        if libc.ptrace(16, pid, None, None) == 0:  # PTRACE_ATTACH
            libc.ptrace(17, pid, None, None)
            result["traced"].append(pid)
        try:
            os.kill(pid, 0)
            result["signalled"].append(pid)
        except PermissionError:
            pass
    return result

def descriptors(request):
    """Every descriptor it holds, and the markers in those that can be read."""
    markers, kinds, found = halves(request), [], set()
    for fd in range(1024):
        try:
            mode = os.fstat(fd).st_mode
        except OSError:
            continue
        kinds.append(oct(mode))
        try:
            found |= seen(os.pread(fd, 1 << 20, 0), markers)
        except OSError:
            pass
    return {"kinds": kinds, "found": sorted(found)}

def address(request):
    return {"at": id(type), "pid": os.getpid(), "uid": os.getuid(), "groups": os.getgroups()}

async def handler(request):
    return globals()[request.url.path.rsplit("/", 1)[1]](request)
'''
CONFIG = f"""
[ai]
preload = []
[edge_runtime.secrets]
CONFIGURED = "{MARKERS["config"]}"
[functions.alpha]
secrets = ["SHARED"]
[functions.beta]
secrets = []
"""
HOST_ENVIRONMENT = {"SOMETHING_OF_THE_SHELL": MARKERS["shell"], "LD_LIBRARY_PATH": "/nowhere"}
ALLOWED = {
    *("PATH", "HOME", "TMPDIR", "LANG", "TZ"),
    *("SUPABASE_URL", "SUPABASE_ANON_KEY", "SUPABASE_PUBLISHABLE_KEYS"),
    *("SB_EXECUTION_ID", "SUPABASE_FUNCTION_SLUG"),
}
PRIVILEGED = {"SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_SECRET_KEYS"}


class Spies(NamedTuple):
    user: User
    server: Server
    client: httpx2.Client

    def ask(self, function: str, what: str, **query: str) -> dict[str, Any]:
        halves = ";".join(f"{name}|{marker[:HALF]}|{marker[HALF:]}" for name, marker in MARKERS.items())
        response = self.client.get(f"/{function}/{what}", params=query, headers={"x-halves": halves})
        assert response.status_code == 200, self.server.log
        return body(response)


@pytest.fixture(scope="module", params=USERS)
def spies(request: pytest.FixtureRequest) -> Iterator[Spies]:
    user: User = request.param
    with user.folder() as folder:
        root = project(folder / "project", dict.fromkeys(("alpha", "beta", "gamma"), SPY), CONFIG)
        write(root / "supabase" / "functions" / ".env", f"SHARED={MARKERS['shared']}\n")
        for name in ("alpha", "beta"):
            write(root / "functions" / name / ".env", f"OWN={MARKERS[name]}\n")
        with user.serving(root, env=HOST_ENVIRONMENT) as server, server.client() as client:
            yield Spies(user, server, client)


def write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)


def test_the_environment_holds_what_is_promised_and_nothing_else(spies: Spies) -> None:
    alpha, beta, gamma = (spies.ask(name, "environ") for name in ("alpha", "beta", "gamma"))
    assert alpha.keys() == ALLOWED | {"SHARED", "OWN"}
    assert beta.keys() == ALLOWED | {"OWN"}
    assert gamma.keys() == ALLOWED | PRIVILEGED | {"SHARED", "CONFIGURED"}
    assert (alpha["OWN"], alpha["SHARED"]) == (MARKERS["alpha"], MARKERS["shared"])
    assert beta["OWN"] == MARKERS["beta"]
    assert gamma["CONFIGURED"] == MARKERS["config"]
    assert alpha["HOME"] == alpha["TMPDIR"] != beta["TMPDIR"]
    for found in (alpha, beta, gamma):
        assert SECRET not in found.values()
        assert MARKERS["shell"] not in found.values()


@pytest.mark.parametrize("name", ["alpha", "beta", "gamma"])
def test_proc_shows_no_secret_and_the_server_s_processes_show_nothing(spies: Spies, name: str) -> None:
    report = spies.ask(name, "proc")
    assert report["found"] == {}
    ours = {spies.server.pid, *spies.server.family()} - {spies.server.pid_of(f"fn:{name}")}
    assert ours <= set(report["others"]), "the function did not look at every process"
    closed = {"environ", "maps", "mem", "fd", "cwd", "root", "map_files", "auxv", "stack", "syscall"}
    opened = {f"{pid}/{place}" for pid in ours for place in closed} & set(report["read"])
    assert not opened
    # What everybody may read was read: the test has looked.
    assert {f"{pid}/cmdline" for pid in ours} <= set(report["read"])


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("alpha", ["alpha", "shared"]),
        ("beta", ["beta"]),
        ("gamma", ["config", "shared"]),
    ],
)
def test_its_memory_holds_its_own_secrets_and_no_other(spies: Spies, name: str, own: list[str]) -> None:
    report = spies.ask(name, "memory")
    assert report["found"] == own  # its own are found: so the search finds what is there
    assert report["pages"] > 1000


@pytest.mark.parametrize("name", ["alpha", "beta", "gamma"])
def test_its_descriptors_lead_to_nothing_of_another_function(spies: Spies, name: str) -> None:
    report = spies.ask(name, "descriptors")
    assert report["found"] == []
    assert len(report["kinds"]) < 25


def test_workers_of_root_are_users_of_their_own_and_others_stay_who_they_are(spies: Spies) -> None:
    found = [spies.ask(name, "address") for name in ("alpha", "beta", "gamma")]
    uids = {report["uid"] for report in found}
    if spies.user.is_root:
        assert len(uids) == 3
        assert min(uids) >= 55_000
        assert all(report["groups"] == [] for report in found)
    else:
        assert len(uids) == 1
        assert 0 not in uids


@pytest.mark.parametrize("name", ["alpha", "beta", "gamma"])
def test_it_can_neither_read_nor_trace_a_process_of_the_server(spies: Spies, name: str) -> None:
    me = spies.ask(name, "address")
    pids = {spies.server.pid, *spies.server.family()} - {me["pid"]}
    report = spies.ask(name, "others", pids=",".join(map(str, pids)), at=str(me["at"]))
    assert report["read"] == []
    assert report["traced"] == []
    if spies.user.is_root:
        assert report["signalled"] == []
