"""`functions new`."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.cli import scaffold
from runtime.cli.new import check_name
from runtime.errors import FunctionNameError
from tests.cli.conftest import Run


def test_it_creates_the_function_and_says_what_comes_next(run: Run, project: Path) -> None:
    outcome = run("new", "summarize")
    assert outcome.code == 0
    assert outcome.out.splitlines()[0] == "Created functions/summarize/index.py"
    assert "functions invoke summarize" in outcome.out
    source = (project / "functions/summarize/index.py").read_text()
    assert 'curl -X POST http://localhost:54321/functions/v1/summarize \\\n#     -H "Authorization' in source


@pytest.mark.parametrize("verify_jwt", [True, False])
def test_the_template_is_a_function_with_a_description(verify_jwt: bool) -> None:
    source = scaffold.index_source("send-mail", verify_jwt)
    module = ast.parse(source)
    assert ast.get_docstring(module) == "Greet someone by name."
    assert [node.name for node in module.body if isinstance(node, ast.AsyncFunctionDef)] == ["handler"]
    assert ("$ANON_KEY" in source) is verify_jwt
    assert max(map(len, source.splitlines())) <= 110


def test_it_uses_the_supabase_folder_where_only_that_exists(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "supabase/functions").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert run("new", "summarize").code == 0
    assert (tmp_path / "supabase/functions/summarize/index.py").is_file()


def test_it_starts_a_project_in_an_empty_folder(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("new", "summarize").code == 0
    assert (tmp_path / "functions/summarize/index.py").is_file()


@pytest.mark.parametrize("folder", ["functions", "supabase/functions"])
def test_it_never_overwrites(run: Run, project: Path, folder: str) -> None:
    existing = project / folder / "mine"
    existing.mkdir(parents=True)
    (existing / "index.py").write_text("precious")
    outcome = run("new", "mine")
    assert outcome.code == 2
    assert f"{folder}/mine: there is a function mine already" in outcome.err
    assert (existing / "index.py").read_text() == "precious"


@pytest.mark.parametrize("name", ["1st", "_shared", ".env", "a/b", "../up", "a.b", "naïve", "a b", "", "a\n"])
def test_a_name_that_does_not_fit_is_refused_with_the_rule(run: Run, project: Path, name: str) -> None:
    outcome = run("new", name)
    assert outcome.code == 2
    assert repr(name) in outcome.err
    assert "start with a letter" in outcome.err
    assert [path.name for path in (project / "functions").iterdir()] == ["hello"]


@given(st.from_regex(r"[A-Za-z][A-Za-z0-9_-]*", fullmatch=True))
def test_every_accepted_name_is_a_bare_config_key(name: str) -> None:
    check_name(name)
    assert tomllib.loads(scaffold.open_section(name)) == {"functions": {name: {"verify_jwt": False}}}


@given(st.text().filter(lambda name: not name.isascii() or not name.replace("-", "_").isidentifier()))
def test_whatever_is_no_ascii_identifier_with_hyphens_is_refused(name: str) -> None:
    with pytest.raises(FunctionNameError, match="start with a letter"):
        check_name(name)


@pytest.mark.parametrize("before", ["", "# mine\nproject_id = 'x'", "[api]\nport = 1\n"])
def test_no_verify_jwt_appends_a_section_and_leaves_the_rest(run: Run, project: Path, before: str) -> None:
    config = project / "supabase/config.toml"
    if before:
        config.parent.mkdir()
        config.write_text(before)
    assert run("new", "webhook", "--no-verify-jwt").code == 0
    after = config.read_text()
    assert after.startswith(before)
    assert after.endswith("[functions.webhook]\nverify_jwt = false\n")
    assert tomllib.loads(after) == tomllib.loads(before) | {"functions": {"webhook": {"verify_jwt": False}}}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("[functions.webhook]\n", "is there already"), ("[functions\n", "not valid TOML")],
)
def test_a_config_that_cannot_take_the_section_is_an_error_and_nothing_is_made(
    run: Run, project: Path, text: str, complaint: str
) -> None:
    config = project / "supabase/config.toml"
    config.parent.mkdir()
    config.write_text(text)
    outcome = run("new", "webhook", "--no-verify-jwt")
    assert outcome.code == 2
    assert "supabase/config.toml" in outcome.err
    assert complaint in outcome.err
    assert config.read_text() == text
    assert not (project / "functions/webhook").exists()
