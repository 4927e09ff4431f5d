from __future__ import annotations

import stat
import threading
from pathlib import Path

import jwt
import pytest

from runtime.errors import KeysError
from runtime.project.keys import load_keys
from runtime.project.secretfile import ensure_secret
from runtime.project.settings import Keys

SECRET = "0123456789abcdef0123456789abcdef"


def local(root: Path, **environ: str) -> Keys:
    return load_keys(str(root), environ, loopback=True)


def public(root: Path, **environ: str) -> Keys:
    return load_keys(str(root), environ, loopback=False)


def refusal(root: Path, **environ: str) -> str:
    with pytest.raises(KeysError) as error:
        public(root, **environ)
    return str(error.value)


def claims(token: str, secret: str) -> dict[str, object]:
    return jwt.decode(token, secret, algorithms=["HS256"])


def test_on_loopback_a_secret_is_made_and_kept(tmp_path: Path) -> None:
    first = local(tmp_path)
    assert first.generated
    assert len(first.jwt_secret) == 64
    assert local(tmp_path) == first
    file = tmp_path / "supabase/.functions/jwt_secret"
    assert file.read_text().strip() == first.jwt_secret
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert (file.parent / ".gitignore").read_text() == "*\n"
    assert sorted(path.name for path in file.parent.iterdir()) == [".gitignore", "jwt_secret"]


def test_two_projects_have_different_secrets(tmp_path: Path) -> None:
    assert local(tmp_path / "a").jwt_secret != local(tmp_path / "b").jwt_secret


def test_many_that_start_at_once_get_the_same_secret(tmp_path: Path) -> None:
    barrier, found = threading.Barrier(8), []

    def start() -> None:
        barrier.wait()
        found.append(ensure_secret(str(tmp_path)))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_an_emptied_secret_file_is_made_anew(tmp_path: Path) -> None:
    first = ensure_secret(str(tmp_path))
    (tmp_path / "supabase/.functions/jwt_secret").write_text("")
    second = ensure_secret(str(tmp_path))
    assert second not in ("", first)
    assert ensure_secret(str(tmp_path)) == second


@pytest.mark.parametrize("obstacle", ["supabase", "supabase/.functions"])
def test_where_no_secret_can_be_kept_the_error_says_to_set_one(tmp_path: Path, obstacle: str) -> None:
    path = tmp_path / obstacle
    path.parent.mkdir(exist_ok=True)
    path.write_text("a file is in the way")
    with pytest.raises(KeysError) as error:
        local(tmp_path)
    message = str(error.value)
    assert message.startswith(str(tmp_path / "supabase/.functions/jwt_secret"))
    assert "set JWT_SECRET (`openssl rand -hex 32` makes one)" in message
    assert local(tmp_path, JWT_SECRET="short").jwt_secret == "short"


def test_a_secret_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    ensure_secret(str(tmp_path))
    (tmp_path / "supabase/.functions/jwt_secret").write_bytes(b"\xff\xfe")
    with pytest.raises(KeysError, match=r"jwt_secret: .*it is not text\n  → .*JWT_SECRET"):
        ensure_secret(str(tmp_path))


def test_the_environment_wins_and_nothing_is_written(tmp_path: Path) -> None:
    keys = local(tmp_path, JWT_SECRET=SECRET)
    assert keys.jwt_secret == SECRET
    assert not keys.generated
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("secret", [SECRET, "short", "ünï"])
def test_role_keys_are_tokens_signed_with_the_secret(tmp_path: Path, secret: str) -> None:
    keys = local(tmp_path, JWT_SECRET=secret)
    with pytest.warns(jwt.InsecureKeyLengthWarning) if secret != SECRET else _nothing():
        anon, service = claims(keys.anon_key, secret), claims(keys.service_role_key, secret)
    assert (anon["role"], service["role"]) == ("anon", "service_role")
    assert {"iss", "iat", "exp"} <= anon.keys()
    assert local(tmp_path, JWT_SECRET=secret) == keys


class _nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def test_local_sb_keys_follow_the_secret_and_do_not_show_it(tmp_path: Path) -> None:
    keys = local(tmp_path, JWT_SECRET=SECRET)
    (publishable,), (secret,) = keys.publishable, keys.secret
    assert publishable.startswith("sb_publishable_")
    assert len(publishable) == len("sb_publishable_") + 22
    assert secret.startswith("sb_secret_")
    assert len(secret) >= len("sb_secret_") + 22
    assert publishable[15:] not in secret
    other = local(tmp_path, JWT_SECRET=SECRET[::-1])
    assert {publishable, secret}.isdisjoint(other.publishable + other.secret)


def test_given_keys_are_kept(tmp_path: Path) -> None:
    keys = local(
        tmp_path,
        SUPABASE_ANON_KEY="anon",
        SUPABASE_SERVICE_ROLE_KEY="service",
        SUPABASE_PUBLISHABLE_KEY="p1",
        SUPABASE_SECRET_KEYS='{"web": "s2", "default": "s1", "same": "s2"}',
    )
    assert (keys.anon_key, keys.service_role_key) == ("anon", "service")
    assert keys.publishable == ("p1",)
    assert keys.secret == ("s1", "s2")
    assert keys.generated


