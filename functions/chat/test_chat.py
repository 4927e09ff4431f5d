"""Run with `pytest`: neither this server nor the language model's needs to run."""

import json

import pytest

from runtime import ai
from runtime.testing import FakeSession, FunctionClient

QUESTION = {"messages": [{"role": "user", "content": "Why is the sky blue?"}]}


def test_streams_what_the_model_says() -> None:
    model = FakeSession(replies=["Air ", "scatters ", "blue."])
    with FunctionClient("chat", sessions=model) as client:
        *events, done, _ = client.post("/", json=QUESTION).text.split("\n\n")
    said = [json.loads(event.removeprefix("data: "))["message"]["content"] for event in events]
    assert "".join(said) == "Air scatters blue."
    assert done == "data: [DONE]"
    assert model.calls[0].prompt == "Why is the sky blue?"


def test_a_model_that_cannot_be_reached_is_told_apart() -> None:
    model = FakeSession(replies=ai.HostUnreachable("nobody there"))
    with FunctionClient("chat", sessions=model) as client:
        answer = client.post("/", json=QUESTION)
    assert (answer.status_code, answer.json()["code"]) == (503, "AI_HOST_UNREACHABLE")


@pytest.mark.parametrize("messages", [None, [], ["Hi"], [{"role": "tool", "content": "Hi"}]])
def test_asks_the_model_nothing_that_is_no_conversation(messages: object) -> None:
    model = FakeSession(replies=["never"])
    with FunctionClient("chat", sessions=model) as client:
        assert client.post("/", json={"messages": messages}).status_code == 400
    assert model.calls == []
