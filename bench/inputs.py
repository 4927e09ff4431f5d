"""What clients send that no client should: inputs for the fuzz, each made from a seed and its number.

The shapes come from the grammar of RFC 9112 and RFC 6455, from what other servers were
broken by (llhttp, h11, gunicorn, aiohttp, waitress, Kestrel, Go, Starlette, edge-runtime),
and from changing all of those at random.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
import struct
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeVar

from bench import shapes
from bench.shapes import END, KEY, PREFIX

NEVER = PREFIX + b"/never"
"""Only the second request that hides in an ambiguous one asks for it: nobody may be answered by it."""

T = TypeVar("T")
Expected = Literal["anything", "success", "refusal"]


class Input(NamedTuple):
    """What one connection sends.

    Attributes:
        number: which one it is; also in its `sb-request-id`, if that survived.
        pieces: each is sent by itself.
        waits: the first of them is to be answered before the others are sent.
        expected: "refusal" is a 4xx for the whole of it, or a close.
    """

    number: int
    pieces: tuple[bytes, ...]
    expected: Expected
    waits: bool = False


class Credentials(NamedTuple):
    """What a server of the fuzz was given."""

    secret: bytes
    token: bytes


class Maker:
    """Makes one input.

    Args:
        chance: every choice in it.
    """

    def __init__(self, seed: int, number: int, credentials: Credentials) -> None:
        self.chance = random.Random(f"{seed}:{number}")
        self._number, self._credentials = number, credentials

    def make(self) -> Input:
        """The input of this seed and number."""
        if self.chance.random() < 0.12:
            head, *pieces = self.websocket()
            return Input(self._number, (head, *pieces), "anything", waits=True)
        kinds: list[tuple[Callable[[], bytes], Expected]] = [
            (self.valid, "success"),
            (lambda: self.ambiguous(NEVER), "refusal"),
            (self.request, "anything"),
            (self.mutated, "anything"),
            (self.noise, "anything"),
        ]
        ((make, expected),) = self.chance.choices(kinds, (6, 16, 44, 29, 5))
        data = make()
        if expected == "anything" and self.chance.random() < 0.12:
            data = data[: self.chance.randrange(len(data) + 1)]
        return Input(self._number, tuple(self._cut(data)), expected)

    def _cut(self, data: bytes) -> list[bytes]:
        if self.chance.random() < 0.7 or len(data) < 2:
            return [data]
        places = sorted(
            self.chance.sample(range(1, len(data)), min(self.chance.randint(1, 5), len(data) - 1))
        )
        return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]

    def pick(self, options: Sequence[T]) -> T:
        """One of them."""
        return self.chance.choice(options)

    def some(self, most: int = 40) -> bytes:
        return self.chance.randbytes(self.chance.randint(0, most))

    # --- what is fine ----------------------------------------------------------------------

    def valid(self) -> bytes:
        """A request as clients send it."""
        body = json.dumps({"name": "x" * self.chance.randint(0, 200)}).encode()
        function = self.pick([b"/open", b"/open/some/where?x=1", b"/locked", b"/hello"])
        lines = [b"Authorization: Bearer " + self._credentials.token, b"Accept: */*"]
        if self.chance.random() < 0.5:
            return self.head(b"POST", PREFIX + function, [*lines, b"Content-Length: %d" % len(body)]) + body
        chunked = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in self._cut(body))
        return self.head(b"POST", PREFIX + function, [*lines, b"Transfer-Encoding: chunked"]) + chunked + END

    def head(self, method: bytes, target: bytes, lines: Sequence[bytes], host: bytes = b"localhost") -> bytes:
        named = [b"Host: " + host, b"sb-request-id: fuzz-%d" % self._number, *lines]
        return b"\r\n".join([method + b" " + target + b" HTTP/1.1", *named, b"", b""])

    # --- what two readers could understand differently -------------------------------------

    def ambiguous(self, hidden: bytes) -> bytes:
        """A message in which one reader sees a second request, for `hidden`, and another does not."""
        inner = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % hidden
        kind = self.pick((self._two_lengths, self._odd_chunks, self._odd_lines, self._odd_host))
        data: bytes = kind(inner)
        return data

    def _two_lengths(self, inner: bytes) -> bytes:
        lines: tuple[bytes, ...] = self.pick(shapes.FRAMINGS)
        return self.head(b"POST", PREFIX + b"/open", lines) + END + inner

    def _odd_chunks(self, inner: bytes) -> bytes:
        chunks: bytes = self.pick(shapes.CHUNKS)
        return self.head(b"POST", PREFIX + b"/open", [b"Transfer-Encoding: chunked"]) + chunks + END + inner

    def _odd_lines(self, inner: bytes) -> bytes:
        head: bytes = self.pick(shapes.HEADS)
        return head.replace(b"ID", b"fuzz-%d" % self._number) + inner

    def _odd_host(self, inner: bytes) -> bytes:
        """No second request: where this one ends is clear."""
        return self.head(b"GET", PREFIX + b"/open", [], self.pick(shapes.ODD_HOSTS))

    # --- what is strange -------------------------------------------------------------------

    def request(self) -> bytes:
        """By the grammar, with strange parts."""
        method = self.pick(shapes.METHODS)
        function = self.pick([b"/open", b"/open", b"/locked", b"/hello", b"/upload", b"/app", b"/echo"])
        target = PREFIX + function if self.chance.random() < 0.5 else self.target()
        lines = [self.line() for _ in range(self.pick([0, 1, 1, 2, 5]))]
        if self.chance.random() < 0.5:
            lines.append(b"Authorization: " + self.authorization())
        if self.chance.random() < 0.02:
            lines += self.flood()
        body, framing = self.body()
        host = self.pick(shapes.HOSTS) if self.chance.random() < 0.04 else b"localhost"
        data = self.head(method, target, [*lines, *framing], host) + body
        return data + self.request() if self.chance.random() < 0.1 else data

    def target(self) -> bytes:
        """A request target that names no function, or one in an odd way."""
        segments = [self.pick(shapes.SEGMENTS) for _ in range(self.chance.randint(0, 6))]
        path = self.pick(shapes.ROOTS) + self.pick([b"/", b"//", b"", b"/%2f"]).join([b"", *segments])
        if self.chance.random() < 0.01:
            path += b"/" + b"a" * self.pick([4096, 8192, 60_000, 66_000, 200_000])
        if self.chance.random() < 0.3:
            path += b"?" + b"&".join(self.pick(shapes.SEGMENTS) for _ in range(self.chance.randint(0, 3)))
        return path or b"/"

    def line(self) -> bytes:
        """One header line."""
        if self.chance.random() < 0.03:
            return self.some(20) + self.pick([b": ", b" : "]) + self.some()
        value = self.pick(shapes.VALUES)
        return self.pick(shapes.NAMES) + self.pick([b": ", b":", b":\t"]) + value

    def flood(self) -> list[bytes]:
        """More headers than anybody needs."""
        count = self.pick([101, 500, 2000, 20_000])
        return [b"X-%d: %d" % (number, number) for number in range(count)]

    def body(self) -> tuple[bytes, list[bytes]]:
        """A body, and the headers that frame it, not always rightly."""
        data, kind = self.pick(shapes.BODIES)
        if self.chance.random() < 0.02:
            data = bytes(self.pick([70_000, 300_000, 1_100_000]))
        kinds = [b"Content-Type: " + kind] if kind else []
        match self.chance.randint(0, 4):
            case 0:
                return b"", kinds
            case 1 | 2:
                odd = self.pick([0, 0, 0, 0, -1, 5])
                return data, [*kinds, b"Content-Length: %d" % max(0, len(data) + odd)]
            case _:
                chunked = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in self._cut(data) if piece]
                return b"".join([*chunked, self.pick(shapes.ENDS)]), [*kinds, b"Transfer-Encoding: chunked"]

    def authorization(self) -> bytes:
        """A credential that is none, or was none of this project's."""
        token = self._credentials.token
        match self.chance.randint(0, 4):
            case 0:
                return b"Bearer " + token
            case 1:
                return self.pick(shapes.CREDENTIALS) + self.pick([b"", token, b"."])
            case 2:
                return b"Bearer " + self.mutate(token)
            case _:
                return b"Bearer " + self.signed()

    def signed(self) -> bytes:
        """A token with a good signature and strange contents."""
        parts = b".".join(
            base64.urlsafe_b64encode(part).rstrip(b"=") for part in (self._jose(), self._claims())
        )
        digest = hmac.digest(self._credentials.secret, parts, hashlib.sha256)
        return parts + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")

    def _jose(self) -> bytes:
        head = {"alg": self.pick(shapes.ALGORITHMS), "typ": self.pick(["JWT", None, 7, []])}
        if self.chance.random() < 0.5:
            head[self.pick(["kid", "crit", "b64", "jku", "x5u", "jwk", "cty"])] = self.pick(shapes.ODD_VALUES)
        return json.dumps(head).encode() if self.chance.random() < 0.9 else self.pick(shapes.ODD_JSON)

    def _claims(self) -> bytes:
        claims = {"role": "anon", "exp": self.pick([4102444800, *shapes.ODD_VALUES])}
        for name in ("iat", "nbf", "aud", "iss", "role", "sub", "jti"):
            if self.chance.random() < 0.2:
                claims[name] = self.pick(shapes.ODD_VALUES)
        return json.dumps(claims).encode() if self.chance.random() < 0.9 else self.pick(shapes.ODD_JSON)

    # --- WebSockets ------------------------------------------------------------------------

    def websocket(self) -> list[bytes]:
        """A handshake and what follows it."""
        lines = [b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", KEY]
        if self.chance.random() < 0.25:
            lines[self.chance.randrange(4)] = self.pick(shapes.HANDSHAKES)
        if self.chance.random() < 0.25:
            lines.append(self.pick(shapes.HANDSHAKES))
        target = self.pick([b"/echo", b"/talk", b"/talk", b"/open", b"/hello"])
        target += self.pick(
            [b"", b"", b"?jwt=", b"?jwt=" + self._credentials.token, b"?jwt=%ff&jwt=a", b"/%00"]
        )
        data = self.head(b"GET", PREFIX + target, lines)
        frames = b"".join(self.frame() for _ in range(self.chance.randint(0, 6)))
        return [data, *self._cut(frames)]

    def frame(self) -> bytes:
        """One frame of RFC 6455, section 5.2, that may break any of its rules."""
        payload = self.pick(
            [b"", b"hello", "été".encode(), b"\xff\xfe", b"\x03\xe8", b"\x03", bytes(125), bytes(126)]
        )
        if self.chance.random() < 0.2:
            payload = self.pick(
                [bytes(200), b"a" * 70_000, self.some(), b"\x03\xe8\xff", struct.pack(">H", 999)]
            )
        code = self.pick([1, 1, 1, 2, 0, 8, 9, 10, 3, 11, 15])
        first = code | self.pick([0x80, 0x80, 0x80, 0x00]) | self.pick([0, 0, 0, 0, 0x40, 0x20, 0x10])
        masked = 0x80 if self.chance.random() < 0.9 else 0
        size = (
            len(payload)
            if self.chance.random() < 0.93
            else self.pick([0, 1, 2**16, 2**31, 2**63 - 1, 2**64 - 1])
        )
        if size < 126 and self.chance.random() < 0.95:
            head = bytes([first, masked | size])
        elif size < 2**16 and self.chance.random() < 0.95:
            head = struct.pack(">BBH", first, masked | 126, size)
        else:
            head = struct.pack(">BBQ", first, masked | 127, size)
        if not masked:
            return head + payload
        mask = self.chance.randbytes(4)
        return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))

    # --- what is broken --------------------------------------------------------------------

    def mutated(self) -> bytes:
        """Any of the others, changed in a few places."""
        makes: list[Callable[[], bytes]] = [
            self.valid,
            self.request,
            lambda: b"".join(self.websocket()),
            lambda: self.ambiguous(PREFIX + b"/open"),
        ]
        data = self.pick(makes)()
        for _ in range(self.pick([1, 1, 2, 3, 8])):
            data = self.mutate(data)
        return data

    def mutate(self, data: bytes) -> bytes:
        """The data with one change."""
        start = self.chance.randrange(len(data) + 1)
        end = min(len(data), start + self.chance.randint(1, 12))
        match self.chance.randint(0, 6):
            case 0:
                return data[:start] + self.some(4) + data[end:]
            case 1:
                return data[:start] + data[end:]
            case 2:
                return data[:start] + self.pick(shapes.MORSELS) + data[start:]
            case 3:
                return data[:end] + data[start:end] * self.pick([1, 1, 2, 50]) + data[end:]
            case 4:
                return data.replace(self.pick([b"\r\n", b": ", b" ", b"1"]), self.pick(shapes.MORSELS), 1)
            case 5:
                flipped = bytes(byte ^ (1 << self.chance.randrange(8)) for byte in data[start:end])
                return data[:start] + flipped + data[end:]
            case _:
                lines = data.split(b"\r\n")
                self.chance.shuffle(lines)
                return b"\r\n".join(lines)

    def noise(self) -> bytes:
        """Other protocols, and nothing at all."""
        return self.pick(shapes.OTHERS) + self.some(200)
