"""A client for chats: over HTTP, or of an engine in the same process.

>>> with BudClient(engine=engine) as client:
...     messages = [{"role": "user", "content": "Hi"}]
...     reply = client.chat.completions.create(model="any", messages=messages, max_tokens=4)
...     reply.choices[0].finish_reason, reply.usage.completion_tokens, reply.cached
('length', 4, False)
"""

from __future__ import annotations

try:
    import openai as _openai
except ImportError as error:
    raise ImportError('budmlx.client needs openai: pip install "budmlx[client]"') from error

from budmlx.client.chat import AsyncChatStream, ChatCompletion, ChatCompletionChunk, ChatStream
from budmlx.client.clients import AsyncBudClient, BudClient
from budmlx.client.errors import BudAPIError, RateLimitError

del _openai

__all__ = [
    "AsyncBudClient",
    "AsyncChatStream",
    "BudAPIError",
    "BudClient",
    "ChatCompletion",
    "ChatCompletionChunk",
    "ChatStream",
    "RateLimitError",
]
