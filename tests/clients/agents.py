"""A server whose model says what scripts say, for clients of whatever environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.clients.server import ROOT, started

SCRIPTS = {
    "look": [
        "<think>\nI will look.\n</think>\n\nLooking.\n<tool_call>\n"
        '{"name": "look", "arguments": {"place": "garden"}}\n</tool_call>',
        "There is a cat.",
    ],
    "think": ["<think>\nA cat, perhaps.\n</think>\n\nA dog."],
    "json": ['{"title": "Cats", "count": 2}'],
}
"""`script NAME;` in a user's message starts one; see `tests.agent_model`."""
PINGS = {"BUDMLX_HOLD_SECONDS": "0", "BUDMLX_KEEPALIVE_SECONDS": "0.01"}
"""Settings with which streams begin before the first token, as those of long prompts do."""

WRITE = (
    "import json, sys; from pathlib import Path; from tests.agent_model import write_agent_model; "
    "write_agent_model(Path(sys.argv[1]), json.loads(sys.argv[2]))"
)


@contextmanager
def serving_scripts(**settings: str) -> Iterator[str]:
    """The address of a server that takes `KEY`; its model is called `agent`.

    settings: of the environment.
    """
    python = os.environ.get("BUDMLX_PYTHON", sys.executable)
    with tempfile.TemporaryDirectory(prefix="budmlx-agent-") as folder:
        path = Path(folder) / "agent"
        scripts = json.dumps({"hello": ["Hello."], "over": ["That is all."], **SCRIPTS})
        subprocess.run([python, "-c", WRITE, str(path), scripts], cwd=ROOT, check=True)
        with started(BUDMLX_MODEL=str(path), BUDMLX_ALIAS="agent", **settings) as (url, _):
            yield url