def test_single_and_named_keys_add_up(tmp_path: Path) -> None:
    keys = local(tmp_path, SUPABASE_PUBLISHABLE_KEY="p0", SUPABASE_PUBLISHABLE_KEYS='{"default": "p1"}')
    assert keys.publishable == ("p0", "p1")


@pytest.mark.parametrize("name", ["SUPABASE_PUBLISHABLE_KEYS", "SUPABASE_SECRET_KEYS"])
@pytest.mark.parametrize(
    "value", ["hunter2", '["hunter2"]', '{"default": 1, "x": "hunter2"}', "{hunter2", "\udcff"]
)
def test_named_keys_that_are_no_object_are_named_and_not_shown(tmp_path: Path, name: str, value: str) -> None:
    message = refusal(tmp_path, JWT_SECRET=SECRET, **{name: value})
    assert message.startswith(f"{name}: is not a JSON object")
    assert "→ write SUPABASE_" in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("secret", "problem"),
    [
        ("", "is not set"),
        ("x" * 31, "is shorter than 32 bytes"),
        ("super-secret-jwt-token-with-at-least-32-characters-long", "published demo secret"),
        ("your-super-secret-jwt-token-with-at-least-32-characters-long", "published demo secret"),
        (
            "-----BEGIN PUBLIC KEY-----\nabcdefghijklmnopqrstuvwxyz\n-----END PUBLIC KEY-----",
            "asymmetric key",
        ),
        ("\udcff" * 40, "is not UTF-8"),
    ],
)
def test_outside_loopback_a_weak_secret_is_refused(tmp_path: Path, secret: str, problem: str) -> None:
    message = refusal(tmp_path, JWT_SECRET=secret)
    assert message.startswith("JWT_SECRET: ")
    assert problem in message
    assert "→ make one with `openssl rand -hex 32`" in message
    assert not secret or secret not in message
    assert list(tmp_path.iterdir()) == []


def test_thirty_two_bytes_are_enough_even_as_fewer_characters(tmp_path: Path) -> None:
    keys = public(tmp_path, JWT_SECRET="é" * 16)
    assert claims(keys.anon_key, keys.jwt_secret)["role"] == "anon"
    assert keys.publishable == keys.secret == ()


def test_outside_loopback_a_key_set_is_enough(tmp_path: Path) -> None:
    keys = public(tmp_path, SUPABASE_JWKS='{"keys": []}')
    assert (keys.jwt_secret, keys.anon_key, keys.service_role_key) == ("", "", "")
    assert not keys.generated
    with pytest.raises(KeysError, match="JWT_SECRET: is shorter"):
        public(tmp_path, SUPABASE_JWKS='{"keys": []}', JWT_SECRET="short")


KEY_SET: dict[str, object] = {"keys": [{"kty": "EC", "kid": "1"}]}


@pytest.mark.parametrize(
    ("value", "jwks", "url"),
    [
        ('{"keys": [{"kty": "EC", "kid": "1"}]}', KEY_SET, None),
        (' \n{"keys": [{"kty": "EC", "kid": "1"}]} ', KEY_SET, None),
        ("keys/jwks.json", KEY_SET, None),
        ("https://id.example/jwks.json", None, "https://id.example/jwks.json"),
        ("HTTP://id.example/jwks.json", None, "HTTP://id.example/jwks.json"),
        ("", None, None),
    ],
)
def test_a_key_set_is_text_a_file_or_a_url(
    tmp_path: Path, value: str, jwks: dict[str, object] | None, url: str | None
) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/jwks.json").write_text('{"keys": [{"kty": "EC", "kid": "1"}]}')
    keys = public(tmp_path, JWT_SECRET=SECRET, SUPABASE_JWKS=value)
    assert (keys.jwks, keys.jwks_url) == (jwks, url)


@pytest.mark.parametrize(
    "value",
    [
        "{hunter2",
        '["hunter2"]',
        '{"keys": "hunter2"}',
        '{"keys": {"kty": "hunter2"}}',
        '{"keys": [{"kid": "hunter2"}]}',
        '{"keys": ["hunter2"]}',
        '{"hunter2": []}',
        '{"keys": [], "\udcff": 1}',
        "hunter2.json",
        "hunter2\0",
    ],
)
def test_a_broken_key_set_is_named_and_not_shown(tmp_path: Path, value: str) -> None:
    message = refusal(tmp_path, SUPABASE_JWKS=value, JWT_SECRET=SECRET)
    assert message.startswith("SUPABASE_JWKS: is n")
    assert '→ set it to {"keys": […]}' in message
    assert "hunter2" not in message


def test_keys_show_nothing_in_their_repr(tmp_path: Path) -> None:
    keys = local(tmp_path)
    assert keys.jwt_secret not in f"{keys} {keys!r}"
