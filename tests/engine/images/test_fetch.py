"""Pictures are fetched from allowed hosts only, whatever a URL, a redirect or a resolver says.
LIMITS 78 to 83.
"""

from __future__ import annotations

import asyncio
import gzip
import shutil
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from budmlx.engine.images.addresses import is_public
from budmlx.engine.images.fetch import MAX_REDIRECTS, Fetcher, Resolve
from budmlx.engine.images.formats import MAX_BYTES
from budmlx.errors import ConfigError, InvalidRequestError
from tests.engine.images.listener import Listener, answer, listening, redirect, repeated

PARAM = "messages[0].content[1].image_url.url"
BODY = b"a picture"
PICTURE = {"/": answer(BODY), "/a.png": answer(BODY)}
ENDLESS = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n"
CHUNKED = ENDLESS.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n")


def known(*found: str) -> Resolve:
    """A resolver that knows the same addresses of every host."""

    async def resolve(host: str) -> Sequence[str]:
        return found

    return resolve


def fetcher(listener: Listener, seconds: float = 100) -> Fetcher:
    """One that may go to the listener, as the configuration names it, and waits for long."""
    return Fetcher([f"127.0.0.1:{listener.port}"], seconds=seconds)


async def refusal(fetching: Fetcher, url: str) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        await fetching.fetch(url, PARAM)
    assert caught.value.param == PARAM and caught.value.code is None
    return caught.value.message


async def test_off_unless_hosts_are_named() -> None:  # LIMITS 78
    async with listening(PICTURE) as listener:
        for url in (f"http://127.0.0.1:{listener.port}/", "https://example.com/a.png", "x"):
            message = await refusal(Fetcher([]), url)
            assert "image_host" in message and "data: URL" in message
        assert listener.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST"])
async def test_a_named_host_and_port(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    async with listening(PICTURE) as listener:
        fetching = Fetcher([f"{host.lower()}:{listener.port}"])
        assert await fetching.fetch(f"http://{host}:{listener.port}/a.png#top", PARAM) == BODY
        head = listener.requests[0]
        assert head.startswith("get /a.png http/1.1\r\n")
        assert f"\r\nhost: {host.lower()}:{listener.port}\r\n" in head
        assert "\r\naccept-encoding: identity\r\n" in head


SPELLINGS = [
    "127.0.0.1",
    "localhost",
    "localhost.",
    "127.0.0.1.",
    "127.1",
    "127.0.1",
    "127.0.0.01",
    "127.127.127.127",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "017700000001",
    "0177.0.0.1",
    "0.0.0.0",
    "0",
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "[::1%25lo]",
    "\uff11\uff12\uff17.\uff10.\uff10.\uff11",
    "127\u30020\u30020\u30021",
    "\u2460\u2461\u2466.0.0.1",
    "loca\u212ahost",
    "%31%32%37.0.0.1",
    "example.com\\@127.0.0.1",
    "example.com@127.0.0.1",
    "user:password@127.0.0.1",
    "@127.0.0.1",
    "127.0.0.1\\",
    "127.0.\t0.1",
    " 127.0.0.1",
    "127.0.0.1\x00",
]


async def test_spellings_of_loopback() -> None:  # LIMITS 79
    async with listening(PICTURE) as listener:
        fetching = Fetcher([f"*:{listener.port}"])
        messages = [await refusal(fetching, f"http://{s}:{listener.port}/") for s in SPELLINGS]
        messages += [
            await refusal(fetching, f"http://example.com:{listener.port}{trick}")
            for trick in ("\\@127.0.0.1/", "@127.0.0.1/", "#@127.0.0.1\n/", ":80/", "\r\n/")
        ]
        assert len(set(messages)) == 1 and listener.connections == 0
        # What keeps them out is where they lead.
        trusting = Fetcher([f"*:{listener.port}"], is_public=lambda address: True)
        assert await trusting.fetch(f"http://127.0.0.1:{listener.port}/", PARAM) == BODY


async def test_a_name_for_loopback() -> None:
    async with listening(PICTURE) as listener:
        url = f"http://pictures.example:{listener.port}/"
        for found in (
            ["127.0.0.1"],
            ["127.0.0.1", "93.184.215.14"],  # LIMITS 81
            ["93.184.215.14", "127.0.0.1"],
            ["93.184.215.14", "::ffff:127.0.0.1"],
            ["2606:4700::1111", "fe80::1%lo"],
            [],
        ):
            await refusal(Fetcher([f"*:{listener.port}"], resolve=known(*found)), url)
        assert listener.connections == 0
        named = Fetcher([f"pictures.example:{listener.port}"], resolve=known("127.0.0.1"))
        assert await named.fetch(url, PARAM) == BODY


async def test_an_answer_that_changes_after_the_check() -> None:  # LIMITS 81
    asked = []

    async def resolve(host: str) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]

    async with listening(PICTURE) as listener:
        fetching = Fetcher(
            [f"*.example:{listener.port}"],
            resolve=resolve,
            is_public=lambda address: address == "127.0.0.1",
        )
        url = f"http://flips.example:{listener.port}/"
        assert await fetching.fetch(url, PARAM) == BODY
        assert asked == ["flips.example"] and listener.connections == 1
        await refusal(fetching, url)
        assert listener.connections == 1


