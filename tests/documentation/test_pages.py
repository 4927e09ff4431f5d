"""What can be said of the documentation without running it."""

from __future__ import annotations

import ast
import json
import re
import subprocess

import pytest

from runtime import ai
from runtime.errors import HTTP, HostError, rule_of
from runtime.project.config import parse_config
from runtime.project.envfile import parse_env
from tests.documentation.pages import PAGES, REASONS, REPOSITORY, Block, anchors, blocks, links

BLOCKS = [block for page in PAGES for block in blocks(page)]
LANGUAGES = {
    "sh",
    "python",
    "toml",
    "json",
    "text",
    "env",
    "ini",
    "yaml",
    "promql",
    "nginx",
    "caddy",
    "html",
    "js",
    "sql",
    "",
}
EVERY_PAGE = (
    "ai",
    "configuration",
    "conformance",
    "functions",
    "http",
    "index",
    "metrics",
    "quickstart",
    "security",
    "self-hosting",
    "supabase",
)


def of(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


def test_the_pages_are_all_there() -> None:
    assert ("README.md", *(f"docs/{name}.md" for name in EVERY_PAGE)) == PAGES


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings_that_exist(page: str) -> None:
    for path, anchor in links(page):
        target = (REPOSITORY / page).parent / path if path else REPOSITORY / page
        assert target.exists(), path
        if anchor:
            assert anchor in anchors(str(target.resolve().relative_to(REPOSITORY.resolve()))), (
                f"{path}#{anchor}"
            )


@pytest.mark.parametrize("page", [page for page in PAGES if page != "docs/index.md"])
def test_every_page_is_on_the_map(page: str) -> None:
    assert page == "README.md" or page.removeprefix("docs/") in {path for path, _ in links("docs/index.md")}


def test_every_example_is_listed() -> None:
    text = (REPOSITORY / "docs" / "functions.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `functions/([\w-]+)` \|", text, re.MULTILINE)
    assert sorted(listed) == sorted(path.parent.name for path in REPOSITORY.glob("functions/*/index.py"))


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_has_a_language_and_a_mark_that_are_known(block: Block) -> None:
    assert block.language in LANGUAGES
    if block.kind == "run":
        assert block.language == "sh"
        kind, _, reason = block.what.partition(": ")
        assert kind in ("server", "docker", "elsewhere")
        assert (reason in REASONS) is (kind == "elsewhere")


@pytest.mark.parametrize("page", PAGES)
def test_a_comment_says_something_about_the_block_below_it(page: str) -> None:
    comments = re.findall(r"^<!-- (.*?) -->$", (REPOSITORY / page).read_text(encoding="utf-8"), re.MULTILINE)
    marks = [f"{block.kind}: {block.what}" for block in blocks(page) if block.kind]
    assert [comment for comment in comments if not comment.startswith("Written by `make docs`")] == marks


def test_commands_are_run_but_for_those_that_cannot_be() -> None:
    commands = of("sh")
    shown = [block for block in commands if block.is_shown_only]
    assert len(shown) < len(commands) / 2, [str(block) for block in shown]
    used = {block.what.removeprefix("elsewhere: ") for block in shown}
    assert used - {"docker"} == REASONS.keys() & used


@pytest.mark.parametrize("block", of("sh"), ids=str)
def test_a_command_is_one_for_the_shell(block: Block) -> None:
    subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)


@pytest.mark.parametrize("block", [block for block in of("sh") if block.what == "docker"], ids=str)
def test_the_files_that_docker_is_given_exist(block: Block) -> None:
    for path in re.findall(r"(?<=[\s=])(?:docker|supabase|functions)/[\w./-]*[\w]", block.text):
        assert (REPOSITORY / path).exists() or path.endswith("/.env"), path


@pytest.mark.parametrize("block", of("python"), ids=str)
def test_python_is_python(block: Block) -> None:
    compile(block.text, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)


@pytest.mark.parametrize("block", of("toml"), ids=str)
def test_settings_are_settings(block: Block) -> None:
    environ = dict.fromkeys(re.findall(r"env\((\w+)\)", block.text), "x")
    assert parse_config(block.text, str(block), environ).notes == ()


@pytest.mark.parametrize("block", of("env"), ids=str)
def test_variables_are_variables(block: Block) -> None:
    assert parse_env(block.text, str(block))


@pytest.mark.parametrize("block", of("json"), ids=str)
def test_json_is_json_but_for_what_is_left_out(block: Block) -> None:
    json.loads(re.sub(r",?\s*…", "", re.sub(r":\s*…", ": null", block.text)))


def test_the_table_of_errors_is_the_one_that_is_served() -> None:
    """`docs/http.md` has a row for each code with its status."""
    text = (REPOSITORY / "docs" / "http.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (\d+) \| \S.*\|$", text, re.MULTILINE))
    assert rows == {rule.code: str(rule.status) for rule in HTTP.values()}


def test_the_errors_of_ai_are_answered_with_the_status_that_is_said() -> None:
    text = (REPOSITORY / "docs" / "ai.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `ai\.(\w+)` \| (\d+) \| \S.*\|$", text, re.MULTILINE))
    public = [getattr(ai, name) for name in ai.__all__]
    errors = [kind for kind in public if issubclass(kind, ai.AIError) and kind is not ai.AIError]
    said = {kind.__name__: str(rule_of(kind.__new__(kind)).status) for kind in errors}
    assert rows == said


def test_the_host_makes_no_error_that_the_table_lacks() -> None:
    own = {kind for kind in HTTP if issubclass(kind, HostError)}
    assert own
    assert {kind.__name__ for kind in HostError.__subclasses__()} - {kind.__name__ for kind in own} == {
        "Reported"
    }
