"""Documented code runs as it is written, against a server of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import budai
import pytest

import budmlx.client

SNIPPET = """
from budai import BudClient, BudAPIError, RateLimitError

client = BudClient(api_key="your-key")

response = client.chat.completions.create(
    model="llama-3.2-3b",
    messages=[{"role": "user", "content": "Write a haiku about AI"}],
    temperature=0.7,
    max_tokens=10,
    top_p=0.9,
    frequency_penalty=0.5,
    presence_penalty=0.3,
    cache=True,
)
print(f"{response.id} {response.model} {response.usage.total_tokens} {response.cached}")

stream = client.chat.completions.create(
    model="llama-3.2-1b",
    messages=[{"role": "user", "content": "Count to 10"}],
    max_tokens=10,
    stop=["5", "\\n\\n"],
    stream=True,
)
for chunk in stream:
    if chunk.choices[0].delta.content:
        print(chunk.choices[0].delta.content, end="", flush=True)
    if chunk.choices[0].finish_reason:
        print(f"Finish reason: {chunk.choices[0].finish_reason}")

try:
    client.chat.completions.create(model="llama-3.2-1b", messages=[])
except RateLimitError as e:
    print(f"Rate limited. Retry after {e.retry_after}s")
except BudAPIError as e:
    print(f"Error: {e.status_code} - {e.message}")
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "budmlx", "serve", "--demo", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    match = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
    assert match is not None
    yield match[0]
    process.kill()
    process.communicate()


def test_documented_code_runs(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUD_BASE_URL", url)
    done = subprocess.run(
        [sys.executable, "-c", SNIPPET], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"chatcmpl-\w+ llama-3.2-3b \d+ False", done.stdout)
    assert "Finish reason: " in done.stdout
    assert "Error: 400 - `messages`" in done.stdout


def test_the_names_are_those_of_the_client() -> None:
    for name in ("BudClient", "AsyncBudClient", "BudAPIError", "RateLimitError"):
        assert getattr(budai, name) is getattr(budmlx.client, name)
