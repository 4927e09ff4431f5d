"""Every error of ours: one tree, one table from error to HTTP.

    FunctionsError
    ├── UsageError                 the person at the terminal has to change something (exit 2)
    │   ├── ConfigError            supabase/config.toml
    │   ├── EnvFileError           an env file
    │   ├── KeysError              the signing secret, a key, a JWKS
    │   └── FunctionNameError      `functions new`
    ├── StartError                 could not start (exit 3): port taken, model broken …
    │   └── HubError               the model hub did not give what was asked for (HubRefused)
    ├── HostError                  answered by the gateway instead of the function
    │   ├── NotFound, Unauthorized …, BootError, WorkerError, InvalidResponse
    │   ├── WorkerLimit, IdleTimeout, PayloadTooLarge, HeadersTooLarge
    │   ├── RequestTimeout (HeadTimeout, BodyTimeout)
    │   └── Overloaded, ShuttingDown, BadRequest (InvalidJSON, InvalidForm), Reported
    ├── AIError                    raised inside a handler by `ai`
    │   ├── ModelNotFound, ModelBroken, InvalidInput (InputTooLarge), InvalidMode
    │   ├── InferenceTimeout, EngineUnavailable
    │   └── UpstreamError (HostUnreachable), IncompleteStream, HostNotConfigured
    └── ChannelError               the corridor between two processes
        ├── ChannelClosed
        └── FrameError

An error that reaches a client becomes the body
``{"code", "message", "msg", "request_id"}`` with the status of `HTTP`.
A class that is not in the table answers as its nearest ancestor that is.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple


class FunctionsError(Exception):
    """Something went wrong inside the runtime.

    Attributes:
        public: what an HTTP client is told of it; the message, unless that names files of the server.
    """

    default: ClassVar[str] = ""

    def __init__(self, message: str = "") -> None:
        said = type(self).__doc__ or FunctionsError.__doc__ or ""
        self.message = message or self.default or said.strip().partition("\n")[0]
        self.public = self.message
        super().__init__(self.message)


# --- the person at the terminal ------------------------------------------------------------


class UsageError(FunctionsError):
    """A setting or an argument is wrong.

    Args:
        what: what was wrong, one sentence.
        where: file, key or flag, as a person would look for it; may be empty.
        remedy: the next step, one sentence; may be empty.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = what, where, remedy
        place = f"{where}: " if where else ""
        step = f"\n  → {remedy}" if remedy else ""
        super().__init__(f"{place}{what}{step}")


class ConfigError(UsageError):
    """`supabase/config.toml` is wrong."""


class EnvFileError(UsageError):
    """An env file is wrong."""


class KeysError(UsageError):
    """A signing secret or key is unusable."""


class FunctionNameError(UsageError):
    """A function cannot have this name."""


class StartError(UsageError):
    """The server could not start."""

    exit_code: ClassVar[int] = 3


class HubError(StartError):
    """The model hub did not give what was asked for."""


class HubRefused(HubError):
    """The model hub does not give it to whoever asks, now or later."""


# --- answered by the host ------------------------------------------------------------------


class HostError(FunctionsError):
    """The server could not answer this request.

    Args:
        limit: key of the setting that was exceeded; empty: none.
    """

    def __init__(self, message: str = "", *, limit: str = "") -> None:
        super().__init__(message)
        self.limit = limit


class BadRequest(HostError):
    """The request could not be understood."""


class InvalidJSON(BadRequest, ValueError):
    """The request body is not valid JSON."""


class InvalidForm(BadRequest, ValueError):
    """The request body is not a valid form."""


class NotFound(HostError):
    """No such function."""

    default = "Function not found"


class Unauthorized(HostError):
    """The credentials were not accepted."""


class NoCredentials(Unauthorized):
    """Missing authorization header."""

    default = "Missing authorization header"


class MalformedToken(Unauthorized):
    """Invalid JWT format."""

    default = "Invalid JWT format"


class BadSymmetricToken(Unauthorized):
    """A token signed with the shared secret (HS256) does not verify."""

    default = "Invalid JWT"


class BadAsymmetricToken(Unauthorized):
    """A token signed with a private key (ES256, RS256, EdDSA) does not verify."""

    default = "Invalid JWT"


class ExpiredToken(Unauthorized):
    """JWT expired."""

    default = "JWT expired"


class UnsupportedAlgorithm(Unauthorized):
    """The token's algorithm is not accepted."""

    default = "Unsupported JWT algorithm"


class BootError(HostError):
    """The function did not start."""

    default = "Function failed to start (please check the logs)"


class WorkerError(HostError):
    """The function failed."""

    default = "Function exited due to an error (please check the logs)"


class InvalidResponse(HostError):
    """The function returned something that is no response."""

    default = "Function returned a value that is not a response (please check the logs)"


class WorkerLimit(HostError):
    """The function hit one of its limits."""

    default = "Function hit a resource limit (please check the logs)"


def cpu_exceeded(limit_ms: int) -> WorkerLimit:
    """What worker and gateway, whichever notices, say of a request that took too much CPU."""
    return WorkerLimit(f"The request took more than {limit_ms} ms of CPU (cpu_ms)", limit="cpu_ms")


def memory_exceeded(limit_mb: int) -> WorkerLimit:
    """What they say of one that took too much memory."""
    text = f"The function's worker took more than {limit_mb} MB of memory (memory_mb)"
    return WorkerLimit(text, limit="memory_mb")


def storage_exceeded(limit_mb: int) -> WorkerLimit:
    """What they say of one that filled its temporary folder."""
    text = f"The function's worker filled its temporary folder with more than {limit_mb} MB (tmp_mb)"
    return WorkerLimit(text, limit="tmp_mb")


