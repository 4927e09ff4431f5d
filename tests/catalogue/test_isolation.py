"""Catalogue 5.8: what a function can reach.

CPython has no sandbox: a function is a process, and these are the walls that a process has.
"""

from __future__ import annotations

import os

import httpx2
import psutil
import pytest

from tests.catalogue.place import Place, over, told
from tests.running import SECRET, eventually

BY_THE_HOST = {
    "SUPABASE_URL",
    "SUPABASE_ANON_KEY",
    "SUPABASE_SERVICE_ROLE_KEY",
    "SUPABASE_PUBLISHABLE_KEYS",
    "SUPABASE_SECRET_KEYS",
    "SUPABASE_FUNCTION_SLUG",
    "SB_EXECUTION_ID",
    "PATH",
    "HOME",
    "TMPDIR",
    "LANG",
    "TZ",
}
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="functions have users of their own under root alone")


def environment(client: httpx2.Client, name: str = "inside", page: str = "environment") -> dict[str, str]:
    found: dict[str, str] = client.get(f"/{name}/{page}").json()
    return found


def test_the_environment_is_the_function_s_own_and_has_nothing_of_the_server_s(client: httpx2.Client) -> None:
    """63"""
    found = environment(client)
    assert found["SUPABASE_FUNCTION_SLUG"] == "inside"
    assert (found["SHARED_VALUE"], found["OWN_VALUE"]) == ("of-every-function", "of-inside")
    assert environment(client, "neighbour")["OWN_VALUE"] == "of-neighbour"
    assert set(found) - {"ADDED"} <= BY_THE_HOST | {"SHARED_VALUE", "OWN_VALUE"}
    assert SECRET not in found.values()


def test_a_variable_that_a_function_sets_is_seen_by_no_other(client: httpx2.Client) -> None:
    """63: on purpose settable, as libraries expect; it changes one process"""
    assert client.get("/inside/set").text == "by a function"
    assert "ADDED" not in environment(client, "neighbour")


@pytest.mark.parametrize("page", ["child", "awaited-child"])
def test_a_subprocess_has_what_its_function_has_and_no_more(client: httpx2.Client, page: str) -> None:
    """65: on purpose not denied: nothing in CPython could"""
    own, child = environment(client), environment(client, page=page)
    assert child.items() - {("LC_CTYPE", "C.UTF-8")} <= own.items()


def test_a_subprocess_ends_with_the_worker_of_its_function(place: Place, client: httpx2.Client) -> None:
    """65"""
    assert place.server
    pid = client.get("/inside/leave-child").json()
    assert psutil.pid_exists(pid)
    told(client.get("/inside/end"), 500, "WORKER_ERROR")
    eventually(lambda: not psutil.pid_exists(pid), "the end of what it started")


def test_files_that_a_pattern_names_are_there_and_its_neighbours_are_not(client: httpx2.Client) -> None:
    """67"""
    found = client.get("/inside/snapshot").json()
    assert found["named"] == {"found": "Dear reader"}
    assert found["unnamed"] == {"error": "FileNotFoundError"}
    assert found["beside"] == {"found": ["beside.txt", "index.py"]}


def test_the_temporary_folder_is_private_and_takes_files_and_folders(client: httpx2.Client) -> None:
    """68"""
    found = client.get("/inside/temp").json()
    assert found == {"text": "kept for a while", "inside": True, "mode": "0o700", "home": True, "left": []}


def test_a_file_in_the_temporary_folder_is_no_module(client: httpx2.Client) -> None:
    """69"""
    assert client.get("/inside/import").json() == {"not found": "dropped_here"}


@AS_ROOT
def test_the_files_of_another_function_are_out_of_reach(place: Place, client: httpx2.Client) -> None:
    """66, 67: where the server is root; elsewhere one user's functions can read one user's files"""

    def look(path: object) -> object:
        return client.get("/inside/look", params={"path": str(path)}).json()

    root = place.server.root
    refused = {"error": "PermissionError"}
    assert look(root / "functions" / "neighbour" / ".env") == refused
    assert look(root / "supabase" / "functions" / ".env") == refused
    assert look(client.get("/neighbour/temp-name").text) == refused
    assert "found" in client.get("/neighbour/look", params={"path": "."}).json()


@pytest.mark.parametrize("way", ["write", "copy", "truncate"])
def test_a_temporary_folder_over_its_size(client: httpx2.Client, way: str) -> None:
    """70"""
    over(client.get(f"/fills/{way}"), "tmp_mb")


def test_what_was_removed_from_the_temporary_folder_no_longer_counts(client: httpx2.Client) -> None:
    """70"""
    assert client.get("/fills/in-turn").text == "all written"


def test_a_large_array_below_the_limit_is_served(client: httpx2.Client) -> None:
    """71"""
    assert client.get("/hogs/array?mb=48").json() == 48 << 20


def test_a_large_array_above_the_limit_is_not(client: httpx2.Client) -> None:
    """71"""
    over(client.get("/hogs/array?mb=300"), "memory_mb")


@pytest.mark.parametrize("way", ["files", "map", "child"])
def test_memory_counts_however_it_was_taken(client: httpx2.Client, way: str) -> None:
    """72"""
    over(client.get(f"/hogs/{way}"), "memory_mb")


def test_a_worker_has_no_privileges(client: httpx2.Client) -> None:
    """73"""
    found = client.get("/inside/limits").json()
    assert found["uid"] != 0
    assert found["capabilities"] == [0, 0, 0, 0]
    assert found["no_new_privileges"] == "1"
    assert found["core"] == 0
    assert found["own_session"]


@AS_ROOT
def test_every_function_has_a_user_of_its_own(place: Place, client: httpx2.Client) -> None:
    """73"""
    assert place.server
    uids = [client.get(f"/{name}/limits").json()["uid"] for name in ("inside", "neighbour")]
    assert len({0, *uids}) == 3
