"""The files of a function: read, served in pieces, changed, and kept apart from everything else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.conformance.wire import Wire
from tests.processes.users import USERS, User
from tests.running import Server, body, eventually, project, serving

PAGE = "<h1>version one</h1>\n"
SITE = """
import importlib.resources
import os
from pathlib import Path
from runtime import FileResponse

here = Path(__file__)
project = here.parent.parent.parent
big = Path(os.environ["TMPDIR"], "big")
with big.open("wb") as file:
    file.truncate(150_000_000)  # takes no room on the disk

def open_files():
    links = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    return sum(os.path.exists(link) and os.readlink(link) == str(big) for link in links)

async def handler(request):
    match request.url.path.rpartition("/")[2]:
        case "page":
            return FileResponse(here.with_name("page.html"))
        case "big":
            return FileResponse(big)
        case "open":
            return open_files()
    return {
        "page": here.with_name("page.html").read_text(),
        "logo": (project / "assets" / "logo.svg").read_text(),
        "resource": (importlib.resources.files(__package__) / "page.html").read_text(),
        "all": sorted(str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()),
        "file": __file__,
    }
"""
CONFIG = """
[ai]
preload = []
[functions.site]
static_files = ["assets/*", "terms.txt", "nothing/*.html"]
"""
MB = 1_000_000


def site(root: Path) -> Path:
    """A project whose function has files of every kind."""
    sources = {"site": SITE, "site/page.html": PAGE, "site/test_site.py": "1 / 0", "site/.env": "A=1"}
    project(root, sources, CONFIG)
    (root / "assets").mkdir()
    (root / "assets" / "logo.svg").write_text("<svg/>")
    (root / "assets" / ".env").write_text("SECRET=1")
    (root / "assets" / "outside").symlink_to("/etc/passwd")
    (root / "terms.txt").write_text("terms")
    return root


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(site(tmp_path_factory.mktemp("files"))) as server:
        yield server


# --- which files ---------------------------------------------------------------------------


def test_a_function_finds_its_files_and_no_others(client: httpx2.Client, server: Server) -> None:
    answer = body(client.get("/site"))
    assert (answer["page"], answer["logo"], answer["resource"]) == (PAGE, "<svg/>", PAGE)
    assert answer["all"] == [
        *("assets/logo.svg", "functions/site/index.py", "functions/site/page.html", "terms.txt")
    ]
    assert answer["file"].endswith("/functions/site/index.py")


def test_what_is_not_there_or_not_allowed_is_a_note(server: Server) -> None:
    assert 'functions.site.static_files: "nothing/*.html" matches no file' in server.log
    assert "assets/outside is left out: it leads out of the project" in server.log


def test_a_change_of_a_file_makes_a_new_version_whose_files_do_not_mix(tmp_path: Path) -> None:
    root = site(tmp_path)
    with serving(root) as server, server.client() as client:
        first = body(client.get("/site"))
        logo, page = "<svg>new</svg>", "new page"
        server.save_until("assets/logo.svg", logo, lambda: body(client.get("/site"))["logo"] == logo)
        server.save_until("functions/site/page.html", page, lambda: body(client.get("/site"))["page"] == page)
        (root / "terms.txt").unlink()
        eventually(lambda: "terms.txt" not in body(client.get("/site"))["all"], "no more terms")
        server.save_until(
            "nothing/x.html", "new", lambda: "nothing/x.html" in body(client.get("/site"))["all"]
        )
        eventually(lambda: not Path(first["file"]).exists(), "the old version's files are removed")
        assert body(client.get("/site"))["logo"] == logo


@pytest.mark.parametrize("user", USERS)
def test_files_can_be_read_in_a_private_and_read_only_project(user: User) -> None:
    """As root, workers are users who cannot even enter the folder that their files came from."""
    with user.folder() as folder, ExitStack() as later:
        private = folder / "private"
        (private / "tmp").mkdir(parents=True)
        root = site(private / "project")
        user.own(folder)
        for path in (root, *root.rglob("*")):
            if not path.is_symlink():
                mode = path.stat().st_mode
                path.chmod(0o500 if path.is_dir() else 0o400)
                later.callback(path.chmod, mode)
        before = {str(path) for path in root.rglob("*")}
        with user.serving(root) as server, server.client() as client:
            answer = body(client.get("/site"))
            assert (answer["page"], answer["logo"], answer["resource"]) == (PAGE, "<svg/>", PAGE)
        assert {str(path) for path in root.rglob("*")} - before <= {str(root / "supabase" / ".functions")}


# --- serving them --------------------------------------------------------------------------


def test_head_is_answered_with_the_headers_of_get_and_no_body(wire: Wire) -> None:
    wire.ask("HEAD", "/functions/v1/site/page")
    head = wire.answer(bodiless=True)
    wire.ask("GET", "/functions/v1/site/page")
    answer = wire.answer()
    same = ("content-length", "content-type", "etag", "last-modified", "accept-ranges")
    assert [head.headers[name] for name in same] == [answer.headers[name] for name in same]
    assert (head.status, head.headers["content-length"]) == (200, str(len(PAGE)))
    assert answer.body == PAGE.encode()


@pytest.mark.parametrize(
    ("asked", "status", "content", "told"),
    [
        ("bytes=0-3", 206, PAGE[:4], f"bytes 0-3/{len(PAGE)}"),
        ("bytes=4-", 206, PAGE[4:], f"bytes 4-{len(PAGE) - 1}/{len(PAGE)}"),
        ("bytes=-6", 206, PAGE[-6:], f"bytes {len(PAGE) - 6}-{len(PAGE) - 1}/{len(PAGE)}"),
        ("bytes=0-9999", 206, PAGE, f"bytes 0-{len(PAGE) - 1}/{len(PAGE)}"),
        ("bytes=9999-", 416, "", f"bytes */{len(PAGE)}"),
    ],
)
def test_a_range_of_a_file_can_be_asked_for(
    client: httpx2.Client, asked: str, status: int, content: str, told: str
) -> None:
    response = client.get("/site/page", headers={"range": asked})
    assert (response.status_code, response.text) == (status, content)
    assert response.headers["content-range"] == told
    assert int(response.headers["content-length"]) == len(content)
    if status == 206:
        head = client.head("/site/page", headers={"range": asked})
        assert (head.status_code, head.content) == (206, b"")
        assert head.headers["content-range"] == told


def test_several_ranges_come_as_one_body_of_parts(client: httpx2.Client) -> None:
    response = client.get("/site/page", headers={"range": "bytes=0-3, -6"})
    assert response.status_code == 206
    boundary = re.fullmatch(r"multipart/byteranges; boundary=(\w+)", response.headers["content-type"])
    assert boundary is not None
    parts = response.text.split(f"--{boundary[1]}")
    assert [part.split("\r\n\r\n")[1].removesuffix("\r\n") for part in parts[1:3]] == [PAGE[:4], PAGE[-6:]]
    assert int(response.headers["content-length"]) == len(response.content)


def test_a_range_counts_only_for_the_version_that_the_client_has(client: httpx2.Client) -> None:
    etag = client.head("/site/page").headers["etag"]
    for validator, status in ((etag, 206), ('"another"', 200)):
        response = client.get("/site/page", headers={"range": "bytes=0-3", "if-range": validator})
        assert response.status_code == status


# --- large files ---------------------------------------------------------------------------


def test_a_large_file_costs_no_memory(server: Server, wire: Wire) -> None:
    processes = [psutil.Process(server.pid_of(name)) for name in ("fn-gateway", "fn:site")]
    before = [process.memory_info().rss for process in processes]
    wire.ask("GET", "/functions/v1/site/big")
    assert int(wire.head().headers["content-length"]) == 150 * MB
    for _ in range(15):
        assert not any(wire.exactly(10 * MB))
        grown = [process.memory_info().rss - start for process, start in zip(processes, before, strict=True)]
        assert max(grown) < 24 * MB


def test_a_part_out_of_the_middle_of_a_large_file_is_all_that_is_sent(client: httpx2.Client) -> None:
    response = client.get("/site/big", headers={"range": "bytes=100000000-100000099"})
    assert (response.status_code, response.content) == (206, bytes(100))


def test_a_file_is_let_go_of_when_the_client_leaves(client: httpx2.Client, wire: Wire) -> None:
    wire.ask("GET", "/functions/v1/site/big")
    wire.head()
    assert client.get("/site/open").json() == 1
    wire.reset()
    eventually(lambda: client.get("/site/open").json() == 0, "the file is closed")
