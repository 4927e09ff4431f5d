"""From the command line to process 0."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import msgspec
import pytest

from runtime.errors import StartError
from runtime.project.settings import AI, Keys, Model, Options, Project, Settings
from runtime.supervisor import launch as launching
from runtime.supervisor import users
from runtime.supervisor.launch import bind, launch
from runtime.supervisor.plan import Plan


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")


def settings(**given: Any) -> Settings:
    return Settings(root="/project", **{"port": 0} | given)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", pytest.param("::1", marks=needs_ipv6)])
def test_the_socket_accepts_before_anybody_serves(host: str) -> None:
    with (
        closing(bind(settings(host=host))) as listener,
        socket.create_connection(listener.getsockname()[:2], timeout=5) as client,
    ):
        assert client.getpeername() == listener.getsockname()


def test_a_taken_port_is_an_error_that_names_port_and_supabase() -> None:
    with closing(bind(settings())) as listener, pytest.raises(StartError) as caught:
        bind(settings(port=(port := listener.getsockname()[1])))
    message = str(caught.value)
    assert message.startswith(f"127.0.0.1:{port}: port {port} is taken")
    assert "--port" in message
    assert "supabase stop" in message
    assert caught.value.exit_code == 3


@needs_ipv6
def test_a_taken_ipv6_address_is_written_as_people_write_it() -> None:
    with (
        closing(bind(settings(host="::1"))) as listener,
        pytest.raises(StartError, match=r"^\[::1\]:\d+: port \d+ is taken"),
    ):
        bind(settings(host="::1", port=listener.getsockname()[1]))


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_an_address_of_no_interface_names_the_flag(host: str) -> None:
    with pytest.raises(StartError, match="cannot listen here") as caught:
        bind(settings(host=host))
    assert "--host" in str(caught.value)


def test_a_port_that_needs_privileges_names_those_that_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(StartError, match=r"not allowed to listen on port 80[^0-9]") as caught:
        bind(settings(port=80))
    assert "above 1023" in str(caught.value)


class Exec(Exception):
    """What would have become of this process."""

    def __init__(self, path: str, arguments: list[str], environ: Mapping[str, str]) -> None:
        self.path, self.arguments, self.environ = path, arguments, environ
        with os.fdopen(int(arguments[-1]), "rb") as file:
            self.plan = msgspec.json.decode(file.read(), type=Plan)
            self.inherits_plan = os.get_inheritable(file.fileno())


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    def execve(path: str, arguments: list[str], environ: Mapping[str, str]) -> None:
        raise Exec(path, arguments, environ)

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setattr(users, "reserve", lambda: (57_000, None))
    with closing(bind(settings())) as listener:
        monkeypatch.setattr(launching, "bind", lambda settings: listener)
        yield listener


def project(environment: dict[str, str] | None = None, **given: Any) -> Project:
    return Project(
        settings=settings(**given),
        functions={},
        environment=environment or {},
        keys=Keys(jwt_secret="secret", anon_key="", service_role_key=""),
    )


def launched(environ: dict[str, str], environment: dict[str, str] | None = None, **given: Any) -> Exec:
    with pytest.raises(Exec) as caught:
        launch(project(environment, **given), Options(root="/project"), environ)
    return caught.value


def test_plan_and_socket_are_inherited_by_an_isolated_interpreter(listener: socket.socket) -> None:
    told = launched({"PATH": "/bin"}, shutdown_s=3)
    assert told.arguments[1:4] == ["-I", "-m", "runtime.supervisor"]
    assert told.inherits_plan
    assert told.plan.sockets == (listener.fileno(),)
    assert listener.get_inheritable()
    assert told.plan.shutdown_s == 3
    assert msgspec.json.decode(told.plan.options, type=Options) == Options(root="/project")


def test_root_that_may_not_change_users_is_told_before_anything_starts(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(launching, "may_change_user", lambda: False)
    with pytest.raises(StartError, match=r"CAP_SETUID(.|\n)*--user"):
        launch(project(), Options(root="/project"), {})
    monkeypatch.setattr(launching, "may_change_user", lambda: True)
    assert launched({}).plan.uid_base == 57_000


def test_an_ordinary_user_s_workers_stay_that_user(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(launching, "may_change_user", lambda: False)
    assert launched({}).plan.uid_base == 0


def test_without_a_place_for_temporary_files_it_says_how_to_give_one(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**options: Any) -> None:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(StartError, match=r"temporary(.|\n)*--tmpfs /tmp(.|\n)*TMPDIR"):
        launch(project(), Options(root="/project"), {})


def test_the_shell_s_environment_is_handed_to_the_gateway_but_hardly_any_to_the_processes(
    listener: socket.socket,
) -> None:
    kept = {"PATH": "/bin", "TMPDIR": "/t"}
    environ = kept | {"JWT_SECRET": "secret", "SUPABASE_DB_URL": "secret", "PYTHONPATH": "/x"}
    told = launched(environ)
    assert told.environ == kept
    assert told.plan.environ == environ
    assert "secret" not in " ".join(told.arguments)


@pytest.mark.parametrize(
    ("environment", "ai", "preload"),
    [
        ({}, AI(), ("gte-small",)),
        ({"EMBEDDING_MODEL": "other"}, AI(), ("other",)),
        ({"EMBEDDING_MODEL": ""}, AI(), ("gte-small",)),
        ({"EMBEDDING_MODEL": "none"}, AI(), ()),
        ({"EMBEDDING_MODEL": "other"}, AI(preload=("one", "two")), ("one", "two")),
        ({"EMBEDDING_MODEL": "other"}, AI(preload=()), ()),
    ],
)
def test_the_models_loaded_first(
    listener: socket.socket, environment: dict[str, str], ai: AI, preload: tuple[str, ...]
) -> None:
    assert launched({}, environment, ai=ai).plan.preload == preload


def test_how_models_are_run_is_handed_on(listener: socket.socket) -> None:
    models = {"a": Model(precision="int8"), "b": Model()}
    plan = launched({}, ai=AI(providers=("cuda", "cpu"), memory_mb=3, models=models)).plan
    assert (plan.engine_providers, plan.models_bytes) == (("cuda", "cpu"), 3_000_000)
    assert plan.precisions == {"a": "int8"}


@pytest.mark.parametrize(("uid", "base"), [(0, 57_000), (1000, 0)])
def test_workers_of_root_get_users_of_their_own(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, uid: int, base: int
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(launching, "may_change_user", lambda: True)
    with closing(socket.socket()) as holder:
        monkeypatch.setattr(users, "reserve", lambda: (57_000, holder))
        plan = launched({}).plan
        assert (plan.uid_base, plan.users) == (base, holder.fileno() if base else -1)
        assert holder.get_inheritable() == bool(base)
