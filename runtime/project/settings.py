"""Everything that can be set, as frozen structs.

Flags win over the environment, the environment over `supabase/config.toml`, that over
the defaults below. `runtime.project.load` builds them; nobody changes them afterwards:
a changed file makes a new `Project`. What a docstring says of a key is its row in
`docs/configuration.md`, which `make docs` writes.
"""

from __future__ import annotations

from typing import Literal

import msgspec

DEFAULT_MODEL = "gte-small"
"""What `ai.Session` is named with in Supabase's guides."""

MODEL_VARIABLE = "EMBEDDING_MODEL"

NO_MODEL = "none"
"""As `EMBEDDING_MODEL`: there is none, on purpose."""

LogFormat = Literal["auto", "plain", "json"]
Precision = Literal["fp32", "bf16", "int8"]
Provider = Literal["cpu", "cuda", "tensorrt", "migraphx", "openvino", "coreml"]


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
    prefix: str | None = None
    verify_jwt: bool | None = None
    log_format: LogFormat = "auto"


class Limits(Setting, frozen=True, kw_only=True):
    """`[functions.NAME]` over `[edge_runtime.defaults]`. 0 switches a limit off.

    Attributes:
        memory_mb: memory of one worker and all that it starts, in units of 1024 · 1024 bytes
        cpu_ms: processor time of one request; of a WebSocket, from one message to the next; of a worker that
            has no request, with all that it started, what it takes beyond a quarter of a core
        timeout_s: longest that a request may take, from its arrival at a worker to the last byte of the
            answer, and with it the work given to `wait_until`
        idle_s: longest silence: until the first byte of the answer, between its pieces, and between those
            of the request's body
        websocket_idle_s: longest time without a message on a WebSocket, either way
        max_body_mb: largest request body; a MB has a million bytes
        concurrency: requests and open WebSockets at a time in one worker; none: 100, and 8 for a plain `def`
        queue: requests that may wait for a worker
        queue_wait_s: how long they may wait
        boot_s: how long loading may take; waiting for a processor does not count
        tmp_mb: size of a worker's temporary folder, in the same units
        sandbox: `"landlock"`: of the disk a worker sees the system and its own folder alone; Linux only, see
            [Security](security.md#the-sandbox)
        min_workers: workers kept ready; with `policy = "oneshot"`, beside those that have a request
        max_workers: most workers; they come when requests wait for a slot. None: one per processor core, or
            100 with `policy = "oneshot"`
        max_requests: requests after which a worker is replaced; the next one is ready first
        max_age_s: age at which a worker is replaced, in seconds
        worker_idle_s: idle time after which a worker beyond `min_workers` ends
    """

    memory_mb: int = 512
    cpu_ms: int = 10_000
    timeout_s: float = 400
    idle_s: float = 150
    websocket_idle_s: float = 300
    max_body_mb: float = 50
    concurrency: int | None = None
    queue: int = 512
    queue_wait_s: float = 10
    boot_s: float = 10
    tmp_mb: int = 512
    sandbox: Literal["off", "landlock"] = "off"
    min_workers: int = 1
    max_workers: int | None = None
    max_requests: int = 0
    max_age_s: float = 0
    worker_idle_s: float = 60


class Function(Setting, frozen=True, kw_only=True):
    """One function on disk.

    Attributes:
        name: the folder's name, which is its address.
        directory: absolute; the folder `functions/NAME`.
        root: absolute; the project, where its static files may lie.
        enabled: `false`: the function answers 404
        verify_jwt: `false`: no key needed
        entrypoint: the file to load, inside the function's folder
        static_files: patterns of files from elsewhere in the project that belong to the function
        cors: `"function"`: the function answers preflights itself
        retry: `"idempotent"`: a request may be sent again after a crash
        secrets: names of the project's variables and keys that the function may see; none: all
        description: first line of the entry file's docstring.
    """

    name: str
    directory: str
    root: str = ""
    entrypoint: str = "index.py"
    enabled: bool = True
    verify_jwt: bool = True
    cors: Literal["host", "function"] = "host"
    retry: Literal["never", "idempotent"] = "never"
    secrets: tuple[str, ...] | None = None
    static_files: tuple[str, ...] = ()
    description: str = ""
    limits: Limits = Limits()


