from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runtime.errors import EnvFileError, KeysError, UsageError
from runtime.project.load import find_root, is_loopback, load
from runtime.project.settings import Function, Options, Project

from .conftest import Write

SECRET = "0123456789abcdef0123456789abcdef"


def open_project(root: Path, environ: dict[str, str] | None = None, **flags: Any) -> Project:
    return load(Options(root=str(root), **flags), {"JWT_SECRET": SECRET} | (environ or {}))


@pytest.mark.parametrize(
    ("files", "start"),
    [
        ({"functions/a/index.py": ""}, "."),
        ({"functions/a/index.py": ""}, "functions/a"),
        ({"supabase/config.toml": ""}, "src/deep"),
        ({"supabase/functions/a/index.py": ""}, "supabase"),
        ({"supabase/functions/a/index.py": ""}, "supabase/functions/a"),
        ({"functions/a/index.py": "", "supabase/config.toml": ""}, "supabase"),
    ],
)
def test_the_root_is_the_nearest_folder_above(write: Write, files: dict[str, str], start: str) -> None:
    root = write(files)
    (root / start).mkdir(parents=True, exist_ok=True)
    assert find_root(str(root / start)) == str(root)


def test_the_nearest_of_two_projects_wins(write: Write) -> None:
    root = write({"functions/a/index.py": "", "inner/supabase/config.toml": ""})
    assert find_root(str(root / "inner")) == str(root / "inner")


def test_a_folder_called_supabase_may_be_a_project(write: Write) -> None:
    root = write({"supabase/supabase/config.toml": ""})
    assert find_root(str(root / "supabase" / "supabase")) == str(root / "supabase")


def test_without_a_root_the_error_says_how_to_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        find_root(str(tmp_path))
    assert str(error.value).startswith(f"{tmp_path}: neither this folder nor one above it")
    assert "functions new hello" in str(error.value)


def test_a_project_is_whole(write: Write) -> None:
    root = write(
        {
            "functions/hello/index.py": '"""Greets."""',
            "supabase/config.toml": "[edge_runtime.secrets]\nA = 'config'\nB = 'config'\n",
            "supabase/functions/.env": "B=file\nC=file\n",
        }
    )
    project = open_project(root)
    assert project.settings.root == str(root)
    assert project.settings.env_file == str(root / "supabase/functions/.env")
    assert project.environment == {"A": "config", "B": "file", "C": "file"}
    assert project.functions["hello"].description == "Greets."
    assert project.keys.jwt_secret == SECRET
    assert project.notes == ()
    assert open_project(root) == project


def test_an_empty_folder_is_a_project_with_defaults(tmp_path: Path) -> None:
    project = open_project(tmp_path)
    assert project.functions == {}
    assert project.settings.env_file is None
    assert (project.settings.host, project.settings.port) == ("127.0.0.1", 54321)


def test_nothing_is_written_when_a_secret_is_given(write: Write) -> None:
    root = write({"functions/a/index.py": ""})
    open_project(root)
    assert sorted(path.name for path in root.rglob("*")) == ["a", "functions", "index.py"]


def test_a_secret_is_made_on_loopback_only(write: Write) -> None:
    root = write({"functions/a/index.py": ""})
    with pytest.raises(KeysError, match="JWT_SECRET: is not set"):
        load(Options(root=str(root), host="0.0.0.0"), {})
    assert not (root / "supabase").exists()
    assert load(Options(root=str(root)), {}).keys.generated
    assert (root / "supabase/.functions/jwt_secret").exists()


def test_flags_win_over_the_configuration(write: Write) -> None:
    root = write(
        {
            "supabase/config.toml": "[api]\nport = 1\n"
            "[edge_runtime]\nhost = 'localhost'\nlog_format = 'json'\n",
            "my.env": "A=1",
            "supabase/functions/.env": "A=2",
        }
    )
    settings = open_project(root).settings
    assert (settings.port, settings.host, settings.log_format) == (1, "localhost", "json")
    assert settings.verify_jwt is None
    flags: dict[str, Any] = {"port": 0, "host": "[::1]", "log_format": "plain", "verify_jwt": False}
    project = open_project(root, env_file=str(root / "my.env"), **flags)
    settings = project.settings
    assert (settings.port, settings.host, settings.log_format) == (0, "::1", "plain")
    assert settings.verify_jwt is False
    assert settings.env_file == str(root / "my.env")
    assert project.environment == {"A": "1"}


