"""The vocabulary of the house: every message that one process sends another.

One struct per message, encoded as a msgpack array whose first element is the tag.
Grouped by the pair of processes that speak it; each group has its decoder at the end.
New fields go at the end with a default, so that two generations of the program
understand each other during an upgrade. `PROTOCOL` changes when that is impossible.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

PROTOCOL = 1

Headers = list[tuple[bytes, bytes]]


class Frame(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A message. Subclasses carry a tag of at most three letters."""


# --- gateway ↔ worker, one connection per request in flight --------------------------------


class Head(msgspec.Struct, tag="H", array_like=True, gc=False, kw_only=True):
    """Gateway → worker: a request or a WebSocket begins.

    Attributes:
        deadline: seconds of CLOCK_MONOTONIC (one clock for the whole machine) at which the
            host gives up; 0 means never. Set when it is the request's turn; of a WebSocket, what
            `wait_until` counts with, since it may itself stay open for ever.
        limit_s: seconds from then to the deadline, as they were set; 0: no limit.
        claims: the verified claims of the token; empty when the function asked for no check.
        path: percent-decoded, as the function shall see it; `root_path` is what was cut off.
        generation: the one that answers; set when it is the request's turn, so that a Head is
            the one frame that is not frozen.
        more: a body follows in `Body` frames.
        cpu_ms: another limit than the function's, for tests; None: the function's.
    """

    protocol: int = PROTOCOL
    kind: str = "http"  # or "websocket"
    request_id: str
    generation: str = ""
    method: str
    path: str
    raw_path: bytes
    query: bytes = b""
    headers: Headers
    root_path: str = ""
    scheme: str = "http"
    http_version: str = "1.1"
    client: tuple[str, int] | None = None
    server: tuple[str, int | None] | None = None
    traceparent: str = ""
    deadline: float = 0.0
    limit_s: float = 0.0
    claims: dict[str, Any] = {}
    subprotocols: list[str] = []
    more: bool = False
    cpu_ms: int | None = None


class Body(Frame, tag="B", frozen=True):
    """Both ways: a piece of a body; the last one has `more` false."""

    data: bytes
    more: bool = False


class Accepted(Frame, tag="A", frozen=True):
    """Worker → gateway: the handler is about to be called, and part of the body is still to come.

    It may be read on and need not be kept. Whether a request may be tried again is said by the
    ledger, and for requests that are all here this frame would wake the gateway for nothing.
    """


class Start(Frame, tag="S", frozen=True):
    """Worker → gateway: status and headers of the response."""

    status: int
    headers: Headers


class Failure(Frame, tag="F", frozen=True):
    """Worker → gateway: no (further) response will come.

    Before `Start` the gateway answers with the code's status; after it, it breaks the
    connection so that the client cannot take the stream for complete.

    Attributes:
        limit: key of the setting that was exceeded; empty: none.
    """

    code: str
    message: str
    limit: str = ""


class SocketAccept(Frame, tag="WA", frozen=True):
    """Worker → gateway: the WebSocket is accepted."""

    subprotocol: str | None = None
    headers: Headers = []


class SocketMessage(Frame, tag="WM", frozen=True):
    """Both ways: one WebSocket message; exactly one of the two is set."""

    text: str | None = None
    data: bytes | None = None


class SocketClose(Frame, tag="WC", frozen=True):
    """Both ways: the WebSocket is closed."""

    code: int = 1000
    reason: str = ""


# --- gateway ↔ worker, the worker's control socket -----------------------------------------


class ModelCard(Frame, tag="MC", frozen=True):
    """What a session must know of a local model without asking the engine."""

    name: str
    dimensions: int
    max_tokens: int
    kind: str = "embedding"