class IdleTimeout(HostError):
    """The function sent no first byte in time."""

    default = "Function sent no response within the idle limit"


class PayloadTooLarge(HostError):
    """The request body is over the limit."""


class HeadersTooLarge(HostError):
    """The request's headers are over the limit."""


class RequestTimeout(HostError):
    """The request did not arrive in time."""


class HeadTimeout(RequestTimeout):
    """The request's headers did not arrive in time."""


class BodyTimeout(RequestTimeout):
    """The request's body did not arrive in time."""


class Overloaded(HostError):
    """Too many requests are waiting for this function."""

    default = "Too many requests are waiting for this function; try again shortly"


class ShuttingDown(HostError):
    """The server is shutting down."""

    default = "The server is shutting down; try again shortly"


class Reported(HostError):
    """A failure that a worker reported by its code."""

    def __init__(self, code: str, message: str, *, limit: str = "") -> None:
        self.code = code
        super().__init__(message, limit=limit)


# --- raised inside a handler ---------------------------------------------------------------


class AIError(FunctionsError):
    """Inference failed."""


class ModelNotFound(AIError):
    """No such model."""


class ModelBroken(AIError):
    """The model cannot be loaded."""


class InvalidInput(AIError, ValueError):
    """The input cannot be embedded or sent to a model."""


class InputTooLarge(InvalidInput):
    """The input is larger than one call may carry."""


class InvalidMode(AIError, ValueError):
    """Unknown `mode`: use "ollama" or "openaicompatible"."""


class InferenceTimeout(AIError, TimeoutError):
    """The model did not answer in time."""


class EngineUnavailable(AIError):
    """The inference engine is not running."""


class HostNotConfigured(AIError):
    """`AI_INFERENCE_API_HOST` is not set."""


class IncompleteStream(AIError):
    """The model's stream ended without its closing event."""


class UpstreamError(AIError):
    """The LLM server answered with an error.

    Args:
        status: its HTTP status; 0 when the error came inside a stream.
        body: what it said, cut to a readable length and without secrets.
    """

    def __init__(self, status: int, body: str) -> None:
        self.status, self.body = status, body
        where = f"status {status}" if status else "an error inside the stream"
        super().__init__(f"The LLM server answered with {where}: {body}")


class HostUnreachable(AIError, ConnectionError):
    """The LLM server cannot be reached."""


# --- between processes ---------------------------------------------------------------------


class ChannelError(FunctionsError):
    """The connection between two processes failed."""


class ChannelClosed(ChannelError):
    """The other process closed the connection."""


class FrameError(ChannelError):
    """A frame is too long or makes no sense."""


class Rule(NamedTuple):
    """How an error looks over HTTP."""

    status: int
    code: str


HTTP: dict[type[FunctionsError], Rule] = {
    FunctionsError: Rule(500, "INTERNAL_ERROR"),
    BadRequest: Rule(400, "BAD_REQUEST"),
    NotFound: Rule(404, "NOT_FOUND"),
    Unauthorized: Rule(401, "UNAUTHORIZED"),
    NoCredentials: Rule(401, "UNAUTHORIZED_NO_AUTH_HEADER"),
    MalformedToken: Rule(401, "UNAUTHORIZED_INVALID_JWT_FORMAT"),
    BadSymmetricToken: Rule(401, "UNAUTHORIZED_LEGACY_JWT"),
    BadAsymmetricToken: Rule(401, "UNAUTHORIZED_ASYMMETRIC_JWT"),
    ExpiredToken: Rule(401, "UNAUTHORIZED_JWT_EXPIRED"),
    UnsupportedAlgorithm: Rule(401, "UNAUTHORIZED_UNSUPPORTED_TOKEN_ALGORITHM"),
    BootError: Rule(503, "BOOT_ERROR"),
    WorkerError: Rule(500, "WORKER_ERROR"),
    InvalidResponse: Rule(502, "INVALID_RESPONSE"),
    WorkerLimit: Rule(546, "WORKER_LIMIT"),
    IdleTimeout: Rule(504, "IDLE_TIMEOUT"),
    PayloadTooLarge: Rule(413, "PAYLOAD_TOO_LARGE"),
    HeadersTooLarge: Rule(431, "HEADERS_TOO_LARGE"),
    RequestTimeout: Rule(408, "REQUEST_TIMEOUT"),
    Overloaded: Rule(429, "OVERLOADED"),
    ShuttingDown: Rule(503, "SHUTTING_DOWN"),
    ModelNotFound: Rule(500, "MODEL_NOT_FOUND"),
    ModelBroken: Rule(500, "MODEL_BROKEN"),
    InvalidInput: Rule(400, "INVALID_INPUT"),
    InputTooLarge: Rule(413, "INPUT_TOO_LARGE"),
    InferenceTimeout: Rule(504, "INFERENCE_TIMEOUT"),
    EngineUnavailable: Rule(503, "ENGINE_UNAVAILABLE"),
    HostNotConfigured: Rule(503, "AI_HOST_NOT_CONFIGURED"),
    HostUnreachable: Rule(503, "AI_HOST_UNREACHABLE"),
    UpstreamError: Rule(502, "UPSTREAM_ERROR"),
    IncompleteStream: Rule(502, "INCOMPLETE_STREAM"),
}

STATUS: dict[str, int] = {rule.code: rule.status for rule in HTTP.values()}
"""Status by code, for failures that a worker reports."""


def rule_of(error: FunctionsError) -> Rule:
    """The row of `HTTP` for an error: its own class's, or its nearest ancestor's."""
    if isinstance(error, Reported):
        return Rule(STATUS.get(error.code, 500), error.code)
    return next(HTTP[kind] for kind in type(error).__mro__ if kind in HTTP)
