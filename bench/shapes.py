"""Parts of odd requests, as tables: what broke other servers, and what could break ours."""

from __future__ import annotations

from typing import Any

PREFIX = b"/functions/v1"
INJECTED = b"x-injected"
"""A header that no answer may have."""

END = b"0\r\n\r\n"
KEY = b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg=="
CHUNKED = b"Transfer-Encoding: chunked"
LENGTH = b"Content-Length: 5"

FRAMINGS: list[tuple[bytes, ...]] = [
    (LENGTH, CHUNKED),
    (CHUNKED, LENGTH),
    (LENGTH, b"Content-Length: 6"),
    (CHUNKED, CHUNKED),
    *[
        (b"Content-Length: " + value,)
        for value in (
            b"+5", b"-5", b"0x5", b"5_0", b"5 5", b"5,5", b"5, 6", b"5;", b"5\x0b", b"5\x00", b"", b"5.0",
            b"1e1", "５".encode(), "٥".encode(), b"\xb2", b"99999999999999999999", b"18446744073709551617",
            b"a",
        )
    ],
    *[
        (b"Transfer-Encoding: " + value,)
        for value in (
            b"chunked, identity", b"identity, chunked", b"gzip, chunked", b"chunked, chunked", b"identity",
            b"xchunked", b"chunked\x0b", b"\x0bchunked", b"chunked\x00", b"chunked;q=1", b"\"chunked\"",
            b"chunked,", b",chunked", b"c hunked", b"", b"chunk\xc3\xa9d",
            "chunKed".replace("K", "\u212a").encode(),
        )
    ],
    (b"Transfer-Encoding : chunked",),
    (b"Transfer-Encoding\t: chunked",),
    (b"Transfer-Encoding\x00: chunked",),
    (b"Content-Length : 5",),
    (b"Content-Length\r: 5",),
    (b"X: y\n Transfer-Encoding: chunked",),
    (b"X: y\rTransfer-Encoding: chunked",),
    (b"X: y\n\rTransfer-Encoding: chunked",),
    (b"Transfer-Encoding:\r\n chunked",),
    (b"Transfer-Encoding: \r\n\tchunked", LENGTH),
    (b"X: y\r\n Transfer-Encoding: chunked", LENGTH),
    (b": chunked",),
    (b"(Content-Length): 5",),
    (b"Content-Length\xff: 5",),
    (b"no colon at all",),
    (b"Host: localhost",),
    (CHUNKED, b"Trailer: x\n"),
]  # fmt: skip

CHUNKS = [
    b"5\nhello\r\n",
    b"5\rhello\r\n",
    b"5\r\nhello\n",
    b"5\r\nhelloXX",
    b"5\r\nhello\rX",
    b"5\r\nhell\r\n",
    b"5\r\nhello!\r\n",
    b"5;a\nb\r\nhello\r\n",
    b"5;a\rb\r\nhello\r\n",
    b"5;\n\r\nhello\r\n",
    b'5;a="\n"\r\nhello\r\n',
    b"5;a=\x00\r\nhello\r\n",
    b"0x5\r\nhello\r\n",
    b"+5\r\nhello\r\n",
    b"-5\r\nhello\r\n",
    b" 5\r\nhello\r\n",
    b"5_\r\nhello\r\n",
    b"5,5\r\nhello\r\n",
    b"g\r\nhello\r\n",
    b"\r\n5\r\nhello\r\n",
    b";\r\nhello\r\n",
    b"\xef\xbc\x95\r\nhello\r\n",
    b"ffffffffffffffff5\r\nhello\r\n",
    b"10000000000000005\r\nhello\r\n",
]

ODD_HOSTS = [
    b"", b"evil.example", b"localhost@evil.example", b"localhost/..", b"localhost?x",
    b"localhost#x", b"[::1", b"::1]", b"[::1]]", b"1234:5678::1:8080", b"localhost:999999",
    b"localhost:a", b"localhost:80:80", b"localhost localhost", b"localhost,localhost",
    b"local\xc4\xa5ost", b"localhost%00", b"127.1", b"0", b"a" * 5000, b"localhost\\x",
    b"http://localhost",
]  # fmt: skip
HOSTS = [*ODD_HOSTS, b"LOCALHOST", b"localhost.", b"localhost:", b"127.0.0.1:1", b"[::1]:65535"]
ODD_METHODS = [
    b"get ", b"G\x00T ", b"GET\t", b"\x0bGET ", b"G ET ", b"FETCH ", b"GET\xc3\xa9 ", b"CONNECT ", b"",
]  # fmt: skip
ODD_TAILS = [b"\x00", b" /x", b"\x7f", "/é".encode(), "/👽".encode(), b"/\xff", b"\t", b"/ HTTP/1.1\n"]
ODD_VERSIONS = [
    b"HTTP/0.9", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/9.9", b"HTTP/11", b"HTTP/1.10", b"HTTP/1",
    b"http/1.1", b"HTTP/1.1 x", b"HTTP/ 1.1", b"ICE/1.0", b"\x00", b"HTTP/1.1\x0b",
    b"HTTP/1,1", b"HTTP/-1.1",
]  # fmt: skip

