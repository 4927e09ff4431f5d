"""`functions new`."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.cli import main, scaffold
from runtime.cli.new import KEYLESS, TEMPLATES, check_name
from runtime.errors import FunctionNameError
from tests.cli.conftest import REPOSITORY, Run


def test_it_creates_the_function_and_says_what_comes_next(run: Run, project: Path) -> None:
    outcome = run("new", "summarize")
    assert outcome.code == 0
    assert outcome.out.splitlines()[:2] == [
        "Created functions/summarize/index.py",
        "Created functions/summarize/test_summarize.py",
    ]
    assert "functions invoke summarize" in outcome.out
    assert "`pytest functions/summarize`" in outcome.out
    source = (project / "functions/summarize/index.py").read_text()
    assert 'curl -X POST http://localhost:54321/functions/v1/summarize -H "Authorization' in source


@pytest.mark.parametrize("verify_jwt", [True, False])
@pytest.mark.parametrize("template", [name for name in TEMPLATES if name not in (*KEYLESS, "websocket")])
def test_a_template_is_a_function_with_a_description_and_a_call(template: str, verify_jwt: bool) -> None:
    source = scaffold.index_source("send-mail", verify_jwt, template)
    assert (ast.get_docstring(ast.parse(source)) or "").endswith(".")
    assert ("$ANON_KEY" in source) is verify_jwt
    assert "http://localhost:54321/functions/v1/send-mail" in source
    assert max(map(len, source.splitlines())) <= 110
    assert "{{" not in source


def test_help_and_list_name_every_template_with_a_line(run: Run, project: Path) -> None:
    for shown in (run("new", "--help").out, run("new", "--list").out):
        for name, line in TEMPLATES.items():
            assert re.search(rf"^ +{name} +{re.escape(line)}$", shown, re.MULTILINE), name
    files = {path.name.split(".")[0] for path in Path(scaffold.__file__).with_name("templates").iterdir()}
    assert files == set(TEMPLATES)


def test_an_unknown_template_is_an_error_and_nothing_is_made(run: Run, project: Path) -> None:
    outcome = run("new", "summarize", "--template", "nothing")
    assert outcome.code == 2
    assert "'nothing' is not one of 'handler'" in outcome.err
    assert not (project / "functions/summarize").exists()


def test_a_template_that_checks_its_callers_itself_needs_no_key(run: Run, project: Path) -> None:
    outcome = run("new", "stripe", "--template", "webhook")
    assert "Everybody may call it" in outcome.out
    declared = tomllib.loads((project / "supabase/config.toml").read_text())
    assert declared == {"functions": {"stripe": {"verify_jwt": False}}}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a function from every template."""
    base = tmp_path_factory.mktemp("written")
    for name in TEMPLATES:
        assert main.run(["new", f"my-{name}", "--template", name, "--root", str(base)]) == 0
    return base


def checked(*command: str | Path, cwd: Path) -> None:
    """Run a tool; its complaints are the test's."""
    environ = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        cwd=cwd,
        env=environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_tests_of_every_template_pass_as_written(written: Path) -> None:
    checked("pytest", "-q", "-p", "no:cacheprovider", "-W", "error", ".", cwd=written)


def test_the_files_of_every_template_are_formatted_and_linted(written: Path) -> None:
    config = REPOSITORY / "pyproject.toml"
    checked("ruff", "check", "--no-cache", "--config", config, ".", cwd=written)
    checked("ruff", "format", "--no-cache", "--check", "--config", config, ".", cwd=written)


def test_the_files_of_every_template_are_typed(written: Path, tmp_path: Path) -> None:
    for name in TEMPLATES:  # under names of packages, which hyphens are not
        shutil.copytree(written / f"functions/my-{name}", tmp_path / f"my_{name}")
    checked("mypy", "--strict", "--explicit-package-bases", "--no-incremental", ".", cwd=tmp_path)


def test_no_two_tests_are_modules_of_one_name(run: Run, project: Path) -> None:
    """pytest imports only one of each."""
    for name, test in (
        ("a-b", "test_a_b"),
        ("a_b", "test_a_b_2"),
        ("a", "test_a"),
        ("a-b_2", "test_a_b_2_2"),
    ):
        outcome = run("new", name)
        assert f"Created functions/{name}/{test}.py" in outcome.out
        assert (project / f"functions/{name}/{test}.py").is_file()


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
