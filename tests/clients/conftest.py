"""One server for all tests of a client. It ends with them: other tests look at all children."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.server import KEY, served


@pytest.fixture(scope="package")
def url() -> Iterator[str]:
    with served() as url:
        yield url


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own settings reaches a client."""
    for name in ("OPENAI_API_KEY", "CEREBRAS_API_KEY"):
        monkeypatch.setenv(name, KEY)
    for name in ("OPENAI_BASE_URL", "CEREBRAS_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