_OPEN = b"GET /functions/v1/open HTTP/1.1\r\nsb-request-id: ID\r\nHost: localhost\r\n"
HEADS = [
    _OPEN + b"Host: localhost\r\n\r\n",
    _OPEN + b"Host: evil.example\r\n\r\n",
    _OPEN + b" X: folded\r\n\r\n",
    _OPEN + b"X: y\r\n\tfolded\r\n\r\n",
    _OPEN + b"X: a\x00b\r\n\r\n",
    _OPEN + b"X: a\x7fb\r\n\r\n",
    _OPEN + b"X: a\x08b\r\n\r\n",
    _OPEN + b"X\x00: a\r\n\r\n",
    _OPEN + b"X Y: a\r\n\r\n",
    _OPEN + b"X\r\n\r\n",
    _OPEN + b"\rX: y\r\n\r\n",
    _OPEN + b"X: y\n\n",
    _OPEN.replace(b"\r\n", b"\n") + b"\n",
    _OPEN.replace(b"\r\n", b"\r") + b"\r",
    _OPEN.replace(b" HTTP/1.1\r\n", b"\n") + b"\r\n",
    _OPEN.replace(b" HTTP/1.1\r\n", b" HTTP/1.1\n") + b"\r\n",
    _OPEN.replace(b" HTTP/1.1\r\n", b"\r\n") + b"\r\n",
    *[
        _OPEN.replace(b"HTTP/1.1", version) + b"\r\n"
        for version in ODD_VERSIONS
    ],
    *[
        _OPEN.replace(b"GET ", method) + b"\r\n" for method in ODD_METHODS
    ],
    *[
        _OPEN.replace(b"/functions/v1/open", b"/functions/v1/open" + rest) + b"\r\n"
        for rest in ODD_TAILS
    ],
    b"GET /functions/v1/open HTTP/1.1\r\nsb-request-id: ID\r\n\r\n",
    b"GET /functions/v1/open\r\n",
    b"POST /functions/v1/open HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"X-First: 1\r\n" + _OPEN + b"\r\n",
    b" " + _OPEN + b"\r\n",
    b"\xef\xbb\xbf" + _OPEN + b"\r\n",
    _OPEN + b"X-Pad: " + b"x" * 66_000 + b"\r\n\r\n",
    _OPEN + b"x" * 66_000 + b": y\r\n\r\n",
]  # fmt: skip

METHODS = [
    b"GET", b"GET", b"POST", b"POST", b"PUT", b"PATCH", b"DELETE", b"HEAD", b"OPTIONS", b"TRACE",
    b"PROPFIND", b"QUERY", b"M-SEARCH", b"SOURCE", b"PRI", b"CONNECT", b"LINK", b"MUX", b"DESCRIBE",
]  # fmt: skip

ROOTS = [
    PREFIX, PREFIX, PREFIX, b"", b"/", b"/functions", b"//functions/v1", b"/functions//v1",
    b"/Functions/v1", b"/..", PREFIX + b"/..", PREFIX + b"/../..", PREFIX + b"/%2e%2e", b"functions/v1",
    b"*", b"?", b"#", b"\\", b"///]ufd/:", b"http://localhost" + PREFIX, b"http://evil.example" + PREFIX,
    b"https://a:b@localhost:1" + PREFIX, b"http:", b"http://", b"http://[::1" + PREFIX,
    b"http://[::1]" + PREFIX, b"http://localhost:99999" + PREFIX, b"file:///etc", b"javascript:alert(1)",
    b"ws://localhost" + PREFIX, b"//evil.example" + PREFIX, b"localhost:80", b"/_internal",
    PREFIX + b"/_internal", b"data:,", b"HTTP://LOCALHOST" + PREFIX, b"http:/" + PREFIX,
    b"nonexistent-probe.171340",
]  # fmt: skip

