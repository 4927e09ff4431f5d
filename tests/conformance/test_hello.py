"""The first thing that a newcomer does."""

from __future__ import annotations

from pathlib import Path

from tests.running import HELLO, body, project, serving


def test_a_function_answers_with_the_project_key(tmp_path: Path) -> None:
    with serving(project(tmp_path, {"hello": HELLO})) as server, server.client() as client:
        response = client.post("/hello", json={"name": "Functions"})
        assert response.status_code == 200
        assert response.content == b'{"message":"Hello Functions!"}'
        assert body(client.post("/hello", content=b"{"))["code"] == "BAD_REQUEST"
    assert server.process.returncode == 0