class Boot(Frame, tag="BT", frozen=True, kw_only=True):
    """Gateway → worker, with descriptors [snapshot, ledger, engine?]: become this function.

    The snapshot holds `msgpack({path: bytes})`; it is shared, so it is read with `pread`.
    `ledger` is the memory of `runtime.ledger`. The engine's is absent while the engine is down.
    """

    protocol: int = PROTOCOL
    function: str
    generation: str
    directory: str  # where the files came from, for tracebacks and `__file__`
    entrypoint: str  # path of the entry file inside the snapshot
    environ: dict[str, str]
    models: list[ModelCard] = []
    model_folders: str = ""  # relative model paths are resolved against this folder
    threads: int = 8  # how many calls of a plain `def` handler may run at once
    engine: bool = False
    cpu_ms: int = 0  # what one request may take of the processor; 0: no limit
    concurrency: int = 0  # requests at one time; this and the following: what the system enforces, 0: nothing
    memory_mb: int = 0
    tmp_mb: int = 0
    sandbox: str = "off"  # or "landlock"


class Ready(Frame, tag="RD", frozen=True):
    """Worker → gateway: the function is loaded and can take requests.

    Attributes:
        boot_ms: how long loading took.
        threaded: the handler is a plain `def`, run on threads.
    """

    boot_ms: float
    threaded: bool = False


class Loading(Frame, tag="LD", frozen=True):
    """Worker → gateway: this part of loading the function begins."""

    part: Literal["import", "startup", "lifespan"] = "import"


class BootFailed(Frame, tag="BF", frozen=True):
    """Worker → gateway: the function cannot be loaded."""

    message: str
    traceback: str = ""


class Connect(Frame, tag="CN", frozen=True):
    """With one descriptor: serve this connection.

    Gateway → worker: requests will come on it. Gateway → supervisor → engine: calls will.
    """

    name: str = ""
    slot: int = 0  # of the connection, see `runtime.ledger`


class EngineAt(Frame, tag="EA", frozen=True):
    """Gateway → worker, with one descriptor: the engine is reached here from now on."""

    models: list[ModelCard] = []


class Drain(Frame, tag="DR", frozen=True):
    """Finish what is in flight, then leave. `seconds` is the longest that it may take."""

    seconds: float
    reason: str = "reload"


class Unload(Frame, tag="UL", frozen=True):
    """Gateway → worker: a `Drain` will follow once the server has no request left; tell the function."""

    reason: str


class Held(Frame, tag="HL", frozen=True):
    """Worker → gateway: work of so many requests goes on, and takes their places, after their end."""

    count: int


class Spoiled(Frame, tag="SP", frozen=True):
    """Worker → gateway: it cannot be used any longer, for this reason; what it has may be finished."""

    reason: str
    request_id: str = ""  # of the request that is to blame


class Settled(Frame, tag="SD", frozen=True):
    """Worker → gateway: what made it say `Spoiled` has ended; it may leave like any other."""


class EngineMissing(Frame, tag="EM", frozen=True):
    """Worker → gateway: its connection to the engine is gone, and a call waits for another."""


class Drained(Frame, tag="DD", frozen=True):
    """Worker → gateway: nothing is in flight any more; the process ends now."""


# --- worker (and gateway, jobs) ↔ engine ---------------------------------------------------


class Embed(Frame, tag="E", frozen=True, kw_only=True):
    """To the engine: embed these texts. Answered by `Vectors` … and `Embedded`, or `Refused`.

    Attributes:
        dimensions: cut the vectors to so many numbers (before they are normalised), of a
            model that was trained for it; None: all of them.
        query: the texts are questions, for which some models want another prefix.
        turn: calls of one connection with the same number are parts of one, and have one turn
            together among all who wait; 0: it is by itself.
    """

    id: int
    model: str
    texts: list[str]
    mean_pool: bool = True
    normalize: bool = True
    dimensions: int | None = None
    query: bool = False
    turn: int = 0


class Cancel(Frame, tag="C", frozen=True):
    """To the engine: nobody waits for this call any more."""

    id: int


class Rank(Frame, tag="R", frozen=True, kw_only=True):
    """To the engine: how well each document answers the query. Answered by `Ranked`, or `Refused`.

    Attributes:
        turn: see `Embed`.
    """

    id: int
    model: str
    query: str
    documents: list[str]
    turn: int = 0


class Count(Frame, tag="N", frozen=True):
    """To the engine: how many tokens these texts have. Answered by `Counted`, or `Refused`."""

    id: int
    model: str
    texts: list[str]


