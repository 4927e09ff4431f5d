from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from runtime.errors import ConfigError
from runtime.project import config as keys
from runtime.project.config import Config, parse_config, read_config
from runtime.project.schema import Prefix, Text
from runtime.project.settings import AI, Auth, Cors, Function, Limits, Model, Options, Provider, Settings

FILE = "/p/supabase/config.toml"

PEER = """
project_id = "shop"
[api]
port = 8000
schemas = ["public"]
[db]
port = 54322
[studio]
openai_api_key = "env(OPENAI_API_KEY)"
[auth]
site_url = "http://localhost"
[auth.email]
enable_signup = true
[edge_runtime]
enabled = true
policy = "oneshot"
inspector_port = 8084
deno_version = 2
[edge_runtime.secrets]
STRIPE_KEY = "env(STRIPE_FROM_SHELL)"
plain = "x"
[functions.hello]
enabled = true
verify_jwt = false
import_map = "./functions/hello/deno.json"
entrypoint = "./functions/hello/index.ts"
static_files = ["./functions/hello/*.html"]
[analytics]
enabled = false
"""


def parse(text: str, **environ: str) -> Config:
    return parse_config(text, FILE, environ)


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as error:
        parse(text)
    return str(error.value)


def test_without_a_file_everything_is_default(tmp_path: Path) -> None:
    config = read_config(str(tmp_path), {})
    assert Settings(**config.settings, root="/") == Settings(root="/")
    assert (config.functions, config.secrets, config.notes) == ({}, {}, ())


def test_a_supabase_project_keeps_its_meaning() -> None:
    config = parse(PEER, STRIPE_FROM_SHELL="sk_live")
    settings = Settings(**config.settings, root="/")
    assert settings.project_id == "shop"
    assert settings.port == 8000
    assert settings.policy == "oneshot"
    assert settings.inspector_port == 8084
    assert config.secrets == {"STRIPE_KEY": "sk_live", "PLAIN": "x"}
    assert config.functions["hello"].options == {
        "enabled": True,
        "verify_jwt": False,
        "static_files": ("./functions/hello/*.html",),
    }


def test_peer_keys_without_meaning_are_noted_once() -> None:
    notes = parse(PEER, STRIPE_FROM_SHELL="x").notes
    assert len(notes) == 3
    for key in ("edge_runtime.deno_version", "functions.hello.import_map", "functions.hello.entrypoint"):
        assert sum(key in note for note in notes) == 1


def test_empty_peer_keys_are_not_worth_a_note() -> None:
    assert parse('[functions.a]\nimport_map = ""\nentrypoint = ""').notes == ()


@pytest.mark.parametrize("text", ["[function.hello]\nsecrets = []", "[edge_runtimes]\nprefix = ''"])
def test_a_misspelt_table_of_ours_is_ignored_with_a_note(text: str) -> None:
    (note,) = parse(text).notes
    assert "did you mean" in note


LITERALS = {
    "policy": "oneshot",
    "log_format": "json",
    "cors": "function",
    "retry": "idempotent",
    "sandbox": "landlock",
}
NUMBERS = sorted(keys.LIMITS.keys() - LITERALS)


def toml(name: str, kind: Any) -> str:
    """A value of this kind that is not the default."""
    if name in LITERALS:
        return f'"{LITERALS[name]}"'
    if kind is bool:
        return "false"
    if kind == Prefix:
        return '"/fn"'
    if kind == tuple[str, ...]:
        return '["10.0.0.1"]'
    if kind == tuple[Provider, ...]:
        return '["cuda", "cpu"]'
    return '"x"' if kind in (str, Text) else "7"


TABLES: list[tuple[str, dict[str, Any]]] = [
    ("api", keys.API),
    ("auth", keys.AUTH),
    ("ai", keys.AI_KEYS),
    ("edge_runtime", keys.EDGE_RUNTIME),
    ("edge_runtime.cors", keys.CORS),
    ("edge_runtime.defaults", keys.LIMITS),
    ("functions.hello", keys.FUNCTION | keys.LIMITS),
]


