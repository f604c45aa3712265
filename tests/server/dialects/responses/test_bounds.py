"""Requests that are made to cost more than they are worth, or to be ambiguous, are told so."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from budmlx.errors import InvalidRequestError
from budmlx.server import sealed
from budmlx.server.app import HttpServer
from budmlx.server.dialects.responses.asked import Asked
from budmlx.server.dialects.responses.encoder import Reply
from budmlx.server.dialects.responses.kept import KeptResponses
from budmlx.server.dialects.responses.reply import ReplyBuilder
from budmlx.server.dialects.responses.tools import Toolbox, ToolList
from budmlx.server.sealed import Sealer
from budmlx.server.wire import MAX_WARNINGS
from budmlx.types import Finished, Timing, Usage
from tests.server.dialects.responses.tools import EXEC, ask

TOOLS: TypeAdapter[list[Any]] = TypeAdapter(ToolList)


def test_warnings_are_bounded(tmp_path: Path, kept: KeptResponses) -> None:
    body = {
        "model": "m",
        "input": [{"role": "user", "content": "Hi"}, *[{"type": "compaction"}] * 1000],
        "tools": [{"type": "web_search"}] * 100,
    }
    asked = Asked(body, Sealer(tmp_path / "key"))
    asked.remember(kept, "")
    found = asked.warnings(strict=False, streaming=False)
    assert len(found) == 2 * (MAX_WARNINGS + 1)
    assert found[MAX_WARNINGS] == f"and {100 - MAX_WARNINGS} more"
    assert found[-1] == f"and {1000 - MAX_WARNINGS} more"


def test_sealed_reasoning_is_bounded(
    tmp_path: Path, kept: KeptResponses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealed, "MOST_OPENED", 1000)
    sealer = Sealer(tmp_path / "key")
    thought = {"type": "reasoning", "encrypted_content": sealer.seal("x" * 600)}
    said = {"role": "assistant", "content": "Yes."}
    asked = Asked({"model": "m", "input": [thought, said]}, sealer)
    asked.remember(kept, "")
    assert asked.request.messages[0].reasoning == "x" * 600
    with pytest.raises(InvalidRequestError) as caught:
        Asked({"model": "m", "input": [thought, said, thought]}, sealer).remember(kept, "")
    assert caught.value.param == "input[2].encrypted_content"


async def test_a_warning_after_the_header_is_in_the_response(tmp_path: Path) -> None:
    sealer = Sealer(tmp_path / "key")
    asked = Asked({"model": "m", "input": "Hi"}, sealer)
    builder = ReplyBuilder(
        asked.response(),
        asked.toolbox,
        sealer,
        summarised=False,
        incremental=False,
        asks_cache=False,
    )

    async def keep() -> str:
        return ""

    reply = Reply(builder, ["a"], keep)
    reply.warn(["b"])
    assert json.loads(reply.headers["X-Budmlx-Warnings"]) == ["a", "b"]
    reply.warn(["c"])
    builder_events = list(builder.add(Finished(("stop",), Usage(1, 1), Timing(0, 0, 0))))
    assert builder_events[-1].response.warnings == ["c"]  # type: ignore[union-attr]


async def test_a_stream_of_the_background_has_the_header(server: HttpServer) -> None:
    answer = await ask(server, input="Hi", strange=1, background=True, stream=True)
    [told] = json.loads(answer.headers["X-Budmlx-Warnings"])
    assert "`strange`" in told


def test_names_of_tools_do_not_collide() -> None:
    function = {key: value for key, value in EXEC.items() if key != "name"}
    plain, longer = {**function, "name": "f"}, {**function, "name": "n.f"}
    space = {"type": "namespace", "name": "n", "tools": [plain]}
    for tools in permutations([plain, longer, space]):
        with pytest.raises(InvalidRequestError, match="has the name of another tool"):
            Toolbox(TOOLS.validate_python(list(tools)))
    for tools in permutations([plain, space]):
        two = Toolbox(TOOLS.validate_python(list(tools)))
        assert (two.name_of("f", None), two.name_of("f", "n")) == ("f", "n.f")
    twice = {**space, "tools": [plain, plain]}
    with pytest.raises(InvalidRequestError, match="has the name of another tool"):
        Toolbox(TOOLS.validate_python([twice]))
