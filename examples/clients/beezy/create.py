# beezy-ai, "Create Chat Completions".
# The key is API_KEY_AUTH, as in the document; the address is API_SERVER_URL, with /v1.

import beezy_ai
from beezy_ai import BeezyAI
import os

s = BeezyAI(
    api_key_auth=os.getenv("API_KEY_AUTH", ""),
    server_url=os.getenv("API_SERVER_URL", "http://127.0.0.1:8080/v1"),
)


res = s.chat.create(request={
    "model": "beezy-small-latest",
    "messages": [
        {
            "role": beezy_ai.ChatCompletionRole.USER,
            "content": "What is the weather like in Paris?",
        },
    ],
    "max_tokens": 64,
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "Get the current weather in a given location.",
                "parameters": {},
            },
        },
    ],
    "tool_choice": "auto",
    "random_seed": 1337,
})

if res is not None:
    # handle response
    pass