async def test_a_named_address_is_not_reached_through_a_redirect() -> None:  # LIMITS 80
    async with listening(PICTURE) as inner:
        here = {
            "/inner": redirect(f"http://127.0.0.1:{inner.port}/"),
            "/itself": redirect("/"),
            "/other": redirect(f"http://[::ffff:127.0.0.1]:{inner.port}/"),
            "/file": redirect("file:///etc/passwd"),
            "/data": redirect("data:image/png;base64,AAAA"),
            "/odd": redirect(f"http://example.com\\@127.0.0.1:{inner.port}/"),
            "/nowhere": answer(b"", "Content-Length: 0", status="302 Found"),
            **PICTURE,
        }
        async with listening(here) as outer:
            fetching = Fetcher([f"127.0.0.1:{port}" for port in (inner.port, outer.port)])
            for path in here.keys() - PICTURE.keys():
                await refusal(fetching, f"http://127.0.0.1:{outer.port}{path}")
            assert inner.connections == 0 and outer.connections == len(here) - len(PICTURE)
            assert await fetching.fetch(f"http://127.0.0.1:{inner.port}/", PARAM) == BODY


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_between_public_hosts(status: int) -> None:  # LIMITS 80
    steps = {f"/{step}": redirect(f"/{step - 1}", status) for step in range(1, 6)}
    steps["/0"] = answer(BODY)
    steps["/loop"] = redirect("loop", status)
    async with listening(steps) as listener:
        steps["/away"] = redirect(f"http://other.test:{listener.port}/0")
        fetching = Fetcher(
            [f"*.example:{listener.port}"],
            resolve=known("127.0.0.1"),
            is_public=lambda address: address == "127.0.0.1",
        )
        base = f"http://a.example:{listener.port}"
        assert await fetching.fetch(f"{base}/{MAX_REDIRECTS}", PARAM) == BODY
        assert listener.connections == MAX_REDIRECTS + 1
        for path in ("/4", "/loop"):
            before = listener.connections
            await refusal(fetching, base + path)
            assert listener.connections - before == MAX_REDIRECTS + 1
        before = listener.connections
        await refusal(fetching, f"{base}/away")
        assert listener.connections - before == 1


async def test_cookies_are_forgotten() -> None:
    head = ("Content-Type: image/png", "Content-Length: 9", "Set-Cookie: a=b; Path=/")
    answers = {
        "/": answer(BODY, *head),
        "/1": redirect("/").replace(b"Location", b"Set-Cookie: a=b\r\nLocation"),
    }
    async with listening(answers) as listener:
        fetching = Fetcher(
            [f"*:{listener.port}"], resolve=known("127.0.0.1"), is_public=lambda address: True
        )
        for path in ("/", "/1"):
            assert await fetching.fetch(f"http://a.test:{listener.port}{path}", PARAM) == BODY
        assert not any("cookie" in head for head in listener.requests)


