"""The dialects that the server speaks. A new one needs its own folder, and its name here."""

from __future__ import annotations

from budmlx.server.dialects.anthropic.dialect import Anthropic
from budmlx.server.dialects.base import Dialects
from budmlx.server.dialects.ollama.dialect import Ollama
from budmlx.server.dialects.openai.dialect import OpenAI
from budmlx.server.dialects.responses.dialect import Responses

DIALECTS = Dialects(OpenAI(), Anthropic(), Ollama(), Responses())