def owner(config: Config, table: str, name: str) -> msgspec.Struct:
    """The struct in which a key's value must arrive."""
    settings = Settings(**config.settings, root="/")
    if table == "functions.hello":
        hello = config.functions["hello"]
        return hello.limits if name in keys.LIMITS else Function(**hello.options, name="hello", directory="/")
    tables: dict[str, msgspec.Struct] = {
        "auth": settings.auth,
        "ai": settings.ai,
        "edge_runtime.cors": settings.cors,
        "edge_runtime.defaults": config.limits,
    }
    return tables.get(table, settings)


@pytest.mark.parametrize(
    ("table", "name", "kind"),
    [
        pytest.param(table, name, kind, id=f"{table}.{name}")
        for table, kinds in TABLES
        for name, kind in kinds.items()
    ],
)
def test_every_key_of_ours_is_accepted_and_arrives(table: str, name: str, kind: Any) -> None:
    before = owner(parse(f"[{table}]"), table, name)
    after = owner(parse(f"[{table}]\n{name} = {toml(name, kind)}"), table, name)
    assert getattr(after, name) != getattr(before, name)


def test_every_setting_has_a_key_or_is_made_by_us() -> None:
    made = {
        "root",
        "verify_jwt",
        "url",
        "env_file",
        "auth",
        "cors",
        "ai",
        "project_id",
        "port",
        "test_limits",
    }
    assert set(Settings.__struct_fields__) == set(keys.EDGE_RUNTIME) | made
    assert set(Function.__struct_fields__) == set(keys.FUNCTION) | {
        "name",
        "directory",
        "root",
        "description",
        "limits",
    }
    for struct, kinds in ((Limits, keys.LIMITS), (Auth, keys.AUTH), (Cors, keys.CORS), (Model, keys.MODEL)):
        assert set(struct.__struct_fields__) == set(kinds)
    assert set(AI.__struct_fields__) == {*keys.AI_KEYS, "models"}
    assert set(Options.__struct_fields__) - {"root"} <= set(Settings.__struct_fields__)


def test_each_model_has_a_precision_of_its_own() -> None:
    text = '[ai.models.a]\nprecision = "int8"\n[ai.models."org/b"]\nprecision = "fp32"\n[ai.models.c]\n'
    ai = parse(text).settings["ai"]
    assert ai.models == {"a": Model(precision="int8"), "org/b": Model(), "c": Model()}
    assert ai.precisions == {"a": "int8"}


def test_a_function_has_its_limits_over_the_defaults_over_ours() -> None:
    config = parse(
        "[edge_runtime.defaults]\nmemory_mb = 100\nqueue = 1\n[functions.a]\nqueue = 0\n[functions.b]\n"
    )
    assert config.limits == Limits(memory_mb=100, queue=1)
    assert config.functions["a"].limits == Limits(memory_mb=100, queue=0)
    assert config.functions["b"].limits == config.limits


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("[edge_runtime]\nprefx = '/x'", "edge_runtime.prefx", "prefix"),
        ("[edge_runtime.defaults]\nmemory = 1", "edge_runtime.defaults.memory", "memory_mb"),
        ("[edge_runtime.cor]\nmax_age_s = 1", "edge_runtime.cor", "cors"),
        ("[edge_runtime.cors]\norigins = ['*']", "edge_runtime.cors.origins", "allow_origins"),
        ("[functions.hello]\nverify_jwts = false", "functions.hello.verify_jwts", "verify_jwt"),
        ("[functions.hello]\nsecret = ['A']", "functions.hello.secret", "secrets"),
        ("[ai]\npre_load = ['x']", "ai.pre_load", "preload"),
        ("[ai.model.a]\nprecision = 'int8'", "ai.model", "models"),
        ("[ai.models.a]\nprecison = 'int8'", "ai.models.a.precison", "precision"),
    ],
)
def test_an_unknown_key_names_the_nearest(text: str, key: str, nearest: str) -> None:
    message = refusal(text)
    assert message.startswith(f"{FILE}: {key}: ")
    assert f'did you mean "{nearest}"?' in message


def test_an_unknown_key_without_a_near_one_lists_the_known() -> None:
    assert "known are memory_mb, models, models_dir, preload, providers, threads" in refusal("[ai]\nzzz = 1")


