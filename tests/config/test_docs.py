"""The page about the configuration is current, and what it shows works."""

from __future__ import annotations

import re
from pathlib import Path

from budmlx.config import Config
from budmlx.config.sources import load_config

PAGE = Path(__file__).parent.parent.parent / "docs" / "configuration.md"


def test_all_settings_are_in_the_table() -> None:
    page = PAGE.read_text("utf-8")
    assert all(f"| `{name}` |" in page for name in Config.model_fields if name != "models")


def test_the_examples_are_files_that_load(tmp_path: Path) -> None:
    examples = re.findall(r"```toml\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert len(examples) == 3
    configs = []
    for example in examples:
        (tmp_path / "c.toml").write_text(example)
        configs.append(load_config({}, tmp_path / "c.toml").config)
    _, config, aliases = configs
    assert aliases.for_model(aliases.alias_of("claude-opus-4")).model == (
        "mlx-community/Qwen3-32B-4bit"
    )
    assert config.for_model("large").max_rows == 4
    assert config.for_model("gpt-4o-mini").kv_bits == 8
    assert config.for_model("gpt-4o-mini").max_rows == 16