@pytest.mark.parametrize(
    ("flags", "where", "remedy"),
    [
        ({"port": 65536}, "--port: 65536", "0 to 65535"),
        ({"port": -1}, "--port: -1", "0 to 65535"),
        ({"host": ""}, "--host: is empty", "0.0.0.0"),
        ({"env_file": "/nowhere/x.env"}, "/nowhere/x.env: there is no such file", "--env-file"),
    ],
)
def test_a_wrong_flag_is_named(tmp_path: Path, flags: dict[str, Any], where: str, remedy: str) -> None:
    with pytest.raises(UsageError) as error:
        open_project(tmp_path, **flags)
    problem, step = str(error.value).split("\n  → ")
    assert problem.startswith(where)
    assert remedy in step


def test_a_root_that_does_not_exist_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="gone: there is no such folder\n  → check --root"):
        load(Options(root=str(tmp_path / "gone")), {})
    assert not (tmp_path / "gone").exists()


def test_the_default_env_file_is_checked_as_well(write: Write) -> None:
    root = write({"supabase/functions/.env": "nonsense line"})
    with pytest.raises(EnvFileError, match=r"functions/\.env:1: is not NAME=value\n  → write NAME=value"):
        open_project(root)


def test_the_database_comes_from_the_environment_alone(write: Write) -> None:
    root = write({"supabase/functions/.env": "SUPABASE_DB_URL=file"})
    assert open_project(root).environment == {}
    assert open_project(root, {"SUPABASE_DB_URL": "db"}).environment == {"SUPABASE_DB_URL": "db"}


@pytest.mark.parametrize(
    ("models_dir", "expected"),
    [("models", "{root}/models"), ("/srv/m", "/srv/m"), ("~/m", "{home}/m"), ("", "")],
)
def test_the_model_store_is_absolute(write: Write, models_dir: str, expected: str) -> None:
    root = write({"supabase/config.toml": f"[ai]\nmodels_dir = '{models_dir}'\nthreads = 3\npreload = []"})
    ai = open_project(root).settings.ai
    assert ai.models_dir == expected.format(root=root, home=os.path.expanduser("~"))
    assert (ai.threads, ai.preload) == (3, ())


def test_the_folder_of_a_model_is_what_sessions_call_it(write: Write) -> None:
    text = '[ai.models."./mine"]\nprecision = "int8"\n[ai.models."org/b"]\nprecision = "bf16"'
    root = write({"supabase/config.toml": text})
    precisions = open_project(root).settings.ai.precisions
    assert precisions == {f"{root}/mine": "int8", "org/b": "bf16"}


def test_whatever_was_skipped_is_noted_once(write: Write) -> None:
    root = write(
        {
            "supabase/config.toml": "[edge_runtime]\ndeno_version = 2\n"
            "[edge_runtime.secrets]\nSUPABASE_X = 'a'\n"
            "[functions.gone]\n[functions.hello]\nsecrets = ['A', 'OWN', 'SUPABASE_DB_URL', 'TYPO']\n",
            "supabase/functions/.env": "A=1\nJWT_SECRET=hunter2\nSUPABASE_URL=hunter2",
            "functions/hello/index.py": "",
            "functions/hello/.env": "OWN=1\nSUPABASE_ANON_KEY=hunter2",
            "functions/broken/index.py": "",
            "functions/broken/.env": "hunter2 hunter2",
            "functions/deno/index.ts": "",
        }
    )
    notes = open_project(root).notes
    expected = [
        "edge_runtime.deno_version is skipped",
        "edge_runtime.secrets: SUPABASE_X is skipped",
        "supabase/functions/.env: JWT_SECRET is skipped",
        "supabase/functions/.env: SUPABASE_URL is skipped",
        "functions/hello/.env: SUPABASE_ANON_KEY is skipped",
        "functions/broken/.env:1: is not NAME=value",
        "functions.gone is ignored",
        "functions/deno is ignored: index.ts",
        'functions.hello.secrets names "TYPO", which is set nowhere',
    ]
    for part in expected:
        assert sum(part in note for note in notes) == 1, part
    assert len(notes) == len(expected)
    assert "hunter2" not in "".join(notes)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "LOCALHOST", "::1"])
