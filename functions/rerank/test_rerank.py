"""Run with `pytest`: no server needs to run, and no model to be there."""

from runtime.testing import FunctionClient

DOCUMENTS = ["The weather is nice.", "Luke, I am your father."]


def test_the_best_come_first() -> None:
    with FunctionClient("rerank") as client:
        best, other = client.post("/", json={"query": "Who is my father?", "documents": DOCUMENTS}).json()
        only = client.post("/", json={"query": "the weather", "documents": DOCUMENTS, "top": 1}).json()
    assert (best["index"], best["document"], other["index"]) == (1, DOCUMENTS[1], 0)
    assert best["score"] > other["score"]
    assert [found["index"] for found in only] == [0]


def test_says_what_it_takes() -> None:
    with FunctionClient("rerank") as client:
        answers = [
            client.post("/", json=["Who is my father?"]),
            client.post("/", json={"query": "Who is my father?"}),
            client.post("/", json={"query": "Who is my father?", "documents": "a text"}),
        ]
    assert [answer.status_code for answer in answers] == [400] * 3
