"""Whatever a hub does, the store has a whole model or none, and a person knows why."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from runtime.engine.models import hub as hub_module
from runtime.engine.models import patience as module
from runtime.engine.models.leftovers import PARTIAL, beside
from runtime.engine.models.patience import Patience, wait_of
from runtime.engine.models.store import Store
from runtime.errors import HubError, StartError, UsageError
from tests.hub.conftest import WEIGHTS
from tests.hub.pulling import IMPATIENT, QUICK, Told, listed, pulled, sound
from tests.hub.standin import HTML, StandIn

SMALL, LARGE, API = "tokenizer.json", WEIGHTS, "/api/"
EVERYWHERE = pytest.mark.parametrize("place", [API, SMALL, LARGE])
REPOSITORY = Path(__file__).parents[2]
HALF = 60_000  # of about 140 000 bytes of weights


def get(store: Store, told: list[str] | None = None, patience: Patience = QUICK) -> None:
    """Pull it, and see that it is whole."""
    pulled(store, "org/tiny", told, patience=patience)
    assert sound(store) == ["org/tiny"]
    assert listed(store) == ["org--tiny"]


def refused(hub: StandIn, store: Store, words: str, patience: Patience = QUICK) -> None:
    """Pulling ends in this error and no model; when the hub is well again, it works."""
    with pytest.raises(HubError, match=words) as caught:
        pulled(store, "org/tiny", patience=patience)
    assert caught.value.remedy
    assert sound(store) == []
    hub.faults.clear()
    get(store)


# --- troubles that pass ----------------------------------------------------------------------


@EVERYWHERE
@pytest.mark.parametrize("status", [429, 503])
def test_a_hub_in_trouble_is_asked_again(hub: StandIn, store: Store, place: str, status: int) -> None:
    hub.misbehave(on=place, status=status, times=2, body=HTML if place == API else b"\xff busy")
    told = Told()
    get(store, told)
    assert f"answers with status {status}; trying again in 0.005 s" in told
    assert f"answers with status {status}; trying again in 0.01 s" in told


def test_other_troubles_of_servers_pass_too(hub: StandIn, store: Store) -> None:
    for status in (408, 500, 502, 504):
        hub.misbehave(on=LARGE, status=status, times=1)
    get(store)
    assert len(hub.downloads(LARGE)) == 5


@EVERYWHERE
def test_a_hub_that_stays_in_trouble_is_an_error(hub: StandIn, store: Store, place: str) -> None:
    hub.misbehave(on=place, status=503, body=HTML)
    refused(hub, store, r"127\.0\.0\.1:\d+: The model hub answers with status 503 \(after 5 attempts\)")


def test_the_hub_says_how_long_to_wait(hub: StandIn, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.misbehave(on=LARGE, status=429, times=1, headers={"retry-after": "2"})
    waits: list[float] = []
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=waits.append))
    told = Told()
    get(store, told)
    assert waits == [2]
    assert "answers with status 429; trying again in 2 s" in told


def test_a_hub_that_wants_to_be_left_alone_for_long_is_an_error_at_once(hub: StandIn, store: Store) -> None:
    hub.misbehave(on=LARGE, status=429, headers={"retry-after": "3600"})
    refused(hub, store, r"status 429 \(and wants to be left alone for 3600 s\)")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("7", 7),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("soon", None),
        ("-1", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert wait_of(header) == seconds


@EVERYWHERE
def test_a_cut_connection_is_made_again(hub: StandIn, store: Store, place: str) -> None:
    hub.misbehave(on=place, stop=100, times=2, body=b"x" * 200 if place == API else None)
    get(store)


def test_a_cut_download_goes_on_where_it_was(hub: StandIn, store: Store) -> None:
    hub.misbehave(on=LARGE, stop=HALF, times=2)
    get(store)
    first, second, third = (asked.start for asked in hub.downloads(LARGE))
    assert (first, second, third) == (0, HALF, 2 * HALF)


def test_a_store_of_files_that_knows_no_ranges_is_read_from_the_start(hub: StandIn, store: Store) -> None:
    hub.misbehave(on=LARGE, stop=HALF, times=1)
    hub.misbehave(on=LARGE, ranges=False)
    get(store)
    assert [asked.start for asked in hub.downloads(LARGE)] == [0, HALF]


@EVERYWHERE
def test_silence_ends_an_attempt(hub: StandIn, store: Store, place: str) -> None:
    hub.misbehave(on=place, stop=10, stall=True, times=1, body=b"x" * 99 if place == API else None)
    told = Told()
    get(store, told, IMPATIENT)
    assert "sent no byte for 0.2 s; trying again" in told


def test_a_hub_that_stays_silent_is_an_error(hub: StandIn, store: Store) -> None:
    hub.misbehave(on=LARGE, stop=0, stall=True)
    refused(hub, store, r"sent no byte for 0\.2 s \(after 5 attempts\)", IMPATIENT)


def test_a_download_that_is_always_cut_ends(hub: StandIn, store: Store) -> None:
    hub.misbehave(on=LARGE, stop=1)
    with pytest.raises(HubError, match="after 7 attempts"):
        pulled(store, "org/tiny", patience=Patience(first_wait=0.0, silence=0.4, in_all=7))
    assert len(hub.downloads(LARGE)) == 7
    assert sound(store) == []


def test_bytes_of_another_version_are_not_kept(hub: StandIn, store: Store, weights: dict[str, bytes]) -> None:
    hub.misbehave(on=LARGE, stop=HALF)
    with pytest.raises(HubError):
        pulled(store, "org/tiny", patience=Patience(attempts=1))
    hub.faults.clear()
    left = beside(store.folder("org/tiny"), PARTIAL) / WEIGHTS
    left.write_bytes(b"\1" * left.stat().st_size)
    get(store)
    assert [asked.start for asked in hub.downloads(LARGE)] == [0, HALF, 0]


def test_what_another_pull_left_behind_is_used_or_removed(
    hub: StandIn, store: Store, weights: dict[str, bytes]
) -> None:
    folder = beside(store.folder("org/tiny"), PARTIAL)
    (folder / "onnx").mkdir(parents=True)
    (folder / "onnx" / "model.onnx").write_bytes(b"of another commit")
    (folder / SMALL).write_bytes(weights[SMALL])
    (folder / "config.json").write_bytes(b"longer " * 1000)
    get(store)
    assert not [asked for asked in hub.asked if SMALL in asked.path]


# --- things that are not what they should be -------------------------------------------------


@EVERYWHERE
def test_a_web_page_is_no_answer(hub: StandIn, store: Store, place: str) -> None:
    hub.misbehave(on=place, body=HTML, headers={"content-type": "text/html; charset=utf-8"})
    refused(hub, store, "The model hub answered with (a web page|something else than a description)")


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}", b'{"id": "org/tiny"}', b"\xff", HTML])
def test_a_description_that_makes_no_sense_is_no_answer(hub: StandIn, store: Store, body: bytes) -> None:
    hub.misbehave(on=API, body=body, headers={"content-type": "application/json"})
    refused(hub, store, "something else than a description of the repository")


@pytest.mark.parametrize("body", [b"[]", b"\xff\xfe", b'{"error": 1}', b"null"])
@pytest.mark.parametrize("place", [API, LARGE])
def test_a_refusal_that_makes_no_sense_is_a_refusal(
    hub: StandIn, store: Store, place: str, body: bytes
) -> None:
    hub.misbehave(on=place, status=451, body=body)
    refused(hub, store, "The model hub answer")


def test_a_web_page_that_passes_for_a_file_is_not_kept(
    hub: StandIn, store: Store, weights: dict[str, bytes]
) -> None:
    hub.misbehave(on=LARGE, body=HTML.ljust(len(weights[LARGE])))
    refused(hub, store, r"sent another model\.safetensors than it should: its sha256 is")


@pytest.mark.parametrize(("place", "digest"), [(SMALL, "git's digest"), (LARGE, "sha256")])
def test_other_bytes_of_the_right_length_are_refused(
    hub: StandIn, store: Store, weights: dict[str, bytes], place: str, digest: str
) -> None:
    body = bytearray(weights[place])
    body[len(body) // 2] ^= 1
    hub.misbehave(on=place, body=bytes(body))
    refused(hub, store, f"sent another {place} than it should: its {digest} is")


@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_of_another_length_is_refused(
    hub: StandIn, store: Store, weights: dict[str, bytes], change: int
) -> None:
    length = len(weights[LARGE]) + change
    hub.misbehave(on=LARGE, body=weights[LARGE].ljust(length)[:length])
    refused(hub, store, f"{length} bytes of model.safetensors instead of {length - change}")


def test_more_bytes_than_were_announced_are_refused(
    hub: StandIn, store: Store, weights: dict[str, bytes]
) -> None:
    hub.misbehave(on=LARGE, body=weights[LARGE] + b"more", length=False)
    refused(hub, store, "more than the")


def test_fewer_bytes_than_were_announced_are_a_cut(
    hub: StandIn, store: Store, weights: dict[str, bytes]
) -> None:
    hub.misbehave(on=LARGE, body=weights[LARGE][:-9], length=False, times=1)
    told = Told()
    get(store, told)
    assert "ended model.safetensors early; trying again" in told


def test_another_part_than_was_asked_for_is_refused(hub: StandIn, store: Store) -> None:
    hub.misbehave(on=LARGE, stop=HALF, times=1)
    hub.misbehave(on=LARGE, status=206, headers={"content-range": "bytes 5-9/10"})
    refused(hub, store, "another part")


def test_the_hub_s_word_does_not_replace_what_the_catalogue_knows(
    hub: StandIn, store: Store, weights: dict[str, bytes]
) -> None:
    body = bytearray(weights[WEIGHTS])
    body[-1] ^= 1
    hub.put("org/tiny", weights | {WEIGHTS: bytes(body)})
    with pytest.raises(HubError, match=r"offers another model\.safetensors than the one we know"):
        pulled(store, "tiny")
    assert hub.downloads() == []
    get(store)  # under its own name nothing is known of it


def test_the_model_that_is_here_stays_when_a_newer_one_fails(
    hub: StandIn, store: Store, weights: dict[str, bytes]
) -> None:
    card = pulled(store, "org/tiny")
    hub.put("org/tiny", weights | {WEIGHTS: weights[WEIGHTS][:-8] + b"newer..."}, "v2")
    hub.misbehave(on=LARGE, body=weights[WEIGHTS])
    with pytest.raises(HubError, match="sha256"):
        pulled(store, "org/tiny@v2")
    assert sound(store) == ["org/tiny"]
    assert store.get("org/tiny") == card


def test_a_hub_that_tells_no_sizes_cannot_be_checked(hub: StandIn, store: Store) -> None:
    hub.misbehave(
        on=API,
        body=b'{"id": "org/tiny", "sha": "%s", "siblings": [{"rfilename": "config.json"}]}' % (b"a" * 40),
    )
    refused(hub, store, "size and digest")


def test_a_file_that_is_gone_is_named_as_such(hub: StandIn, store: Store) -> None:
    hub.misbehave(on="/resolve/", status=404, headers={"x-error-code": "EntryNotFound"})
    refused(hub, store, "lost a file")


def test_no_secret_is_in_an_error(hub: StandIn, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_my-own-token")
    for fault in ({"status": 403}, {"status": 503}, {"stop": 1}):
        hub.faults.clear()
        hub.misbehave(on=LARGE, **fault)
        told = Told()
        with pytest.raises(HubError) as caught:
            pulled(store, "org/tiny", told)
        assert "my-own-token" not in f"{caught.value.message}{told}"
        assert "secret-of-the-store" not in f"{caught.value.message}{told}"  # a signed address is one too


def describe(hub: StandIn, **changes: Any) -> None:
    """Have the hub describe "org/tiny" so; it says nothing wrong but what is given here."""
    with httpx2.Client() as client:
        said = client.get(f"{hub.url}/api/models/org/tiny?blobs=true").json()
    body = json.dumps(said | changes | {"siblings": said["siblings"] + changes.get("siblings", [])})
    hub.misbehave(on=API, body=body.encode(), headers={"content-type": "application/json"})


@pytest.mark.parametrize(
    "changes",
    [
        {"sha": "../../x"},
        {"sha": "a" * 100_000},
        {"sha": "é" * 40},
        {"sha": None},
        {"siblings": [{"rfilename": "a", "size": -1, "blobId": "0" * 40}]},
        {"siblings": [{"rfilename": "a", "size": 1.5, "blobId": "0" * 40}]},
        {"siblings": [{"rfilename": "a", "size": 1, "blobId": "\x1b[2J"}]},
        {"siblings": [{"rfilename": "a", "size": 1, "lfs": {"sha256": "x"}}]},
    ],
)
def test_a_description_with_impossible_facts_is_no_answer(
    hub: StandIn, store: Store, changes: dict[str, Any]
) -> None:
    describe(hub, **changes)
    refused(hub, store, "something else than a description")


@pytest.mark.parametrize("path", ["a\0b", "a\x1b[2J.onnx", "a" * 201, "ä" * 101])
def test_files_whose_names_nobody_can_show_or_store_are_passed_over(
    hub: StandIn, store: Store, path: str
) -> None:
    describe(hub, siblings=[{"rfilename": f"{WEIGHTS}_data{path}", "size": 1, "blobId": "0" * 40}])
    get(store)


@pytest.mark.parametrize("licence", ["mit\x1b]0;title\x07", "x" * 101, ["mit"], None])
def test_a_licence_that_no_terminal_shall_show_is_left_out(
    hub: StandIn, store: Store, licence: object
) -> None:
    describe(hub, cardData={"license": licence})
    get(store)
    assert store.get("org/tiny").licence == ""


def test_a_repository_of_many_graphs_names_the_first_ten(hub: StandIn, store: Store) -> None:
    files = {f"onnx/{number:02}.onnx": b"x" for number in range(30)}
    hub.put("org/many", {"config.json": b"{}", "tokenizer.json": b"{}"} | files)
    with pytest.raises(HubError, match=r"09\.onnx$"):
        pulled(store, "org/many")


@EVERYWHERE
def test_what_is_compressed_without_being_asked_for_is_refused(
    hub: StandIn, store: Store, place: str
) -> None:
    """A few kilobytes of it may be a gigabyte, and no part of it could be continued."""
    body = gzip.compress(bytes(100_000))
    hub.misbehave(on=place, body=body, headers={"content-encoding": "gzip"})
    refused(hub, store, "something compressed")


def test_a_description_without_end_is_read_no_further_than_it_may_be_long(
    hub: StandIn, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "_LONGEST_DESCRIPTION", 100_000)
    hub.misbehave(on=API, body=b" " * (64 << 20))
    refused(hub, store, "a description of more than 100000 bytes")
    assert hub.served < 32 << 20  # the rest was in nobody's memory but the kernel's


@pytest.mark.parametrize("place", [API, LARGE])
def test_the_body_of_a_refusal_stays_unread(hub: StandIn, store: Store, place: str) -> None:
    hub.misbehave(on=place, status=451, body=b" " * (64 << 20))
    refused(hub, store, "answers with status 451")
    assert hub.served < 32 << 20


# --- the way there, and this machine ---------------------------------------------------------


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "http://nobody.invalid"])
def test_a_hub_out_of_reach_is_an_error(store: Store, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(HubError, match=r"cannot be reached: .*\(after 5 attempts\)"):
        pulled(store, "org/tiny")
    assert sound(store) == []


def test_a_proxy_is_used_as_the_environment_says(
    hub: StandIn, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://nobody.invalid")
    monkeypatch.setenv("HTTP_PROXY", hub.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")  # where the large files are
    get(store)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("HTTP_PROXY", "foo:bar", "proxies or TLS"),
        ("ALL_PROXY", "socks5://127.0.0.1:1", "proxies or TLS"),
        ("SSL_CERT_FILE", "/nonexistent", "proxies or TLS"),
        ("HF_TOKEN", "hf_sécret", "HF_TOKEN: .*copy it again"),
        ("HF_TOKEN", "hf_sec\x01ret", "HF_TOKEN: .*copy it again"),
        ("HF_ENDPOINT", "http://[::1", "HF_ENDPOINT: is no address"),
        ("HF_ENDPOINT", "http://127.0.0.1:99999", "HF_ENDPOINT: is no address"),
        ("HF_ENDPOINT", "http://a\x01b", "HF_ENDPOINT: is no address"),
        ("HF_ENDPOINT", "http://a b", "HF_ENDPOINT: is no address"),
        ("HF_ENDPOINT", "huggingface.co", "HF_ENDPOINT: is no address"),
        ("HF_ENDPOINT", "ftp://hub", "HF_ENDPOINT: is no address"),
        ("HF_ENDPOINT", "http://", "HF_ENDPOINT: is no address"),
    ],
)
def test_settings_that_make_no_sense_are_named(
    hub: StandIn, store: Store, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"(?s){words}") as caught:
        pulled(store, "org/tiny")
    assert type(caught.value) is UsageError
    assert "cret" not in caught.value.message
    assert hub.asked == []


def test_room_is_looked_for_before_anything_large_comes(
    hub: StandIn, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 5000))
    with pytest.raises(HubError, match=r"no room for org/tiny: it needs \S+ (kB|MB), and 5.0 kB are free"):
        pulled(store, "org/tiny")
    assert hub.downloads() == []


def test_a_disk_that_refuses_is_named(hub: StandIn, store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match=r"cannot be stored: .*\n.*models_dir"):
        pulled(Store(tmp_path / "file", {}), "org/tiny")


def test_what_came_before_the_disk_was_full_is_kept(hub: StandIn, store: Store, tmp_path: Path) -> None:
    """The kernel ends the writing: files may not grow over a limit."""
    code = (
        "import resource, sys; from runtime.cli.main import run;"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({HALF}, {HALF}));"
        "sys.exit(run(['models', 'pull', 'org/tiny']))"
    )
    environ = {"XDG_DATA_HOME": str(tmp_path), "HF_ENDPOINT": hub.url, "PYTHONPATH": str(REPOSITORY)}
    environ["PYTHONDONTWRITEBYTECODE"] = "1"  # else the limit cuts other packages' bytecode, for good
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 3
    assert "org/tiny cannot be stored: [Errno 27] File too large" in done.stderr
    get(Store(tmp_path / "functions" / "models", {}))
    assert hub.downloads(LARGE)[-1].start == HALF