class Vectors(Frame, tag="V", frozen=True):
    """From the engine: a piece of the result, but not the last: float32 little-endian rows in text order."""

    id: int
    data: bytes


class Embedded(Frame, tag="ED", frozen=True):
    """From the engine: the call is complete.

    Attributes:
        dimensions: length of one row.
        rows: rows per text: 1 each when pooled, else the number of its tokens.
        tokens: tokens per text as run, special tokens included.
        truncated: indices of the texts that were longer than the model's maximum.
        data: the last piece of the result; most calls have no other.
    """

    id: int
    dimensions: int
    rows: list[int]
    tokens: list[int]
    truncated: list[int]
    data: bytes = b""


class Ranked(Frame, tag="RK", frozen=True):
    """From the engine: the scores of a `Rank`.

    Attributes:
        data: float32 little-endian, one per document, in their order; more is better.
        tokens: tokens per pair as run, special tokens included.
        truncated: indices of the documents that were cut, or whose query was.
    """

    id: int
    data: bytes
    tokens: list[int]
    truncated: list[int]


class Counted(Frame, tag="ND", frozen=True):
    """From the engine: tokens per text, special ones and the model's prefix included.

    A text may have more than the model reads.
    """

    id: int
    tokens: list[int]


class Refused(Frame, tag="RF", frozen=True):
    """From the engine: the call failed with this code of `errors.HTTP`."""

    id: int
    code: str
    message: str


class Warm(Frame, tag="W", frozen=True):
    """To the engine: have this model loaded; answered by `Embedded` with no rows, or `Refused`."""

    id: int
    model: str


class Tensor(Frame, tag="T", frozen=True):
    """An array whose bytes come in `Piece` frames.

    Attributes:
        dtype: numpy's name of it, or "string".
        size: bytes of its data: little-endian numbers row by row, strings as a msgpack list.
    """

    name: str
    dtype: str
    shape: list[int]
    size: int


class Declared(Frame, tag="TD", frozen=True):
    """What a graph says of one of its inputs or outputs; None: a dimension that may vary."""

    name: str
    dtype: str
    shape: list[int | str | None]


class Open(Frame, tag="O", frozen=True):
    """To the engine: have the graph of this file loaded. Answered by `Opened`, or `Refused`.

    Attributes:
        paths: absolute; the first of them that exists is meant.
    """

    id: int
    paths: list[str]


class Run(Frame, tag="G", frozen=True, kw_only=True):
    """To the engine: run a graph. `Piece` frames follow. Answered by `Ran`, or `Refused`.

    Attributes:
        paths: see `Open`.
        tensors: the inputs, in the order of the pieces.
        outputs: names of those that are wanted; empty: all.
    """

    id: int
    paths: list[str]
    tensors: list[Tensor]
    outputs: list[str] = []


class Piece(Frame, tag="P", frozen=True):
    """Both ways: bytes of an array; none is of two arrays."""

    id: int
    data: bytes


class Opened(Frame, tag="OD", frozen=True):
    """From the engine: the graph is loaded."""

    id: int
    inputs: list[Declared]
    outputs: list[Declared]


class Ran(Frame, tag="GD", frozen=True):
    """From the engine: the graph has run. `Piece` frames follow; with the last one the call is complete."""

    id: int
    tensors: list[Tensor]


# --- supervisor ↔ gateway, engine, template ------------------------------------------------


class GatewayPlan(msgspec.Struct, frozen=True):
    """What a gateway works from: JSON of `project.settings.Options`, and the person's environment."""

    options: bytes
    environ: dict[str, str]


class GatewayBoot(Frame, tag="GB", frozen=True, kw_only=True):
    """Supervisor → gateway, with descriptors [plan, project?, listening sockets …].

    Attributes:
        restarts: how many gateways there were before.
        kept: the project as the last of them knew it comes along: see `Keep`.
        temp: the server's temp folder; each worker gets a folder inside.
    """

    restarts: int = 0
    color: bool = False
    temp: str = ""
    kept: bool = False