@pytest.mark.parametrize(
    ("text", "key", "expected", "found"),
    [
        ("project_id = 7", "project_id", "a string", "7"),
        ("api = 1", "api", "a table", "1"),
        ("functions = []", "functions", "a table", "a list"),
        ("[functions]\nhello = false", "functions.hello", "a table", "false"),
        ("[edge_runtime]\nsecrets = 'x'", "edge_runtime.secrets", "a table", '"x"'),
        ("[edge_runtime]\ncors = 'x'", "edge_runtime.cors", "a table", '"x"'),
        ("[edge_runtime]\ndefaults = 5", "edge_runtime.defaults", "a table", "5"),
        ("[edge_runtime]\nmax_head_kb = 0", "edge_runtime.max_head_kb", "a whole number from 1 to 256", "0"),
        ("[api]\nport = '8000'", "api.port", "a port number from 0 to 65535", 'the string "8000"'),
        ("[api]\nport = 65536", "api.port", "a port number", "65536"),
        ("[api]\nport = -1", "api.port", "a port number", "-1"),
        ("[edge_runtime]\nenabled = 'yes'", "edge_runtime.enabled", "true or false", '"yes"'),
        ("[edge_runtime]\nenabled = {}", "edge_runtime.enabled", "true or false", "a table"),
        ("[edge_runtime]\npolicy = 'x'", "edge_runtime.policy", 'one of "per_worker", "oneshot"', '"x"'),
        ("[edge_runtime]\nprefix = 'fn'", "edge_runtime.prefix", 'a path that begins with "/"', '"fn"'),
        ("[edge_runtime]\nprefix = '/fn/'", "edge_runtime.prefix", "does not end with one", '"/fn/"'),
        ('[edge_runtime]\nprefix = "/fn\\n"', "edge_runtime.prefix", 'a path that begins with "/"', "/fn"),
        ("[edge_runtime]\nhost = ''", "edge_runtime.host", "not empty", '""'),
        ("[edge_runtime]\nhosts = 'a'", "edge_runtime.hosts", "a list of strings", '"a"'),
        ("[edge_runtime]\nhosts = ['a', 1]", "edge_runtime.hosts", "a list of strings", "contains 1"),
        ("[edge_runtime]\ntrusted_proxies = ['lb']", "edge_runtime.trusted_proxies", "addresses", '"lb"'),
        ("[edge_runtime]\nhead_s = -1", "edge_runtime.head_s", "a number from 0", "-1"),
        ("[edge_runtime]\nhead_s = nan", "edge_runtime.head_s", "a number from 0", "nan"),
        ("[edge_runtime]\nhead_s = inf", "edge_runtime.head_s", "a number from 0", "inf"),
        ("[edge_runtime]\nhead_s = true", "edge_runtime.head_s", "a number from 0", "true"),
        ("[edge_runtime]\nhead_s = 2026-01-01", "edge_runtime.head_s", "a number from 0", "2026-01-01"),
        ("[edge_runtime.cors]\nmax_age_s = 1.5", "edge_runtime.cors.max_age_s", "a whole number", "1.5"),
        ("[functions.a]\ncors = 'off'", "functions.a.cors", 'one of "host", "function"', '"off"'),
        ("[functions.a]\nretry = true", "functions.a.retry", 'one of "never", "idempotent"', "true"),
        ("[functions.a]\nsecrets = 'K'", "functions.a.secrets", "a list of strings", '"K"'),
        ("[auth]\nleeway_s = '5'", "auth.leeway_s", "a number from 0", '"5"'),
        ("[ai]\nthreads = 99999999999", "ai.threads", "a whole number from 0 to", "99999999999"),
        ("[ai]\nproviders = ['gpu']", "ai.providers", 'a list of some of "cpu", "cuda"', "gpu"),
        ("[ai]\nmodels = 'a'", "ai.models", "a table", '"a"'),
        ("[ai.models]\na = 'int8'", "ai.models.a", "a table", '"int8"'),
        (
            "[ai.models.a]\nprecision = 'fp16'",
            "ai.models.a.precision",
            'one of "fp32", "bf16", "int8"',
            '"fp16"',
        ),
    ],
)
def test_a_wrong_value_says_where_what_and_what_instead(
    text: str, key: str, expected: str, found: str
) -> None:
    message = refusal(text)
    assert message.startswith(f"{FILE}: {key}: expected ")
    problem, remedy = message.split("\n  → ")
    assert expected in problem
    assert found in problem.split(", found ")[1]
    assert remedy


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("table", ["edge_runtime.defaults", "functions.a"])
@pytest.mark.parametrize("value", ["-1", "'1'", "true"])
def test_no_limit_is_negative_or_anything_but_a_number(name: str, table: str, value: str) -> None:
    message = refusal(f"[{table}]\n{name} = {value}")
    assert f"{FILE}: {table}.{name}: expected a" in message


