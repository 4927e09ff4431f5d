"""What a project may say about its functions, and where they may lie, over a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.running import Server, body, eventually, project, serving

SHOW = """
import os

async def handler(request):
    names = ("OWN", "COMMON", "LISTED", "UNLISTED", "SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_ANON_KEY")
    return {
        "path": request.url.path,
        "root_path": request.scope["root_path"],
        "role": request.auth.get("role"),
        "env": {name: os.environ[name] for name in names if name in os.environ},
        "slug": os.environ["SUPABASE_FUNCTION_SLUG"],
    }
"""
APP = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

async def show(request):
    return JSONResponse({
        "path": request.scope["path"], "root_path": request.scope["root_path"],
        "link": str(request.url_for("item", number=7)), "auth": request.scope["auth"].get("role"),
    })

app = Starlette(routes=[Route("/", show), Route("/items/{number}", show, name="item")])
"""
CONFIG = """
[ai]
preload = []
[edge_runtime]
prefix = "PREFIX"
[edge_runtime.secrets]
COMMON = "for all"
LISTED = "for those who list it"
UNLISTED = "for those who list nothing"
[functions.plain]
verify_jwt = false
[functions.few]
secrets = ["LISTED", "OWN"]
[functions.elsewhere]
entrypoint = "./functions/elsewhere/src/main.py"
[functions.off]
enabled = false
"""
PREFIXES = ["/functions/v1", "", "/edge/v2"]


def files(root: Path, prefix: str) -> Path:
    """Functions in both folders, with their own env files and another entry file."""
    project(root, {"plain": SHOW, "few": SHOW, "off": SHOW, "app": APP}, CONFIG.replace("PREFIX", prefix))
    (root / "functions/plain/.env").write_text("OWN=of plain\nCOMMON=mine wins\n")
    (root / "functions/few/.env").write_text("OWN=of few\n")
    source = root / "supabase/functions/elsewhere/src/main.py"
    source.parent.mkdir(parents=True)
    source.write_text(SHOW)
    return root


@pytest.fixture(scope="module", params=PREFIXES, ids=["usual", "empty", "another"])
def prefix(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, prefix: str) -> Iterator[Server]:
    with serving(files(tmp_path_factory.mktemp("options"), prefix)) as server:
        yield server


def show(client: httpx2.Client, path: str) -> dict[str, Any]:
    response = client.get(path)
    assert response.status_code == 200, response.text
    return body(response)


def test_functions_live_under_the_prefix(server: Server, client: httpx2.Client, prefix: str) -> None:
    assert server.functions == server.url + prefix
    answer = show(client, "/plain/7?x=1")
    assert (answer["path"], answer["root_path"], answer["slug"]) == ("/plain/7", prefix, "plain")
    for other in {"/functions/v1", "/edge/v2"} - {prefix}:
        assert httpx2.get(f"{server.url}{other}/plain").json()["code"] == "NOT_FOUND"
    assert client.get("/off").json()["code"] == "NOT_FOUND"


def test_the_hosts_own_addresses_work_with_any_prefix(server: Server, client: httpx2.Client) -> None:
    assert httpx2.get(f"{server.url}/_internal/health").json() == {"message": "ok"}
    assert client.get("/_internal/health").json() == {"message": "ok"}


def test_an_app_is_mounted_under_the_prefix_and_its_links_lead_back(
    server: Server, client: httpx2.Client, prefix: str
) -> None:
    for path in ("/app", "/app/"):
        answer = show(client, path)
        assert (answer["path"], answer["root_path"]) == (f"{prefix}/app/", f"{prefix}/app")
        assert answer["auth"] == "anon"
    assert answer["link"] == f"{server.functions}/app/items/7"
    assert show(client, answer["link"])["path"] == f"{prefix}/app/items/7"


def test_a_function_may_lie_in_supabase_functions_and_begin_in_another_file(client: httpx2.Client) -> None:
    assert show(client, "/elsewhere")["slug"] == "elsewhere"


def test_claims_are_the_tokens_and_nothing_where_no_token_is_asked_for(client: httpx2.Client) -> None:
    assert show(client, "/few")["role"] == "anon"
    assert show(client, "/plain")["role"] is None


def test_each_function_sees_its_own_variables_over_the_common_ones(client: httpx2.Client) -> None:
    env = show(client, "/plain")["env"]
    assert (env["OWN"], env["COMMON"], env["UNLISTED"]) == (
        *("of plain", "mine wins", "for those who list nothing"),
    )
    assert "SUPABASE_SERVICE_ROLE_KEY" in env
    assert "OWN" not in show(client, "/elsewhere")["env"]
    assert show(client, "/elsewhere")["env"]["COMMON"] == "for all"


def test_a_list_of_secrets_cuts_down_what_a_function_sees(client: httpx2.Client) -> None:
    env = show(client, "/few")["env"]
    assert {*env} == {"LISTED", "OWN", "SUPABASE_ANON_KEY"}


def test_a_functions_own_variables_may_change_while_it_runs(tmp_path: Path) -> None:
    root = files(tmp_path, "/functions/v1")
    with serving(root) as server, server.client() as client:
        (root / "functions/plain/.env").write_text("OWN=changed\n")
        eventually(lambda: show(client, "/plain")["env"]["OWN"] == "changed", "the new variable")
        assert show(client, "/few")["env"]["OWN"] == "of few"
