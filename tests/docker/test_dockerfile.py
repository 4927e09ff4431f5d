"""The Dockerfile agrees with what is around it. (`make docker-test` builds and runs it.)"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import click
import pytest

from runtime.cli.main import COMMANDS, cli
from runtime.engine.models.catalogue import EMBEDDED
from tests.docker.conftest import REPOSITORY, Instruction, instructions

ALL = instructions()
LAST = [found for found in ALL if found.stage == ALL[-1].stage]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def of(name: str, among: list[Instruction] = ALL) -> list[str]:
    return [found.rest for found in among if found.name == name]


def defaults() -> dict[str, str]:
    return dict(rest.split("=", 1) for rest in of("ARG") if "=" in rest)


def copied() -> list[str]:
    """What is copied out of the build context."""
    return [source for rest in of("COPY") if not rest.startswith("--from") for source in rest.split()[:-1]]


@pytest.mark.parametrize("source", copied())
def test_what_it_copies_is_there_and_in_the_build_context(source: str) -> None:
    assert (REPOSITORY / source).exists()
    ignored = [
        line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line[:1] not in "#!"
    ]
    assert not any(fnmatch.fnmatch(source, pattern.removeprefix("**/")) for pattern in ignored if pattern)


@pytest.mark.parametrize("secret", ["**/.env", "**/.functions", ".git"])
def test_secrets_and_history_stay_out_of_the_build_context(secret: str) -> None:
    assert secret in (REPOSITORY / ".dockerignore").read_text().splitlines()


def test_everything_is_installed_from_lock_files_by_hash() -> None:
    installs = [
        line for rest in of("RUN") for line in rest.split("&&") if re.search(r"pip .*\binstall ", line)
    ]
    assert len(installs) == 3
    for line in installs:
        assert ("--require-hashes -r requirements" in line) is not ("--no-index --no-deps" in line), line


def test_what_is_taken_out_again_was_put_in_by_the_lock_file() -> None:
    (names,) = re.findall(r"uninstall --quiet --yes ([\w -]+?) +&&", "\n".join(of("RUN")))
    for name in names.split():
        assert wanted_by(name) <= {"hatchling", "-"}, name


def wanted_by(name: str) -> set[str]:
    """Who wants a package, as the lock file's comment says; "-" is a build tool named by the Makefile."""
    lock = (REPOSITORY / "requirements.lock").read_text()
    (pin,) = re.findall(rf"^{name}==.*\n((?:    .*\n)+)", lock, re.MULTILINE)
    return {line.strip(" #").removeprefix("via ").strip() for line in pin.splitlines() if "#" in line} - {
        "via"
    }


def test_the_python_is_one_that_the_project_supports_and_its_tag_is_exact() -> None:
    found = re.fullmatch(r"python:3\.(\d+)-slim-[a-z]+", defaults()["PYTHON_IMAGE"])
    assert found is not None
    least = re.fullmatch(r">=3\.(\d+)", PROJECT["requires-python"])
    assert least is not None
    assert int(found[1]) >= int(least[1])
    assert {rest.split()[0] for rest in of("FROM")} == {"${PYTHON_IMAGE}", "install"}


def test_the_model_baked_in_is_the_one_that_needs_no_hub() -> None:
    assert defaults()["MODEL"] == EMBEDDED
    assert defaults()["EMBEDDING_MODEL"] == "${MODEL}"
    makefile = (REPOSITORY / "Makefile").read_text()
    (pin,) = re.findall(
        r"^[a-z0-9-]+==\S+", (REPOSITORY / "requirements-model.lock").read_text(), re.MULTILINE
    )
    assert f"'{pin}'" in makefile


def test_it_runs_as_a_user_by_number_who_is_not_root() -> None:
    assert re.fullmatch(r"[1-9]\d{4}:[1-9]\d{4}", of("USER", LAST)[-1])


def test_one_line_alone_says_which_python_it_is() -> None:
    assert not [found for found in ALL if found.name != "ARG" and re.search(r"python3\.\d", found.rest)]


@pytest.mark.parametrize(("model", "copied"), [("", []), ("none", []), ("mine", ["model.onnx"])])
def test_a_folder_of_the_context_is_copied_only_if_it_is_named(
    tmp_path: Path, model: str, copied: list[str]
) -> None:
    (tmp_path / "context/mine").mkdir(parents=True)
    (tmp_path / "context/mine/model.onnx").touch()
    (run,) = [rest for rest in of("RUN") if rest.startswith("--mount=type=bind,target=/context ")]
    script = re.sub(r"(?<![\w.}])/(context|folder)\b", rf"{tmp_path}/\1", run.split(" ", 1)[1])
    subprocess.run(["sh", "-ec", script], env={"MODEL": model, "PATH": os.environ["PATH"]}, check=True)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == copied


def test_its_health_check_is_one_that_docker_before_25_knows() -> None:
    (check,) = of("HEALTHCHECK", LAST)
    assert set(re.findall(r"--([\w-]+)=", check)) == {"interval", "timeout", "start-period", "retries"}


def test_nothing_secret_has_a_value_in_the_image() -> None:
    text = "\n".join(of("ENV") + of("ARG"))
    assert not re.search(r"(?i)secret|token|password|(?<!public_)key", text)


def test_its_commands_exist() -> None:
    (entry,), (arguments,) = of("ENTRYPOINT", LAST), of("CMD", LAST)
    (check,) = of("HEALTHCHECK", LAST)
    assert json.loads(entry) == ["functions"]
    name, *flags = json.loads(arguments)
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.make_context(name, flags).params["host"] == "0.0.0.0"
    assert json.loads(check.split("CMD", 1)[1])[1] in COMMANDS


def test_its_labels_say_what_the_project_says() -> None:
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', "\n".join(of("LABEL", LAST))))
    assert labels["title"] == PROJECT["name"]
    assert labels["licenses"] == PROJECT["license"]
    assert PROJECT["description"].startswith(labels["description"])
