"""Run with `pytest`: no server needs to run."""

from runtime.testing import FunctionClient


def test_greets_by_name() -> None:
    with FunctionClient("hello") as client:
        assert client.post("/", json={"name": "Ada"}).json() == {"message": "Hello Ada!"}
        assert client.get("/").json() == {"message": "Hello World!"}


def test_says_what_it_takes() -> None:
    with FunctionClient("hello") as client:
        answer = client.post("/", json=["Ada"])
    assert answer.status_code == 400
    assert "name" in answer.json()["message"]