BAD_ANSWERS = {
    "/endless": repeated(ENDLESS, bytes(2**16)),  # LIMITS 82
    "/endless-chunks": repeated(CHUNKED, b"10000\r\n" + bytes(2**16) + b"\r\n"),
    "/large": answer(b"", "Content-Type: image/png", f"Content-Length: {MAX_BYTES + 1}"),
    "/short": answer(BODY, "Content-Type: image/png", "Content-Length: 100"),
    "/negative": answer(BODY, "Content-Type: image/png", "Content-Length: -1"),
    "/two": answer(BODY, "Content-Type: image/png", "Content-Length: 9", "Content-Length: 8"),
    "/gzip": answer(
        gzip.compress(bytes(2**24)), "Content-Type: image/png", "Content-Encoding: gzip"
    ),
    "/br": answer(BODY, "Content-Type: image/png", "Content-Encoding: identity, br"),
    "/html": answer(BODY, "Content-Type: text/html", "Content-Length: 9"),
    "/json": answer(BODY, "Content-Type: application/json", "Content-Length: 9"),
    "/missing": answer(BODY, status="404 Not Found"),
    "/partial": answer(BODY, status="206 Partial Content"),
    "/empty": answer(b"", "Content-Length: 0", status="204 No Content"),
    "/error": answer(BODY, status="500 Internal Server Error"),
    "/header": repeated(b"HTTP/1.1 200 OK\r\nX: ", bytes(b"x" * 2**16)),
    "/headers": repeated(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 1000),
    "/junk": b"\x16\x03\x01" * 100,
    "/nothing": b"",
}
SLOW_ANSWERS = {
    "/drip": repeated(ENDLESS, b"x", 0.05),
    "/drip-head": repeated(b"HTTP/1.1 200 OK\r\nX: ", b"x", 0.05),
    "/informational": repeated(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.001),
    "/silent": repeated(b"", b"", 0.05),
}


@pytest.mark.parametrize("path", [*BAD_ANSWERS, *SLOW_ANSWERS])
async def test_bad_answers(path: str) -> None:
    async with listening(BAD_ANSWERS | SLOW_ANSWERS) as listener:
        fetching = fetcher(listener, 0.4 if path in SLOW_ANSWERS else 100)
        async with asyncio.timeout(90):
            message = await refusal(fetching, f"http://127.0.0.1:{listener.port}{path}")
        assert message == await refusal(fetching, "http://example.com/")
        # aiohttp tries once more where the connection closes without an answer.
        assert listener.connections <= 1 + (path == "/nothing")


async def test_good_answers() -> None:
    long = ("Content-Type: image/png", "Content-Length: 9")
    answers = {
        "/close": ENDLESS + BODY,
        "/chunks": CHUNKED + b"9\r\n" + BODY + b"\r\n0\r\n\r\n",
        "/octets": answer(BODY, "Content-Type: application/octet-stream", "Content-Length: 9"),
        "/untyped": answer(BODY, "Content-Length: 9"),
        "/identity": answer(BODY, *long, "Content-Encoding: identity"),
    }
    async with listening(answers) as listener:
        for path in answers:
            url = f"http://127.0.0.1:{listener.port}{path}"
            assert await fetcher(listener).fetch(url, PARAM) == BODY


async def test_the_largest() -> None:
    async with listening({"/": answer(bytes(MAX_BYTES))}) as listener:
        body = await fetcher(listener).fetch(f"http://127.0.0.1:{listener.port}/", PARAM)
        assert len(body) == MAX_BYTES


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",  # LIMITS 83
        "ftp://example.com/a.png",
        "gopher://example.com/",
        "/etc/passwd",
        "a.png",
        "\\\\host\\share\\a.png",
        "//example.com/a.png",
        "http:example.com",
        "http:///example.com",
        "http://",
        "http://:80/",
        "http://example.com:99999/",
        "http://example.com:0/",
        "http://example.com:8080/",
        "http://exa_mple..com/",
        "http://-example.com/",
        "http://[1.2.3.4]/",
        "http://1.2.3/",
        "http://example.com/\ud800",
        "http://example.com/a b",
        "http://example.com/" + 9000 * "a",
        "http://" + 64 * "a" + ".com/",
        "data:image/png;base64,AAAA",
        "javascript:alert(1)",
        "",
    ],
)
async def test_what_is_no_url_of_a_picture(url: str) -> None:
    async def resolve(host: str) -> Sequence[str]:
        raise AssertionError(host)

    message = await refusal(Fetcher(["*"], resolve=resolve), url)
    assert "passwd" not in message


async def test_an_unknown_host() -> None:
    async def unknown(host: str) -> Sequence[str]:
        raise OSError("no such host")

    await refusal(Fetcher(["*"], resolve=unknown), "http://example.com/")
    async with listening({}) as listener:
        port = listener.port
    await refusal(Fetcher([f"127.0.0.1:{port}"]), f"http://127.0.0.1:{port}/")


