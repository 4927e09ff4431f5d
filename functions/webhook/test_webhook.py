"""Run with `pytest`: no server needs to run."""

import asyncio
import base64
import hmac
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from runtime.testing import FunctionClient

KEY = b"a key of at least 24 bytes, for tests"
SECRET = "whsec_" + base64.b64encode(KEY).decode()
BODY = '{"type": "user.created"}'


def signed(id: str, key: bytes = KEY, now: str = "") -> dict[str, str]:
    """The headers of a message that the holder of `key` sends now."""
    now = now or str(int(time.time()))
    signature = hmac.digest(key, f"{id}.{now}.{BODY}".encode(), "sha256")
    return {
        "webhook-id": id,
        "webhook-timestamp": now,
        "webhook-signature": "v1," + base64.b64encode(signature).decode(),
    }


def test_takes_what_the_sender_signed_and_does_it_once() -> None:
    with FunctionClient("webhook", env={"WEBHOOK_SECRET": SECRET}) as client:
        answers = [client.post("/", content=BODY, headers=signed("msg_1")) for _ in range(2)]
    assert [answer.json() for answer in answers] == [{"status": "done"}, {"status": "done before"}]


def test_refuses_what_somebody_else_signed() -> None:
    with FunctionClient("webhook", env={"WEBHOOK_SECRET": SECRET}) as client:
        assert client.post("/", content=BODY, headers=signed("msg_1", bytes(32))).status_code == 401


def test_a_repeat_of_what_it_still_works_on_is_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    async def receive(event: object) -> None:
        begun.set()
        await asyncio.to_thread(go_on.wait, 10)
        raise RuntimeError("the first attempt fails")

    with FunctionClient("webhook", env={"WEBHOOK_SECRET": SECRET}) as client, ThreadPoolExecutor() as pool:
        monkeypatch.setattr(client.module, "receive", receive)
        first = pool.submit(client.post, "/", content=BODY, headers=signed("msg_1"))
        begun.wait(10)
        meanwhile = client.post("/", content=BODY, headers=signed("msg_1"))
        go_on.set()
        assert (meanwhile.status_code, first.result().status_code) == (409, 500)
        monkeypatch.undo()
        assert client.post("/", content=BODY, headers=signed("msg_1")).json() == {"status": "done"}


@pytest.mark.parametrize("now", ["soon", "9" * 400])
def test_a_time_that_is_none_is_refused(now: str) -> None:
    with FunctionClient("webhook", env={"WEBHOOK_SECRET": SECRET}) as client:
        assert client.post("/", content=BODY, headers=signed("msg_1", now=now)).status_code == 400


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_c2hvcnQ=", "whsec_no base64 at all, and long"])
def test_stays_closed_without_a_proper_secret(secret: str) -> None:
    with FunctionClient("webhook", env={"WEBHOOK_SECRET": secret}) as client:
        answer = client.post("/", content=BODY, headers=signed("msg_1", b""))
    assert answer.status_code == 503
    assert "WEBHOOK_SECRET" in answer.json()["message"]
