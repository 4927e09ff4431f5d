"""Catalogue 5.3: functions that do not start."""

from __future__ import annotations

import httpx2
import pytest

from tests.catalogue.place import Place, told

REASONS = {
    "no-entry": "no-entry/index.py does not exist",
    "bare-import": "No module named 'oak'",
    "relative-import": "nowhere",
    "zero-bytes": "neither `handler` nor `app`",
    "wrong-entry": "wrong-entry/nowhere.py does not exist",
    "raises": "RuntimeError: not today",
}


def refused(client: httpx2.Client, name: str) -> None:
    message = told(client.get(f"/{name}"), 503, "BOOT_ERROR")
    assert "log" in message
    assert REASONS[name] not in message


def test_a_folder_without_an_entry_file_is_a_boot_error(client: httpx2.Client) -> None:
    """24"""
    refused(client, "no-entry")


def test_a_function_without_a_folder_is_a_404(client: httpx2.Client) -> None:
    """24: on purpose, as it is no function"""
    told(client.get("/no-folder"), 404, "NOT_FOUND")


def test_an_import_that_fails_is_a_boot_error(client: httpx2.Client) -> None:
    """25"""
    refused(client, "bare-import")


def test_a_file_of_zero_bytes_is_a_boot_error(client: httpx2.Client) -> None:
    """26"""
    refused(client, "zero-bytes")


def test_an_entry_file_that_does_not_exist_is_a_boot_error(client: httpx2.Client) -> None:
    """27"""
    refused(client, "wrong-entry")


@pytest.mark.parametrize("name", ["bare-import", "relative-import"])
def test_the_log_names_the_module_that_is_missing_and_the_line_that_wants_it(
    place: Place, client: httpx2.Client, name: str
) -> None:
    """28, 29"""
    refused(client, name)
    place.server.wait_for_log(REASONS[name])
    place.server.wait_for_log(f'functions/{name}/index.py", line 1')


def test_an_exception_in_the_module_is_a_boot_error(client: httpx2.Client) -> None:
    """30: on purpose 503, as it is for every function that does not start"""
    refused(client, "raises")


@pytest.mark.parametrize("name", REASONS)
def test_the_log_and_the_numbers_tell_of_a_function_that_does_not_start(
    place: Place, client: httpx2.Client, name: str
) -> None:
    """31"""
    refused(client, name)
    if place.service:
        headers = {"authorization": f"Bearer {place.service}"}
        metric = client.get("/_internal/metric", headers=headers).json()["functions"][name]
        assert metric["state"] == "failed"
        assert REASONS[name] in metric["last_error"]
    place.server.wait_for_log(f"{name} did not start")
    place.server.wait_for_log(REASONS[name])


def test_a_function_that_does_not_start_hurts_no_other(client: httpx2.Client) -> None:
    """30"""
    for name in REASONS:
        refused(client, name)
        assert client.get("/basic").text == "basic"
