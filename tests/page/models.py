"""The models of the tests in a browser: `python -m tests.page.models DIRECTORY` writes them."""

from __future__ import annotations

import sys
from pathlib import Path

from budmlx.engine.load.hub import SHIPPED_MODEL
from tests.agent_model import DEFAULT, calling, thinking, write_agent_model
from tests.page.said import SAID
from tests.vision_plugin import write_vision_model


def main(folder: Path) -> None:
    """Write a model that says what scripts say, one that sees, and one that goes on for long."""
    scripts = {
        **DEFAULT,
        **SAID,
        "think": (thinking("The user greets me. I greet back.", "Good day to you!"),),
        "call": (calling("weather", {"city": "Oslo"}, before="Let me look."), "It rains in Oslo."),
    }
    write_agent_model(folder / "agent", scripts)
    write_vision_model(folder / "eyes")
    (folder / "tiny").symlink_to(SHIPPED_MODEL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