SEGMENTS = [
    b"..", b".", b"...", b"%2e%2e", b"%252e%252e", b"..%2f", b"..%5c", b"..\\", b"%2e%2e%2f",
    b"%c0%ae%c0%ae", b"%uff0e", b"..;", b";", b"%00", b"%0a", b"%0d%0a" + INJECTED + b":%201", b"%",
    b"%zz", b"%e9", b"%c3%a9", b"%f0%9f%91%bd", b"%ff%fe", "é".encode(), b"\xff", b"canary.txt",
    b"functions", b"open", b"hello", b"open%00", b"ope%6e", b"OPEN", b"open ", b"hello.py", b"index.py",
    b".env", b"_shared", b"_internal", b"metric", b"metrics", b"health", b"ready", b"supabase",
    b"config.toml", b"__proto__", b"constructor", b"toString", b"queue", b"http", b"os", b"app",
    b"app/files", b"proc", b"self", b"environ", b"etc", b"passwd", b"@", b":", b"*", b"a=b", b"x=%00",
    b"jwt=", b"~", b"'", b'"', b"<script>", b"{}", b"|", b"^", b"`", b"[", b"]", b"a" * 300,
    "ｏｐｅｎ".encode(), b"%ef%bd%8fpen", b"\xe2\x80\xae", b"\x01", b"+",
]  # fmt: skip

NAMES = [
    b"X", b"Cookie", b"Content-Type", b"Content-Encoding", b"Expect", b"Connection", b"Upgrade", b"Origin",
    b"Range", b"TE", b"Access-Control-Request-Method", b"Access-Control-Request-Headers",
    b"X-Forwarded-For", b"X-Forwarded-Proto", b"Trailer", b"X-Forwarded-Host", b"Forwarded", b"apikey",
    b"traceparent", b"tracestate", b"baggage", b"sb-request-id", b"Accept", b"Content-Length",
    b"Transfer-Encoding", b"HTTP2-Settings", b"If-None-Match", b"Date", b"X-Client-Info", b"Proxy",
    b"Keep-Alive", b"Max-Forwards", b"Via", b"Sec-WebSocket-Protocol", b"Authorization",
    b"x-functions-test-limits", b"Content-Disposition", b"If-Modified-Since", b"Accept-Encoding",
    b"X-HTTP-Method-Override", b"X-Original-URL",
]  # fmt: skip

VALUES = [
    b"", b" ", b"a", b"100-continue", b"100-CONTINUE, x", b"close", b"keep-alive", b"upgrade",
    b"close, upgrade", b"h2c", b"websocket", b"chunked", b"trailers", b"gzip", b"bytes=0-",
    b"bytes=-1-,9999999999999-", b"null", b"*", b"POST", b"https://a.example",
    b"%0d%0a" + INJECTED + b": 1", b"a\x00b", b"\xff\xfe", "é".encode(), b"a" * 9000, b"()", b'"', b"\\",
    b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01", b"00-" + b"\xff" * 32, b"127.0.0.1", b"for=\"[::1",
    b"[", b"http", b"http://[", b"application/json", b"text/html; charset=\xff", b"multipart/form-data",
    b"multipart/form-data; boundary=", b"application/x-www-form-urlencoded; charset=utf-7",
    b"text/plain; charset=no-such", b"a=b; a=c; =; ;;", b"0", b"-1", b"5", b"sb_publishable_x",
    b"sb_secret_x", b"eyJ", b"99999999999999999999", b"jwt-", b"jwt-a.b.c, chat", b"cpu_ms=1", b"AAMAAABk",
    b"Thu, 99 Jan 0000 99:99:99 GMT", b"W/\"", b"\t", b"a=%zz&%u0000", b"/_internal/metric",
    b"user-id=http://[,a=%", b";" * 500,
]  # fmt: skip