def test_hosts_that_only_this_machine_reaches(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.com", "localhost.example.com"])
def test_hosts_that_others_reach(host: str) -> None:
    assert not is_loopback(host)


def test_paths_with_spaces_and_long_paths_are_fine(tmp_path: Path) -> None:
    root = tmp_path / "a folder" / ("long" * 50)
    (root / "functions/hello").mkdir(parents=True)
    (root / "functions/hello/index.py").write_text("")
    assert set(load(Options(root=str(root)), {}).functions) == {"hello"}


def test_the_environment_says_where_models_are_and_wins_over_the_env_file(write: Write) -> None:
    root = write({"supabase/functions/.env": "AI_INFERENCE_API_HOST=http://localhost:1\nMINE=1\n"})
    given = {"AI_INFERENCE_API_HOST": "http://ollama:11434", "EMBEDDING_MODEL": "", "OTHER": "2"}
    assert open_project(root, given).environment == {
        "AI_INFERENCE_API_HOST": "http://ollama:11434",
        "MINE": "1",
    }


@pytest.mark.parametrize(
    ("said", "flag", "verify_jwt"),
    [
        ("", None, None),
        ("true", None, None),
        ("false", None, False),
        ("FALSE", None, False),
        ("true", False, False),
    ],
)
def test_verify_jwt_in_the_environment_can_only_open_all_functions(
    write: Write, said: str, flag: bool | None, verify_jwt: bool | None
) -> None:
    project = open_project(write({}), {"VERIFY_JWT": said}, verify_jwt=flag)
    assert project.settings.verify_jwt is verify_jwt
    said_so = [note for note in project.notes if "every function answers without a key" in note]
    assert len(said_so) == (verify_jwt is False)
    closed = Function(name="a", directory="/a", verify_jwt=True)
    assert project.settings.needs_key(closed) is (verify_jwt is None)
    assert not project.settings.needs_key(msgspec.structs.replace(closed, verify_jwt=False))


def test_verify_jwt_is_true_or_false(write: Write) -> None:
    with pytest.raises(UsageError, match="VERIFY_JWT"):
        open_project(write({}), {"VERIFY_JWT": "no"})


@pytest.mark.parametrize(
    ("file", "config", "given", "found", "preload"),
    [
        ("mine", "", "none", "mine", ("mine",)),
        ("", "mine", "none", "mine", ("mine",)),
        ("", "", "none", "none", ()),
        ("none", "", "none", "none", ()),
        ("none", "", "mine", "mine", ("mine",)),
        ("none", "", "", "none", ()),
        ("mine", "", "other", "other", ("other",)),
    ],
)
def test_an_image_without_a_model_leaves_the_choice_to_the_project(
    write: Write, file: str, config: str, given: str, found: str, preload: tuple[str, ...]
) -> None:
    root = write(
        {
            "supabase/functions/.env": f"EMBEDDING_MODEL={file}\n" if file else "",
            "supabase/config.toml": f"[edge_runtime.secrets]\nEMBEDDING_MODEL = '{config}'\n"
            if config
            else "",
        }
    )
    project = open_project(root, {"EMBEDDING_MODEL": given})
    assert (project.environment["EMBEDDING_MODEL"], project.preload) == (found, preload)


@pytest.mark.parametrize("url", ["http://kong:8000", "https://example.com/base", "http://[::1]:1"])
def test_the_environment_may_say_where_functions_find_the_project(write: Write, url: str) -> None:
    project = open_project(write({}), {"SUPABASE_URL": url})
    assert (project.settings.url, project.notes) == (url, ())
    assert open_project(write({})).settings.url == ""
    assert open_project(write({}), {"SUPABASE_URL": ""}).settings.url == ""


@pytest.mark.parametrize(
    "url", ["kong:8000", "ftp://kong", "https:///", "http:///x", "sb_secret_x", "http://a b"]
)
def test_an_address_that_is_no_url_is_refused_and_not_shown(write: Write, url: str) -> None:
    with pytest.raises(UsageError, match=r"^SUPABASE_URL: is no URL\n  → start it with http://") as error:
        open_project(write({}), {"SUPABASE_URL": url})
    assert url not in str(error.value)


def test_an_address_without_the_secret_that_belongs_to_it_is_noted(write: Write) -> None:
    """Such a shell was made for another project, whose functions these are not."""
    given = {"SUPABASE_URL": "https://me:hunter2@abc.example.com:8000/base"}
    (note,) = load(Options(root=str(write({}))), given).notes
    assert (
        "SUPABASE_URL is set without JWT_SECRET: functions call the project at abc.example.com:8000;" in note
    )
    assert open_project(write({}), given).notes == ()


@pytest.mark.parametrize("prefix", ["", "/api", "/functions/v2"])
def test_the_prefix_may_be_said(write: Write, prefix: str) -> None:
    root = write({"supabase/config.toml": "[edge_runtime]\nprefix = '/configured'\n"})
    assert open_project(root).settings.prefix == "/configured"
    assert open_project(root, prefix=prefix).settings.prefix == prefix


@pytest.mark.parametrize("prefix", ["api", "/api/", "/a b", "/"])
def test_a_prefix_that_is_no_path_is_refused(write: Write, prefix: str) -> None:
    with pytest.raises(UsageError, match="--prefix"):
        open_project(write({}), prefix=prefix)