class Keep(Frame, tag="KP", frozen=True):
    """Gateway → supervisor, with one descriptor: the project that is in force (msgpack).

    The next gateway gets it, in case the files on disk are unreadable when it starts: a
    mistake in a file must not become an outage because a process died.
    """


class EngineBoot(Frame, tag="EB", frozen=True, kw_only=True):
    """Supervisor → engine.

    Attributes:
        root: the project's folder: the only place outside the store that models are read from.
        models_bytes: what models in memory may take together, by their files' sizes; those not
            used for longest are unloaded, but never one in use; 0: no bound.
        precisions: of models that are not to run at "fp32", by name.
        providers: what onnxruntime shall run models on; the processor is always the last.
    """

    root: str = ""
    models_dir: str = ""
    preload: list[str] = []
    threads: int = 0  # 0: one per core
    models_bytes: int = 0
    precisions: dict[str, str] = {}
    providers: list[str] = []


class TemplateBoot(Frame, tag="TB", frozen=True, kw_only=True):
    """Supervisor → template."""

    temp: str
    uid_base: int = 0  # 0: do not change the user
    users: int = 0  # how many there are from this one on


class Fork(Frame, tag="FK", frozen=True):
    """Gateway → supervisor → template, with descriptors [control, log]: make a worker.

    `slot` numbers the function: workers of one function share an unprivileged user.
    """

    token: int
    function: str
    slot: int
    memory_mb: int = 0  # 0: no limit


class Forked(Frame, tag="FD", frozen=True):
    """Template → supervisor → gateway: the worker exists. `pid` 0: it could not be made."""

    token: int
    pid: int
    message: str = ""


class Exited(Frame, tag="EX", frozen=True):
    """Supervisor → gateway: a worker is gone.

    Attributes:
        status: as `os.waitstatus_to_exitcode` has it.
        out_of_memory: the kernel ended it for that.
    """

    pid: int
    status: int
    out_of_memory: bool = False


class Kill(Frame, tag="KL", frozen=True):
    """Gateway → supervisor: end this worker now, and all it started.

    Attributes:
        dump: let it write its stacks first, see `Dump`.
    """

    pid: int
    dump: bool = False


class Dump(Frame, tag="DP", frozen=True):
    """Gateway → supervisor: have this worker write its threads' stacks into its ledger."""

    pid: int


class EngineDoor(Frame, tag="EG", frozen=True):
    """Supervisor → gateway, with one descriptor: a (new) engine is behind it."""


class Catalog(Frame, tag="CT", frozen=True):
    """Engine → gateway over that door: the models it can serve. `preloaded`: those now warm."""

    models: list[ModelCard]
    preloaded: list[str] = []
    failed: dict[str, str] = {}
    complete: bool = False  # the preload is over


class Told(Frame, tag="TL", frozen=True):
    """Engine or supervisor → gateway: a line for the log."""

    level: str
    message: str


class Up(Frame, tag="UP", frozen=True):
    """Gateway → supervisor: it accepts connections. `port` is the one it answers on."""

    port: int


class Stopped(Frame, tag="ST", frozen=True):
    """Gateway or template → supervisor: it cannot go on, for a reason a person must read."""

    message: str
    code: int


RequestFrame = Head | Body | SocketMessage | SocketClose
ResponseFrame = Accepted | Start | Body | Failure | SocketAccept | SocketMessage | SocketClose
ControlFrame = Boot | Connect | EngineAt | Unload | Drain
WorkerFrame = Loading | Ready | BootFailed | Held | Spoiled | Settled | EngineMissing | Drained
EngineCall = Embed | Rank | Count | Cancel | Warm | Open | Run | Piece
EngineAnswer = Vectors | Embedded | Ranked | Counted | Opened | Ran | Piece | Refused
EngineControl = EngineBoot | Connect | Drain
EngineToGateway = Catalog | Told
SupervisorToGateway = GatewayBoot | Forked | Exited | EngineDoor | Told | Drain
GatewayToSupervisor = Fork | Kill | Dump | Connect | Keep | Up | Stopped
SupervisorToTemplate = TemplateBoot | Fork
TemplateToSupervisor = Forked | Stopped
