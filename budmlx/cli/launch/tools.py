"""Coding agents: variables and arguments by which each of them finds the server and its model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LEAST_CONTEXT = 32_000
"""Tokens below which these tools cannot work: their first prompts have up to 30,000."""
MOST_REPLY = 32_000
"""Tokens of one reply that a tool is told of, at most; of a small context a quarter."""
NO_KEY = "none"
"""Stands for a key where a tool insists on one and the server asks for none."""


@dataclass(frozen=True, slots=True)
class Target:
    """The server and the model that a tool is to use.

    url: without `/v1`. key: of the server, or empty. context: tokens of a prompt and its reply.
    certificate: the file with that which the server has with HTTPS, if nobody else vouches for it.
    """

    url: str
    key: str
    model: str
    context: int
    certificate: Path | None = None

    @property
    def api(self) -> str:
        """The address with `/v1`."""
        return f"{self.url}/v1"

    @property
    def reply(self) -> int:
        """The most tokens of one reply that a tool should ask for."""
        return min(MOST_REPLY, self.context // 4)


@dataclass(frozen=True, slots=True)
class Setup:
    """What a tool is started with, beside the user's own variables and arguments.

    arguments: they go before the user's. settings: of a file, whose path is the value of
    `settings_variable`.
    """

    variables: Mapping[str, str]
    arguments: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    settings_variable: str = ""


@dataclass(frozen=True, slots=True)
class Tool:
    """A coding agent. program: what it is called in PATH. package: of npm."""

    program: str
    package: str
    setup: Callable[[Target], Setup]


def claude(target: Target) -> Setup:
    """Claude Code: all tiers of models are the same one."""
    tiers = ("OPUS", "SONNET", "HAIKU")
    return Setup(
        {
            "ANTHROPIC_BASE_URL": target.url,
            "ANTHROPIC_AUTH_TOKEN": target.key or NO_KEY,
            "ANTHROPIC_API_KEY": "",
            "ANTHROPIC_MODEL": target.model,
            **{f"ANTHROPIC_DEFAULT_{tier}_MODEL": target.model for tier in tiers},
            "CLAUDE_CODE_SUBAGENT_MODEL": target.model,
            "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(target.context),
            "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(target.reply),
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
            "DISABLE_TELEMETRY": "1",
        }
    )


def codex(target: Target) -> Setup:
    """Codex: a provider of its own, by overrides of its configuration."""
    provider = {
        "name": "budmlx",
        "base_url": target.api,
        "env_key": "BUDMLX_LAUNCH_KEY",
        "wire_api": "responses",
    }
    overrides: dict[str, Any] = {
        "model": target.model,
        "model_provider": "budmlx",
        **{f"model_providers.budmlx.{name}": value for name, value in provider.items()},
        "model_context_window": target.context,
        "analytics.enabled": False,
        "check_for_update_on_startup": False,
    }
    # Values are TOML, in which JSON's texts, numbers and booleans are the same.
    pairs = [("-c", f"{name}={json.dumps(value)}") for name, value in overrides.items()]
    return Setup(
        {"BUDMLX_LAUNCH_KEY": target.key or NO_KEY},
        tuple(argument for pair in pairs for argument in pair),
    )


def opencode(target: Target) -> Setup:
    """opencode: a provider of its own, in the configuration that goes before all files."""
    limits = {"context": target.context, "output": target.reply}
    content = {
        "$schema": "https://opencode.ai/config.json",
        "provider": {
            "budmlx": {
                "npm": "@ai-sdk/openai-compatible",
                "name": "budmlx",
                "options": {"baseURL": target.api, "apiKey": target.key or NO_KEY},
                "models": {target.model: {"name": target.model, "limit": limits}},
            }
        },
        "model": f"budmlx/{target.model}",
        "small_model": f"budmlx/{target.model}",
        "autoupdate": False,
        "share": "disabled",
    }
    return Setup(
        {
            "OPENCODE_CONFIG_CONTENT": json.dumps(content, ensure_ascii=False),
            "OPENCODE_DISABLE_AUTOUPDATE": "true",
        }
    )


def qwen(target: Target) -> Setup:
    """Qwen Code: its context has no variable, so that it needs a file of settings."""
    settings = {
        "security": {"auth": {"selectedType": "openai"}},
        "model": {
            "name": target.model,
            "generationConfig": {"contextWindowSize": target.context},
        },
        "privacy": {"usageStatisticsEnabled": False},
        "telemetry": {"enabled": False},
    }
    return Setup(
        {
            "OPENAI_BASE_URL": target.api,
            "OPENAI_API_KEY": target.key or NO_KEY,
            "OPENAI_MODEL": target.model,
            "QWEN_USAGE_STATISTICS_ENABLED": "false",
            "QWEN_TELEMETRY_ENABLED": "false",
        },
        settings=settings,
        settings_variable="QWEN_CODE_SYSTEM_SETTINGS_PATH",
    )


TOOLS: Mapping[str, Tool] = {
    "claude": Tool("claude", "@anthropic-ai/claude-code", claude),
    "codex": Tool("codex", "@openai/codex", codex),
    "opencode": Tool("opencode", "opencode-ai", opencode),
    "qwen": Tool("qwen", "@qwen-code/qwen-code", qwen),
}
"""The agents that can be launched, by the names that users type."""
