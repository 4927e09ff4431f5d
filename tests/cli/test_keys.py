"""`functions keys`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from runtime.cli.keys import named_keys
from runtime.errors import KeysError
from runtime.project.settings import Keys
from tests.cli.conftest import Run


def test_a_shell_can_evaluate_the_lines(run: Run, project: Path) -> None:
    outcome = run("keys")
    assert outcome.code == 0
    script = outcome.out + 'printf "%s\\n%s" "$ANON_KEY" "$SERVICE_ROLE_KEY"'
    shell = subprocess.run(["sh", "-eu", "-c", script], capture_output=True, text=True, check=True)
    anon, service = shell.stdout.split("\n")
    assert anon.count(".") == service.count(".") == 2
    assert anon != service


def test_the_keys_stay_the_same(run: Run, project: Path) -> None:
    assert run("keys").out == run("keys").out


def test_standard_output_has_nothing_but_the_keys(run: Run, project: Path) -> None:
    (project / "supabase/functions").mkdir(parents=True)
    (project / "supabase/functions/.env").write_text("SUPABASE_MINE=1\n")
    outcome = run("keys")
    assert all(line.partition("=")[0].endswith("_KEY") for line in outcome.out.splitlines())
    assert "SUPABASE_MINE" in outcome.err


def test_json_has_the_same_names(run: Run, project: Path) -> None:
    values = json.loads(run("keys", "--json").out)
    assert [f"{name}={value}" for name, value in values.items()] == run("keys").out.splitlines()


def test_values_are_quoted_for_the_shell(run: Run, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Keys(jwt_secret="", anon_key="a b'$(c)", service_role_key="", publishable=("sb_publishable_x",))
    assert named_keys(keys) == {"ANON_KEY": "a b'$(c)", "PUBLISHABLE_KEY": "sb_publishable_x"}


def test_a_project_without_keys_of_its_own_says_so() -> None:
    with pytest.raises(KeysError, match="JWKS"):
        named_keys(Keys(jwt_secret="", anon_key="", service_role_key=""))
