"""A server that is killed at any moment answers every line of a batch once."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from tests import server_process
from tests.models import tiny_model_dir

BODY = {"model": "demo", "max_tokens": 12}


def line(number: int) -> dict[str, Any]:
    own: dict[str, Any] = {"temperature": 0} if number % 2 else {"temperature": 1, "seed": number}
    body = {**BODY, **own, "prompt": f"Line {number}."}
    return {"custom_id": str(number), "method": "POST", "url": "/v1/completions", "body": body}


def killed(tmp_path: Path, lines: int, kills: int, seed: int) -> None:
    """Run a batch through servers that are killed; check its output."""
    rng = random.Random(seed)
    options = [
        str(tiny_model_dir(scale=2.0)),
        "--port",
        "0",
        "--files-dir",
        str(tmp_path / "files"),
        "--warmup",
        "off",
    ]
    environment = {**os.environ, "BUDMLX_DEVICE": "cpu"}
    batch_id = ""
    for turn in range(kills + 1):
        with server_process.started(*options, environment=environment) as (url, process):
            client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=3)
            model = client.models.list().data[0].id
            if not batch_id:
                content = [line(n) for n in range(lines)]
                for each in content:
                    each["body"]["model"] = model
                data = "\n".join(map(json.dumps, content)).encode()
                file = client.files.create(file=("x", data), purpose="batch")
                batch_id = client.batches.create(
                    input_file_id=file.id, endpoint="/v1/completions", completion_window="24h"
                ).id
            if turn < kills:
                time.sleep(rng.random() * 0.8)
                process.send_signal(signal.SIGKILL)
                process.wait()
                continue
            while (batch := client.batches.retrieve(batch_id)).status != "completed":
                assert batch.status in ("validating", "in_progress", "finalizing")
                time.sleep(0.05)
            assert batch.output_file_id is not None and batch.error_file_id is None
            text = client.files.content(batch.output_file_id).text
            entries = [json.loads(each) for each in text.splitlines()]
            assert [entry["custom_id"] for entry in entries] == [str(n) for n in range(lines)]
            for number in rng.sample(range(lines), min(lines, 40)):
                body = {**line(number)["body"], "model": model}
                want = client.completions.create(**body).choices[0].text
                assert entries[number]["response"]["body"]["choices"][0]["text"] == want


def test_a_few_kills(tmp_path: Path) -> None:
    # LIMITS 131
    killed(tmp_path, lines=60, kills=2, seed=1)


@pytest.mark.soak
def test_many_kills(tmp_path: Path) -> None:
    killed(tmp_path, lines=2000, kills=20, seed=2)
