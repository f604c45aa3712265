"""HTTPS: real handshakes, and a certificate that is renewed while streams run."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from typer.testing import CliRunner

from budmlx.cli.app import app
from budmlx.config import Config
from budmlx.errors import ConfigError
from budmlx.server.app import HttpServer
from budmlx.server.listening import listen
from budmlx.server.tls import Certificate
from tests.server.conftest import Start

CHAT = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "stream": True}


def make(folder: Path, *arguments: str) -> tuple[Path, Path]:
    done = CliRunner().invoke(app, ["cert", "--directory", str(folder), *arguments])
    assert done.exit_code == 0, done.output
    return folder / "cert.pem", folder / "key.pem"


def trusting(chain: Path) -> aiohttp.TCPConnector:
    return aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(chain)))


async def stream(url: str, chain: Path, most: int) -> str:
    async with (
        aiohttp.ClientSession(url, connector=trusting(chain)) as session,
        session.post("/v1/chat/completions", json={**CHAT, "max_tokens": most}) as reply,
    ):
        return (await reply.text()).splitlines()[-2]


async def test_a_certificate_is_renewed_under_load(start: Start, tmp_path: Path) -> None:
    old = tmp_path / "old.pem"
    chain, key = make(tmp_path)
    old.write_bytes(chain.read_bytes())
    server = await start(tls_cert=chain, tls_key=key)
    assert server.url.startswith("https://")
    running = [asyncio.create_task(stream(server.url, old, 400)) for _ in range(4)]
    await asyncio.sleep(0.2)
    make(tmp_path, "--force")
    async with asyncio.timeout(30):
        while True:  # until the server has seen it
            try:
                assert await stream(server.url, chain, 2) == "data: [DONE]"
                break
            except aiohttp.ClientConnectorCertificateError:
                await asyncio.sleep(0.2)
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        await stream(server.url, old, 2)
    assert await asyncio.gather(*running) == ["data: [DONE]"] * 4


async def test_plain_http_gets_nothing(start: Start, tmp_path: Path) -> None:
    chain, key = make(tmp_path)
    server = await start(tls_cert=chain, tls_key=key)
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(server.url.replace("https", "http") + "/health")
    assert await stream(server.url, chain, 2) == "data: [DONE]"


def test_half_renewed_files_leave_the_former_certificate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chain, key = make(tmp_path / "a")
    other, _ = make(tmp_path / "b")
    certificate = Certificate(chain, key)
    chain.write_bytes(other.read_bytes())
    certificate.refresh()
    assert "stays in use: the key belongs to another" in caplog.text
    key.write_bytes((tmp_path / "b" / "key.pem").read_bytes())
    certificate.refresh()
    assert caplog.text.count("WARNING") == 1


@pytest.mark.parametrize("missing", ["tls_cert", "tls_key", "file", "pem"])
def test_files_that_do_not_fit_are_told(tmp_path: Path, missing: str) -> None:
    chain, key = make(tmp_path)
    given: dict[str, Any] = {"tls_cert": chain, "tls_key": key}
    if missing in given:
        del given[missing]
    elif missing == "file":
        key.unlink()
    else:
        chain.write_text("nothing")
    with pytest.raises(ConfigError, match=r"go together|key\.pem"):
        listen(Config(port=0, **given))


def test_the_key_is_private_and_a_certificate_is_kept(tmp_path: Path) -> None:
    chain, key = make(tmp_path, "--host", "mac.example", "--host", "192.0.2.7", "--days", "3")
    assert key.stat().st_mode & 0o777 == 0o600
    again = CliRunner().invoke(app, ["cert", "--directory", str(tmp_path)])
    assert again.exit_code == 1 and "--force" in again.output
    shown: dict[str, Any] = ssl._ssl._test_decode_cert(str(chain))  # type: ignore[attr-defined]
    assert shown["subjectAltName"] == (("DNS", "mac.example"), ("IP Address", "192.0.2.7"))
    wrong = CliRunner().invoke(app, ["cert", "--directory", str(tmp_path / "x"), "--host", "ä"])
    assert wrong.exit_code == 1 and "no name" in wrong.output


async def test_commands_know_their_own_server(start: Start, tmp_path: Path) -> None:
    chain, key = make(tmp_path, "--host", "elsewhere.example")
    server = await start(tls_cert=chain, tls_key=key)
    listed = await asyncio.to_thread(ps, server, tmp_path, BUDMLX_TLS_CERT=str(chain))
    assert listed.returncode == 0, listed.stderr
    make(tmp_path / "other")
    other = tmp_path / "other" / "cert.pem"
    refused = await asyncio.to_thread(ps, server, tmp_path, BUDMLX_TLS_CERT=str(other))
    assert refused.returncode == 1 and "certificate" in refused.stderr


def ps(server: HttpServer, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "budmlx", "ps"],
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(home),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "BUDMLX_PORT": str(server.port),
            **environment,
        },
        capture_output=True,
        text=True,
    )
