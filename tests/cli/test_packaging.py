"""What a newcomer meets: README, Makefile, lock files, settings, documentation."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import msgspec
import pytest
from dotenv import dotenv_values

from runtime.cli.main import COMMANDS
from runtime.project import config
from runtime.project.settings import AI, Auth, Cors, Function, Limits, Settings
from tests.cli.conftest import REPOSITORY

LOCKS = sorted(REPOSITORY.glob("requirements*.lock"))
NONE = object()


def text_of(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "line",
    [
        'eval "$(functions keys)"',
        "curl -X POST http://localhost:54321/functions/v1/hello "
        """-H "Authorization: Bearer $ANON_KEY" -d '{"name":"Functions"}'""",
        "curl --get http://localhost:54321/functions/v1/embed "
        '--data-urlencode "input=Luke, I am your father" -H "Authorization: $ANON_KEY"',
        "curl --get http://localhost:54321/functions/v1/ollama-test "
        '--data-urlencode "prompt=write a short rap song" -H "Authorization: $ANON_KEY"',
        "make serve",
        "make test",
        "functions new summarize",
    ],
)
def test_the_readme_has_the_lines_that_work(line: str) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", text_of("README.md"), re.DOTALL)
    assert line in "".join(blocks).splitlines()


def test_the_quickstart_comes_first() -> None:
    assert re.findall(r"^## (.*)", text_of("README.md"), re.MULTILINE)[0] == "Quickstart"


def test_the_readme_names_every_command() -> None:
    named = re.findall(r"^\| `functions (\w+)", text_of("README.md"), re.MULTILINE)
    assert list(dict.fromkeys(named)) == list(COMMANDS)


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/functions.md", "docs/configuration.md"])
def test_links_to_files_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text_of(page)):
        assert ((REPOSITORY / page).parent / link).exists(), link


@pytest.mark.parametrize("name", ["hello", "embed", "ollama-test", "stream"])
def test_an_example_says_what_it_does_and_how_to_call_it(name: str) -> None:
    source = text_of(f"functions/{name}/index.py")
    assert source.startswith('"""')
    call = re.search(r"^#   curl (?:.*\\\n)*.*", source, re.MULTILINE)
    assert call is not None
    assert f"http://localhost:54321/functions/v1/{name}" in call.group()
    assert "$ANON_KEY" in call.group()


@pytest.mark.parametrize(
    "target",
    ["install", "serve", "test", "coverage", "lint", "bench", "docs", "image", "docker-test", "lock"],
)
def test_make_knows_what_each_target_would_do(target: str) -> None:
    make = subprocess.run(["make", "-n", target], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert make.returncode == 0, make.stderr
    assert re.search(rf"^{target}: .*## \w", text_of("Makefile"), re.MULTILINE)


def test_make_alone_lists_the_targets() -> None:
    make = subprocess.run(
        ["make", "--no-print-directory"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert [line.split()[0] for line in make.stdout.splitlines()[1:]] == [
        "help",
        "install",
        "serve",
        "test",
        "coverage",
        "lint",
        "bench",
        "docs",
        "image",
        "docker-test",
        "lock",
    ]


def test_an_old_python_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text(text_of("Makefile"))
    make = subprocess.run(
        ["make", "install", "PYTHON=false"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert make.returncode != 0
    assert "Python 3.11 or newer is needed" in make.stderr
    assert "make PYTHON=" in make.stderr


def test_there_are_three_lock_files() -> None:
    assert [path.name for path in LOCKS] == [
        "requirements-dev.lock",
        "requirements-model.lock",
        "requirements.lock",
    ]


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_a_lock_file_pins_by_version_and_hash_and_names_no_place(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"://|--index|--find-links|@ |/(home|root|tmp|opt|usr|work)/", text)
    for requirement in re.split(r"\n(?=[a-z0-9])", text.strip()):
        assert re.match(r"[a-z0-9-]+==[0-9]", requirement), requirement
        assert "--hash=sha256:" in requirement, requirement


def test_the_two_lock_files_agree() -> None:
    pins = [set(re.findall(r"^([a-z0-9-]+)==(\S+)", path.read_text(), re.MULTILINE)) for path in LOCKS]
    dev, _, runtime = (dict(pairs) for pairs in pins)
    assert {name: dev[name] for name in dev.keys() & runtime.keys()} == {
        name: runtime[name] for name in dev.keys() & runtime.keys()
    }


def test_the_lock_file_has_everything_that_the_project_names() -> None:
    project = tomllib.loads(text_of("pyproject.toml"))
    wanted = project["project"]["dependencies"] + project["project"]["optional-dependencies"]["engine"]
    locked = set(re.findall(r"^([a-z0-9-]+)==", text_of("requirements.lock"), re.MULTILINE))
    assert {re.split(r"[\[>=]", requirement)[0] for requirement in wanted} <= locked


def test_the_example_env_file_is_complete() -> None:
    values = dotenv_values(REPOSITORY / "supabase/functions/.env.example")
    assert values == {
        "EMBEDDING_MODEL": "gte-small",
        "AI_INFERENCE_API_HOST": "http://localhost:11434",
        "CHAT_MODEL": "mistral",
        "WEBHOOK_SECRET": "",
    }


def test_the_example_config_is_valid_and_needs_no_note() -> None:
    parsed = config.read_config(str(REPOSITORY), {})
    assert parsed.settings["port"] == 54321
    assert parsed.notes == ()


def test_keys_and_env_files_are_never_committed() -> None:
    ignored = text_of(".gitignore").splitlines()
    assert {".env", "supabase/.functions/", ".venv/"} <= set(ignored)


def documented(heading: str) -> dict[str, object]:
    """The keys of one table of the configuration page, with their defaults."""
    section = text_of("docs/configuration.md").split(f"\n### {heading}\n")[1].split("\n##")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| .+ \|$", section, re.MULTILINE)
    return {key: NONE if default == "none" else json.loads(default.strip("`")) for key, default in rows}


def defaults(struct: type[msgspec.Struct], keys: dict[str, object]) -> dict[str, object]:
    fields = {field.name: field.default for field in msgspec.structs.fields(struct)}
    plain = {key: list(value) if isinstance(value := fields[key], tuple) else value for key in keys}
    return {key: NONE if value is None else value for key, value in plain.items()}


@pytest.mark.parametrize(
    ("heading", "keys", "struct"),
    [
        ("Project", {"project_id": str}, Settings),
        ("`[api]`", config.API, Settings),
        ("`[edge_runtime]`", config.EDGE_RUNTIME, Settings),
        ("`[edge_runtime.cors]`", config.CORS, Cors),
        ("`[edge_runtime.defaults]`", config.LIMITS, Limits),
        ("`[functions.NAME]`", config.FUNCTION, Function),
        ("`[auth]`", config.AUTH, Auth),
        ("`[ai]`", config.AI_KEYS, AI),
    ],
)
def test_every_key_is_documented_with_its_default(
    heading: str, keys: dict[str, object], struct: type[msgspec.Struct]
) -> None:
    assert documented(heading) == defaults(struct, keys)


def test_every_flag_of_serve_is_documented() -> None:
    from runtime.cli.serve import command

    flags = {option for parameter in command.params for option in parameter.opts}
    section = text_of("docs/configuration.md").split("## Flags of `functions serve`")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(--[\w-]+)", section, re.MULTILINE)) == flags
