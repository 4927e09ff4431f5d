from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.errors import EnvFileError
from runtime.project.environment import environment_of
from runtime.project.settings import Function, Keys, Project, Settings

KEYS = Keys(
    jwt_secret="the-signing-secret",
    anon_key="anon",
    service_role_key="service",
    publishable=("sb_publishable_1", "sb_publishable_2"),
    secret=("sb_secret_1",),
)
SHARED = {"A": "shared", "B": "shared", "SUPABASE_DB_URL": "postgresql://db"}
ALWAYS = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "SUPABASE_URL": "http://127.0.0.1:54321",
    "SUPABASE_ANON_KEY": "anon",
    "SUPABASE_PUBLISHABLE_KEYS": '{"default":"sb_publishable_1"}',
    "SUPABASE_FUNCTION_SLUG": "hello",
}
PRIVILEGED = {"SUPABASE_SERVICE_ROLE_KEY": "service", "SUPABASE_SECRET_KEYS": '{"default":"sb_secret_1"}'}


def environment(
    folder: Path, secrets: tuple[str, ...] | None = None, *, own: str | None = None, keys: Keys = KEYS
) -> dict[str, str]:
    if own is not None:
        (folder / ".env").write_text(own)
    function = Function(name="hello", directory=str(folder), secrets=secrets)
    project = Project(
        settings=Settings(root="/"), functions={"hello": function}, environment=SHARED, keys=keys
    )
    return environment_of(project, function, url="http://127.0.0.1:54321")


def test_without_an_allow_list_a_function_sees_everything_but_the_signing_secret(tmp_path: Path) -> None:
    found = environment(tmp_path)
    assert found == ALWAYS | SHARED | PRIVILEGED
    assert json.loads(found["SUPABASE_SECRET_KEYS"]) == {"default": "sb_secret_1"}


@pytest.mark.parametrize(
    ("secrets", "seen"),
    [
        ((), {}),
        (("A",), {"A": "shared"}),
        (("A", "NOWHERE"), {"A": "shared"}),
        (("SUPABASE_DB_URL",), {"SUPABASE_DB_URL": "postgresql://db"}),
        (("SUPABASE_SERVICE_ROLE_KEY",), {"SUPABASE_SERVICE_ROLE_KEY": "service"}),
        (("SUPABASE_SECRET_KEYS", "B"), {"SUPABASE_SECRET_KEYS": '{"default":"sb_secret_1"}', "B": "shared"}),
        (("JWT_SECRET",), {}),
    ],
)
def test_an_allow_list_covers_variables_and_privileged_keys(
    tmp_path: Path, secrets: tuple[str, ...], seen: dict[str, str]
) -> None:
    assert environment(tmp_path, secrets) == ALWAYS | seen


def test_a_functions_own_file_wins_and_is_always_seen(tmp_path: Path) -> None:
    found = environment(tmp_path, ("A", "B"), own="A=own\nC=own\nTZ=Europe/Rome\n")
    assert found == ALWAYS | {"A": "own", "B": "shared", "C": "own", "TZ": "Europe/Rome"}


def test_a_functions_own_file_cannot_pose_as_the_server(tmp_path: Path) -> None:
    own = "SUPABASE_URL=x\nSUPABASE_SERVICE_ROLE_KEY=x\nSUPABASE_OTHER=x\nJWT_SECRET=x\n"
    assert environment(tmp_path, (), own=own) == ALWAYS


def test_keys_that_there_are_not_are_left_out(tmp_path: Path) -> None:
    found = environment(tmp_path, keys=Keys(jwt_secret="", anon_key="", service_role_key=""))
    assert {name for name in found if "KEY" in name} == set()


def test_nothing_of_the_hosts_environment_comes_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOST_ONLY", "x")
    monkeypatch.setenv("JWT_SECRET", "x")
    assert environment(tmp_path) == ALWAYS | SHARED | PRIVILEGED


def test_no_function_is_given_the_word_for_no_model(tmp_path: Path) -> None:
    function = Function(name="hello", directory=str(tmp_path))
    for model, seen in (("none", None), ("mine", "mine")):
        project = Project(
            settings=Settings(root="/"),
            functions={"hello": function},
            environment={"EMBEDDING_MODEL": model},
            keys=KEYS,
        )
        assert environment_of(project, function, url="http://x").get("EMBEDDING_MODEL") == seen


def test_a_broken_own_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvFileError) as error:
        environment(tmp_path, own="A=1\nhunter2\n")
    assert str(error.value).startswith(f"{tmp_path}/.env:2: ")
    assert "→ write NAME=value" in str(error.value)
    assert "hunter2" not in str(error.value)
