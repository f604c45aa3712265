# beezy-ai, "Create Chat Completions Stream".
# The key is API_KEY_AUTH, as in the document; the address is API_SERVER_URL, with /v1.

import beezy_ai
from beezy_ai import BeezyAI
import os

s = BeezyAI(
    api_key_auth=os.getenv("API_KEY_AUTH", ""),
    server_url=os.getenv("API_SERVER_URL", "http://127.0.0.1:8080/v1"),
)


res = s.chat.stream(request={
    "model": "beezy-small-latest",
    "messages": [
        {
            "role": beezy_ai.ChatCompletionRole.USER,
            "content": "Who is the best French painter? Answer in JSON.",
        },
    ],
    "response_format": {
        "type": "json_object",
    },
    "max_tokens": 512,
    "random_seed": 1337,
})

if res is not None:
    for event in res:
        # handle event
        print(event)
