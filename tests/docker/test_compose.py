"""The compose files: safe by default, and in step with the command line and the project."""

from __future__ import annotations

import re
from typing import Any

import click
import pytest

from runtime.cli.main import cli
from runtime.project.environment import HANDED_ON
from runtime.project.settings import Settings
from tests.docker.conftest import DOCKER, REPOSITORY, services

FILES = ["compose.yaml", "compose.supabase.yaml"]
FUNCTIONS = {name: services(name)["functions"] for name in FILES}
OURS = services("compose.yaml")


def parsed(arguments: list[str]) -> dict[str, Any]:
    """What `functions …` makes of these arguments."""
    context = click.Context(cli)
    name, *flags = arguments
    command = cli.get_command(context, name)
    assert command is not None
    return command.make_context(name, list(flags), parent=context).params


@pytest.mark.parametrize("name", FILES)
def test_the_server_has_no_rights_that_it_does_not_need(name: str) -> None:
    service = FUNCTIONS[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert set(service["cap_add"]) == {"CHOWN", "DAC_OVERRIDE", "KILL", "SETGID", "SETUID"}
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert [mount.split(":")[0] for mount in service["tmpfs"]] == ["/tmp"]
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert not service.get("privileged")


@pytest.mark.parametrize("name", FILES)
def test_the_server_gets_the_time_to_finish_what_is_in_flight(name: str) -> None:
    assert int(FUNCTIONS[name]["stop_grace_period"].removesuffix("s")) > Settings(root="/").shutdown_s + 5


@pytest.mark.parametrize("name", FILES)
def test_no_secret_has_a_default(name: str) -> None:
    text = (DOCKER / name).read_text()
    for variable, default in re.findall(r"\$\{(\w*(?:SECRET|KEY|PASSWORD|TOKEN)\w*)(:?-[^}]*)?", text):
        assert not default, variable


def test_without_a_signing_secret_it_says_how_to_make_one() -> None:
    value = OURS["functions"]["environment"]["JWT_SECRET"]
    assert re.fullmatch(r"\$\{JWT_SECRET:\?.*openssl rand -hex 32.*docker/\.env\}", value)


def test_it_is_published_on_this_machine_alone_unless_asked() -> None:
    (port,) = OURS["functions"]["ports"]
    assert port == "${FUNCTIONS_ADDRESS:-127.0.0.1}:${FUNCTIONS_PORT:-54321}:54321"
    assert "ports" not in OURS["ollama"]
    assert parsed(OURS["functions"]["command"])["port"] == 54321


def test_the_project_is_mounted_read_only() -> None:
    for volume in OURS["functions"]["volumes"]:
        source, target, mode = volume.split(":")
        assert (DOCKER / source).resolve() == REPOSITORY / target.removeprefix("/app/")
        assert mode == "ro"


def test_functions_get_what_the_environment_says_of_models() -> None:
    environment = OURS["functions"]["environment"]
    assert set(environment) - {"JWT_SECRET"} <= set(HANDED_ON)
    assert environment["AI_INFERENCE_API_HOST"] == "${AI_INFERENCE_API_HOST:-http://ollama:11434}"


def test_the_image_is_built_as_the_dockerfile_says() -> None:
    build = OURS["functions"]["build"]
    assert (DOCKER / build["context"]).resolve() == REPOSITORY
    assert (REPOSITORY / build["dockerfile"]).is_file()
    arguments = set(re.findall(r"^ARG (\w+)", (DOCKER / "Dockerfile").read_text(), re.MULTILINE))
    assert set(build["args"]) <= arguments


def test_every_image_from_elsewhere_has_an_exact_version() -> None:
    for name, service in OURS.items():
        assert "build" in service or re.search(r":\d+\.\d+\.\d+$", service["image"]), name


def test_the_language_model_keeps_its_models_and_tells_how_it_is() -> None:
    ollama = OURS["ollama"]
    assert "ollama:/root/.ollama" in ollama["volumes"]
    assert ollama["healthcheck"]["test"] == ["CMD", "ollama", "list"]


def test_the_override_stands_where_supabase_expects_its_functions() -> None:
    assert set(services("compose.supabase.yaml")) == {"functions"}
    service = FUNCTIONS["compose.supabase.yaml"]
    *flags, root, folder = service["command"]
    assert (root, folder) == ("--root", "/home/deno")
    command = parsed(flags)
    assert (command["host"], command["port"], command["prefix"]) == ("0.0.0.0", 9000, "")
    assert service["healthcheck"]["test"][1:] == ["functions", "health", "--port", "9000"]
    assert service["image"] == OURS["functions"]["image"]


def test_the_override_leaves_keys_folders_and_routes_as_they_are() -> None:
    touched = {"environment", "env_file", "volumes", "ports", "container_name", "networks", "depends_on"}
    assert touched.isdisjoint(FUNCTIONS["compose.supabase.yaml"])