def test_a_resolver_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: hanging.wait(60) and [])
    start = time.monotonic()
    with pytest.raises(InvalidRequestError):
        asyncio.run(Fetcher(["*"], seconds=0.2).fetch("http://example.com/", PARAM))
    assert time.monotonic() - start < 30
    hanging.set()


async def test_which_hosts_are_allowed() -> None:
    asked = []

    async def resolve(host: str) -> Sequence[str]:
        asked.append(host)
        return []

    fetching = Fetcher(
        ["Example.com", "*.example.org", "b.test:81", "[::1]:82", " 8.8.8.8 "], resolve=resolve
    )
    for url in (
        "http://example.com/",
        "https://EXAMPLE.com:443/",
        "http://www.example.com/",
        "http://example.com:81/",
        "https://www.example.org/",
        "https://a.b.example.org/",
        "https://example.org/",
        "https://badexample.org/",
        "http://b.test:81/",
        "http://b.test/",
        "http://example.com.evil.test/",
    ):
        await refusal(fetching, url)
    wanted = ["example.com"] * 2 + ["www.example.org", "a.b.example.org", "b.test"]
    assert asked == wanted


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "http://example.com",
        "example.com/path",
        "example.com:0",
        "example.com:99999",
        "example.com:",
        ":80",
        "*.",
        "**",
        "*example.com",
        "a.*.com",
        "127.1",
        "[1.2.3.4]",
        "::1",
        "user@example.com",
        "example.com.",
    ],
)
def test_entries_that_are_no_hosts(entry: str) -> None:
    with pytest.raises(ConfigError, match="image_host"):
        Fetcher([entry])


NOT_PUBLIC = """
    0.0.0.0 0.1.2.3 10.1.2.3 100.64.0.1 127.0.0.1 127.255.255.255 169.254.169.254 172.16.0.1
    172.31.255.255 192.0.0.1 192.0.0.9 192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1
    198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255 :: ::1
    ::7f00:1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::ffff:0:8.8.8.8 64:ff9b::8.8.8.8
    64:ff9b:1::8.8.8.8 100::1 2001::1 2001:0:53aa:64c:0:0:80ff:fffe 2001:db8::1
    2002:808:808::1 3fff::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 fe80::1%en0 2606:4700::1%en0
    fec0::1 ff02::1 example.com 8.8.8 08.8.8.8
"""


@pytest.mark.parametrize("address", NOT_PUBLIC.split())
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.215.14", "172.32.0.1", "2606:4700::1111", "2a00:1450::1"]
)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


async def test_cancelling_is_not_a_refusal() -> None:
    async with listening(SLOW_ANSWERS) as listener:
        url = f"http://127.0.0.1:{listener.port}/silent"
        task = asyncio.create_task(fetcher(listener).fetch(url, PARAM))
        while not listener.requests:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
async def test_certificates_are_verified(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    command += " -days 2 -subj /CN=localhost"
    subprocess.run(
        [*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    async with listening(PICTURE, context) as listener:
        named = Fetcher([f"localhost:{listener.port}"])
        await refusal(named, f"https://localhost:{listener.port}/")
        assert listener.requests == []


@pytest.mark.limits
@pytest.mark.parametrize("path", ["/endless", "/endless-chunks", "/gzip", "/header", "/headers"])
async def test_memory_of_bad_answers(path: str) -> None:  # LIMITS 82
    script = f"""
        import asyncio, resource, sys
        from pathlib import Path
        from budmlx.engine.images.fetch import Fetcher
        from budmlx.errors import InvalidRequestError

        def peak():
            # A child's ru_maxrss begins at its parent's on Linux, VmHWM at nothing.
            if sys.platform == "darwin":
                return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if "VmHWM" in line) * 1024

        async def main():
            fetching = Fetcher([sys.argv[1]])
            await fetching.fetch(f"http://{{sys.argv[1]}}/warm", "p")
            before = peak()
            try:
                await fetching.fetch(f"http://{{sys.argv[1]}}{path}", "p")
            except InvalidRequestError:
                print(peak() - before)

        asyncio.run(main())
    """
    async with listening(BAD_ANSWERS | {"/warm": answer(BODY)}) as listener:
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-c", textwrap.dedent(script), f"127.0.0.1:{listener.port}"],
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[3],
        )
        growth, _ = await process.communicate()
    assert int(growth) < 32 * 2**20