class Auth(Setting, frozen=True, kw_only=True):
    """`[auth]`: how tokens are checked. None: the claim is not looked at.

    Attributes:
        issuer: what `iss` of a token must be
        audience: what `aud` must contain
        leeway_s: tolerated difference between clocks, in seconds
    """

    issuer: str | None = None
    audience: str | None = None
    leeway_s: float = 0


class Cors(Setting, frozen=True, kw_only=True):
    """`[edge_runtime.cors]`: how the host answers preflights.

    Attributes:
        allow_origins: origins that may call
        allow_headers: request headers that they may send
        allow_methods: methods that they may use
        max_age_s: how long browsers may remember the answer, in seconds
    """

    allow_origins: tuple[str, ...] = ("*",)
    allow_headers: tuple[str, ...] = (
        "authorization",
        "x-client-info",
        "apikey",
        "content-type",
        "x-retry-count",
        "x-region",
        "traceparent",
        "tracestate",
        "baggage",
    )
    allow_methods: tuple[str, ...] = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    max_age_s: int = 86_400


class Model(Setting, frozen=True, kw_only=True):
    """`[ai.models.NAME]`: how one model is run.

    Attributes:
        precision: of its numbers: `"fp32"` is exact, `"bf16"` and `"int8"` are faster; see
            [AI models](ai.md#precision)
    """

    precision: Precision = "fp32"


class AI(Setting, frozen=True, kw_only=True):
    """`[ai]`: local models.

    Attributes:
        models_dir: where models are kept; empty: `$XDG_DATA_HOME/functions/models`
        preload: models loaded before the server is ready; none: `EMBEDDING_MODEL` of the env file,
            or gte-small
        threads: threads for inference; 0: one per processor core
        providers: what onnxruntime runs models on, the first one preferred: `"cpu"`, `"cuda"`,
            `"tensorrt"`, `"migraphx"`, `"openvino"`, `"coreml"`; the processor is always the last
        memory_mb: what loaded models may take together, by the size of their files; those not used
            for longest are unloaded; 0: no limit
        models: `[ai.models.NAME]` by name, or by the absolute path of a folder.
    """

    models_dir: str = ""
    preload: tuple[str, ...] | None = None
    threads: int = 0
    providers: tuple[Provider, ...] = ("cpu",)
    memory_mb: int = 0
    models: dict[str, Model] = {}

    @property
    def precisions(self) -> dict[str, Precision]:
        """Of the models that are not to run at "fp32"."""
        told = {name: model.precision for name, model in self.models.items()}
        return {name: precision for name, precision in told.items() if precision != "fp32"}


class Settings(Setting, frozen=True, kw_only=True):
    """The whole configuration.

    Attributes:
        project_id: the project's name
        root: absolute path of the project.
        port: where the server listens
        enabled: `false`: serve no function
        policy: `"oneshot"`: a fresh worker for each request
        host: the address to listen on
        prefix: where functions are; may be empty
        hosts: more host names to answer to on loopback, besides localhost, 127.0.0.1, [::1] and
            host.docker.internal
        trusted_proxies: addresses and networks whose `X-Forwarded-*` headers count
        max_head_kb: largest block of request headers; 256 at most
        head_s: seconds in which it must arrive
        shutdown_s: seconds that running requests get when the server stops
        max_workers_total: workers of all functions together, besides those that are leaving: a function
            whose requests wait gets an idle worker's place; 0: no limit
        memory_mb_total: memory of all workers together; over it none is added, idle ones beyond `min_workers`
            end, and the largest is replaced; 0: no limit
        inspector_port: kept for compatibility
        log_format: `"plain"` or `"json"`; `"auto"` is for people on a terminal
        verify_jwt: False: `--no-verify-jwt`, for every function.
        url: where functions find the project, as `SUPABASE_URL` says; empty: this server.
        env_file: the file that was read; None: there is none.
        test_limits: requests may bring limits of their own (FUNCTIONS_TEST_LIMITS=1).
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
    verify_jwt: bool | None = None
    url: str = ""
    env_file: str | None = None
    test_limits: bool = False
    auth: Auth = Auth()
    cors: Cors = Cors()
    ai: AI = AI()

    def needs_key(self, function: Function) -> bool:
        """Whether a request to this function has to bring a key."""
        return function.verify_jwt and self.verify_jwt is not False


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
        name = self.environment.get(MODEL_VARIABLE) or DEFAULT_MODEL
        return () if name == NO_MODEL else (name,)

    def __repr__(self) -> str:
        return f"Project({self.settings.root!r}, {sorted(self.functions)})"
