"""Everything that can be set, as frozen structs.

Flags win over the environment, the environment over `supabase/config.toml`, that over
the defaults below. `runtime.project.load` builds them; nobody changes them afterwards:
a changed file makes a new `Project`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

DEFAULT_MODEL = "gte-small"
"""What `ai.Session` is named with in Supabase's guides."""

LogFormat = Literal["auto", "plain", "json"]


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """A group of settings."""


class Options(Setting, frozen=True, kw_only=True):
    """What the command line said. None: not said there.

    Attributes:
        root: absolute path of the project: the folder that holds `functions/` or `supabase/`.
        env_file: as typed, made absolute; None means `supabase/functions/.env` if it exists.
    """

    root: str
    env_file: str | None = None
    host: str | None = None
    port: int | None = None
    verify_jwt: bool | None = None
    log_format: LogFormat = "auto"


class Limits(Setting, frozen=True, kw_only=True):
    """`[functions.NAME]` over `[edge_runtime.defaults]`. 0 switches a limit off."""

    memory_mb: int = 512
    cpu_ms: int = 10_000
    timeout_s: float = 400
    idle_s: float = 150
    websocket_idle_s: float = 300
    max_body_mb: float = 50
    concurrency: int | None = None  # None: 100, and 8 for a plain `def`
    queue: int = 512
    queue_wait_s: float = 10
    boot_s: float = 10
    tmp_mb: int = 512
    min_workers: int = 1
    max_workers: int | None = None  # None: one per core


class Function(Setting, frozen=True, kw_only=True):
    """One function on disk.

    Attributes:
        directory: absolute; the folder `functions/NAME`.
        entrypoint: the entry file, relative to `directory`.
        secrets: names that the function may see of the project's; None: all.
    """

    name: str
    directory: str
    entrypoint: str = "index.py"
    enabled: bool = True
    verify_jwt: bool = True
    cors: Literal["host", "function"] = "host"
    retry: Literal["never", "idempotent"] = "never"
    secrets: tuple[str, ...] | None = None
    static_files: tuple[str, ...] = ()
    description: str = ""  # first line of the entry file's docstring
    limits: Limits = Limits()


class Auth(Setting, frozen=True, kw_only=True):
    """`[auth]`: how tokens are checked. None: the claim is not looked at."""

    issuer: str | None = None
    audience: str | None = None
    leeway_s: float = 0


class Cors(Setting, frozen=True, kw_only=True):
    """`[edge_runtime.cors]`: how the host answers preflights."""

    allow_origins: tuple[str, ...] = ("*",)
    allow_headers: tuple[str, ...] = (
        "authorization",
        "x-client-info",
        "apikey",
        "content-type",
        "x-retry-count",
        "traceparent",
        "tracestate",
        "baggage",
    )
    allow_methods: tuple[str, ...] = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    max_age_s: int = 86_400


class AI(Setting, frozen=True, kw_only=True):
    """`[ai]`: local models.

    Attributes:
        models_dir: the model store; empty: `$XDG_DATA_HOME/functions/models`.
        preload: models loaded and warmed before the server is ready; None: the value of
            `EMBEDDING_MODEL` in the env file, else `gte-small`, whichever the store has.
        threads: worker threads of the engine; 0: one per core.
    """

    models_dir: str = ""
    preload: tuple[str, ...] | None = None
    threads: int = 0


class Settings(Setting, frozen=True, kw_only=True):
    """The whole configuration.

    Attributes:
        hosts: host names served on loopback besides localhost, 127.0.0.1, [::1] and
            host.docker.internal.
        trusted_proxies: addresses whose `X-Forwarded-*` headers count.
        prefix: where functions live; may be empty.
    """

    project_id: str = ""
    root: str
    host: str = "127.0.0.1"
    port: int = 54321
    prefix: str = "/functions/v1"
    enabled: bool = True
    policy: Literal["per_worker", "oneshot"] = "per_worker"
    hosts: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    max_head_kb: int = 64
    head_s: float = 10
    shutdown_s: float = 10
    max_workers_total: int = 0
    memory_mb_total: int = 0
    inspector_port: int = 8083
    log_format: LogFormat = "auto"
    verify_jwt: bool | None = None  # False: --no-verify-jwt, for every function
    env_file: str | None = None  # the file that was read
    auth: Auth = Auth()
    cors: Cors = Cors()
    ai: AI = AI()


class Keys(Setting, frozen=True, kw_only=True):
    """Who may call. Never logged; `repr` shows no value.

    Attributes:
        jwt_secret: HS256 secret; empty: HS256 tokens are refused.
        jwks: the key set given in the environment, already parsed.
        jwks_url: where to fetch one; None: nowhere.
        publishable: `sb_publishable_…` keys, standing for the anon role.
        secret: `sb_secret_…` keys, standing for the service role.
        generated: made by us on first use, for local development only.
    """

    jwt_secret: str
    anon_key: str
    service_role_key: str
    publishable: tuple[str, ...] = ()
    secret: tuple[str, ...] = ()
    jwks: dict[str, object] | None = None
    jwks_url: str | None = None
    generated: bool = False

    def __repr__(self) -> str:
        return "Keys(…)"


class Project(Setting, frozen=True, kw_only=True):
    """A project as it was on disk at one moment.

    Attributes:
        functions: by name, enabled or not.
        environment: variables of the env file over `[edge_runtime.secrets]`; no function
            sees them but through `environment_of`.
        notes: things a person should know once: skipped keys, skipped names.
    """

    settings: Settings
    functions: dict[str, Function]
    environment: dict[str, str]
    keys: Keys
    notes: tuple[str, ...] = ()

    @property
    def preload(self) -> tuple[str, ...]:
        """The models to load at the start."""
        if self.settings.ai.preload is not None:
            return self.settings.ai.preload
        return (self.environment.get("EMBEDDING_MODEL") or DEFAULT_MODEL,)

    def __repr__(self) -> str:
        return f"Project({self.settings.root!r}, {sorted(self.functions)})"