_FORM = b"multipart/form-data; boundary=b"
BODIES: list[tuple[bytes, bytes]] = [
    (b"", b""),
    (b"hello", b"text/plain"),
    (b'{"name":"you"}', b"application/json"),
    (b'{"name":', b"application/json"),
    (b"[1,2]", b"application/json"),
    (b"\xff\xfe", b"application/json"),
    (b"[" * 50_000, b"application/json"),
    (b'{"name":"\\ud800"}', b"application/json"),
    (b'{"name":' + b"9" * 5000 + b"}", b"application/json"),
    (b'{"name":1e999}', b"application/json"),
    (b'{"name":NaN}', b"application/json"),
    (b"a=b&c=%zz&%00=\xff", b"application/x-www-form-urlencoded"),
    (b"&" * 3000, b"application/x-www-form-urlencoded"),
    (b"--b\r\n", _FORM),
    (b"--b--\r\n", _FORM),
    (b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\nx\r\n--b--\r\n", _FORM),
    (b'--b\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\nx\r\n--b--\r\n', _FORM),
    (b'--b\r\nContent-Disposition: form-data; name="f"; filename="../\x00\xff"\r\n\r\nx\r\n--b--\r\n', _FORM),
    (b'--b\r\nContent-Disposition: form-data; filename="a"\r\n\r\nx\r\n--b--\r\n', _FORM),
    (b"--b\r\nContent-Disposition: form-data; name*=utf-8''%ff; filename*=x''\r\n\r\nx\r\n--b--", _FORM),
    (b"--b\r\nContent-Type: \xff\r\nContent-Transfer-Encoding: base64\r\n\r\nx\r\n--b--\r\n", _FORM),
    (b"--b\r\n" + b"X: y\r\n" * 2000 + b"\r\nx\r\n--b--\r\n", _FORM),
    (b"x", b"multipart/form-data; boundary=\xff"),
    (b"x", b"multipart/form-data; boundary=" + b"b" * 300),
    (b"x", b"multipart/mixed; boundary=b"),
]

ENDS = [
    END, END, END, END, b"0\r\n", b"0\r\nX: trailer\r\n\r\n",
    b"0\r\nContent-Length: 5\r\nHost: evil\r\n\r\n", b"00000\r\n\r\n", b"0;last=1\r\n\r\n",
    b"0\r\nAuthorization: x\r\n\r\n", b"0\r\n" + b"X: y\r\n" * 3000 + b"\r\n", b"0\n\n", b"",
]  # fmt: skip

CREDENTIALS = [
    b"", b"Bearer", b"Bearer ", b"bearer  ", b"BEARER\t", b"Basic dTpw", b"Digest x",
    b"Bearer sb_secret_x", b"Bearer a.b.c", b"Bearer ...", b"Bearer \xff", b"sb_publishable_", b"a.b.c",
    b"Bearer " + b"a" * 8000, b"Bearer e30.e30.", b"Bearer Og.Og.Og", b"Bearer eyJhbGciOiJub25lIn0.e30.",
    b"Bearer W10.W10.W10", b"Bearer " + b"a." * 3000, b"Bearer bnVsbA.bnVsbA.bnVsbA",
]  # fmt: skip

ALGORITHMS: list[Any] = [
    "HS256",
    "HS256",
    "HS256",
    "HS256",
    "none",
    "HS512",
    "ES256",
    "RS256",
    "EdDSA",
    "",
    None,
    7,
    ["HS256"],
    {},
    "hs256",
]
ODD_VALUES: list[Any] = [
    None, True, 0, -1, 1.5, 10**30, -(10**400), 4102444800, float("inf"), float("nan"), "", "1",
    "4102444800", "\ud800", "a" * 500, [], {}, [[]], {"a": {}}, ["a"], [7], "\x00",
]  # fmt: skip
ODD_JSON = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"7",
    b'"x"',
    b"\xff",
    b"[" * 5000,
    b'{"a":' * 2000,
    b'{"exp":1,"exp":2}',
    b"{}\x00",
    b"1e999",
]

HANDSHAKES = [
    b"Sec-WebSocket-Version: 8", b"Sec-WebSocket-Version: 13, 8", b"Sec-WebSocket-Version: x",
    b"Sec-WebSocket-Key: ", b"Sec-WebSocket-Key: short", b"Sec-WebSocket-Key: \xff", KEY,
    b"Connection: close", b"Upgrade: websocket, h2c", b"Upgrade: WEBSOCKET", b"Upgrade: h2c",
    b"Sec-WebSocket-Extensions: permessage-deflate", b"Sec-WebSocket-Extensions: ,;=",
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=99",
    b"Sec-WebSocket-Protocol: ", b"Sec-WebSocket-Protocol: a, b, a", b"Sec-WebSocket-Protocol: jwt-x",
    b"Sec-WebSocket-Protocol: jwt-x, jwt-y", b"Sec-WebSocket-Protocol: \xff",
    b"Sec-WebSocket-Protocol: a\x00", b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Origin: null",
    b"Expect: 100-continue", b"X: " + b"x" * 9000, b"Connection: keep-alive, Upgrade",
    b"Connection: upgrade, ,",
    b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=8; x=\"",
    b"Authorization: Bearer x",
]  # fmt: skip

MORSELS = [
    b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b":", b"\r\n\r\n", b"\n\n", b"\r\n ", b"%", b"%00",
    b"\xff", b"/", b"..", b"?", b"#", b"\x0b", b"\x85", "\u2028".encode(), b"a" * 5000,
    b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"0", b"Host: localhost\r\n",
    b"Connection: Upgrade\r\nUpgrade: x\r\n", b"Connection: close\r\n", b"Expect: 100-continue\r\n",
]  # fmt: skip

OTHERS = [
    b"", b"\r\n\r\n", b"\x00", b"GET / RTSP/1.0\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"hello\r\n\r\n", b"SSH-2.0-x\r\n", b"EHLO x\r\n",
    b"*1\r\n$4\r\nPING\r\n", b"\x05\x01\x00", b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\n", b"\r\n" * 500,
    b"\xff" * 70_000, b"HTTP/1.1 200 OK\r\n\r\n", b"GET", b"GET ", b"GET /",
    b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a",
]  # fmt: skip
