"""Testing functions, without a server to start and without a model to have.

    from runtime.testing import FakeSession, FunctionClient


    def test_greets() -> None:
        with FunctionClient("hello") as client:
            assert client.post("/", json={"name": "Ada"}).json() == {"message": "Hello Ada!"}


    def test_answers_with_what_the_model_says() -> None:
        mistral = FakeSession(replies=["Hello", " Ada"])
        with FunctionClient("chat", sessions={"mistral": mistral}) as client:
            assert "Ada" in client.post("/", json={"prompt": "Greet Ada"}).text

`FunctionClient` runs the server's own gateway and worker code in the test's process, so
what a client sees is what it would see of `functions serve`; breakpoints, coverage and
monkeypatching work. `FakeSession` is `ai.Session` with its model replaced: vectors that
depend on the text alone, answers that the test has written. `FakeInferenceSession` replaces a
graph; without it, the project's graphs are run in the test's process.
"""

from __future__ import annotations

from runtime.testing.client import AsyncFunctionClient, FunctionClient
from runtime.testing.graph import FakeInferenceSession
from runtime.testing.model import Call
from runtime.testing.session import FakeSession

__all__ = ["AsyncFunctionClient", "Call", "FakeInferenceSession", "FakeSession", "FunctionClient"]