@pytest.mark.parametrize("name", NUMBERS)
def test_zero_switches_any_limit_off(name: str) -> None:
    assert getattr(parse(f"[edge_runtime.defaults]\n{name} = 0").limits, name) == 0


def test_fewer_workers_at_most_than_at_least_is_refused_where_it_was_written() -> None:
    message = refusal("[edge_runtime.defaults]\nmin_workers = 4\n[functions.a]\nmax_workers = 2")
    assert message.startswith(
        f"{FILE}: functions.a.max_workers: min_workers (4) is more than max_workers (2)"
    )
    assert "→ lower min_workers" in message


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("a = \n", "1:5"),
        ("a = 1\n[b\nc = 1", "2:3"),
        ("a = 1\nb = 'x", "2:7"),
        ("x = " + "[" * 100_000, "1:"),
        ("x = " + "1" * 5000, "1:"),
    ],
)
def test_a_syntax_error_has_its_line_and_column(text: str, position: str) -> None:
    message = refusal(text)
    assert message.startswith(f"{FILE}:{position}")
    assert "is not valid TOML" in message
    assert f"→ correct it at line {position.split(':')[0]}" in message


def test_windows_line_ends_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    file = tmp_path / "supabase" / "config.toml"
    file.parent.mkdir()
    file.write_bytes(b'\xef\xbb\xbfproject_id = "a"\r\n[api]\r\nport = 1\r\n')
    assert read_config(str(tmp_path), {}).settings["port"] == 1


def _folder(file: Path) -> None:
    file.mkdir()


def _loop(file: Path) -> None:
    file.symlink_to(file)


def _dangling(file: Path) -> None:
    file.symlink_to("nowhere")


def _latin_1(file: Path) -> None:
    file.write_bytes(b"# ok\nproject_id = '\xe9'")


@pytest.mark.parametrize(
    ("make", "problem", "remedy"),
    [
        (_folder, "cannot be read: Is a directory", "make it a plain file"),
        (_loop, "cannot be read: Too many levels", "make it a plain file"),
        (_dangling, "link to a file that does not exist", "restore its target"),
        (_latin_1, "is not UTF-8", "save it again as UTF-8"),
    ],
)
def test_an_unreadable_file_is_a_clear_error(tmp_path: Path, make: Any, problem: str, remedy: str) -> None:
    file = tmp_path / "supabase" / "config.toml"
    file.parent.mkdir()
    make(file)
    with pytest.raises(ConfigError) as error:
        read_config(str(tmp_path), {})
    message = str(error.value)
    assert message.startswith(str(file))
    assert problem in message
    assert f"→ {remedy}" in message
    assert make is not _latin_1 or f"{file}:2:" in message


def test_a_secret_that_the_environment_lacks_is_skipped_with_a_note() -> None:
    config = parse('[edge_runtime.secrets]\nA = "env(GONE)"\nB = "encrypted:xyz"\nC = "$HOME env(X)"')
    assert config.secrets == {"C": "$HOME env(X)"}
    assert any("A is skipped" in note and "GONE" in note for note in config.notes)
    assert any("B is skipped" in note and "env(B)" in note for note in config.notes)


@pytest.mark.parametrize(
    ("line", "problem", "remedy"),
    [
        ("PIN = 48151623", "expected a string, found one of type int", "put quotes"),
        ('PIN = ["48151623"]', "expected a string, found one of type list", "put quotes"),
        ('PIN = "48151623\\u0000"', "contains a NUL character", "base64"),
        ('"A B" = "48151623"', "no variable can have this name", "letters"),
    ],
)
def test_a_wrong_secret_is_named_but_not_shown(line: str, problem: str, remedy: str) -> None:
    message = refusal(f"[edge_runtime.secrets]\n{line}")
    assert message.startswith(f"{FILE}: edge_runtime.secrets.")
    assert problem in message
    assert remedy in message
    assert "48151623" not in message


def test_a_config_shows_no_secret_in_its_repr() -> None:
    assert "sk_live" not in repr(parse('[edge_runtime.secrets]\nA = "sk_live"'))
