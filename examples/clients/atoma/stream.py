# atoma-sdk, chat.stream.
# The key is ATOMASDK_BEARER_AUTH, as in the document; the address is ATOMASDK_SERVER_URL.
# Wrong in the document for atoma-sdk 0.1.3, the newest that can be installed: it has no RoleSystem,
# RoleUser and RoleAssistant (the roles are written as text), no `stream` (it is `create_stream`),
# and none of max_completion_tokens (here max_tokens), parallel_tool_calls, service_tier and
# top_logprobs, which are left out. tests/server/dialects/openai/test_documented.py sends the whole body.

import atoma_sdk
from atoma_sdk import AtomaSDK
import os


with AtomaSDK(
    bearer_auth=os.getenv("ATOMASDK_BEARER_AUTH", ""),
    server_url=os.getenv("ATOMASDK_SERVER_URL", "http://127.0.0.1:8080"),
) as as_client:

    res = as_client.chat.create_stream(messages=[
        {
            "content": "You are a helpful AI assistant",
            "name": "AI expert",
            "role": "system",
        },
        {
            "content": "Hello!",
            "name": "John Doe",
            "role": "user",
        },
        {
            "content": "I'm here to help you with any questions you have. How can I assist you today?",
            "name": "AI",
            "role": "assistant",
        },
    ], model="meta-llama/Llama-3.3-70B-Instruct", frequency_penalty=0, functions=[
        {
            "name": "get_current_weather",
            "description": "Get the current weather in a location",
            "parameters": {
                "type": "object",
                "properties": {
                    "location": {
                        "type": "string",
                        "description": "The location to get the weather for",
                    },
                },
                "required": [
                    "location",
                ],
            },
        },
    ], logit_bias={
        "1234567890": 0.5,
        "1234567891": -0.5,
    }, max_tokens=4096, n=1, presence_penalty=0, seed=123, stop=[
        "json([\"stop\", \"halt\"])",
    ], temperature=0.7, tools=[
        {
            "function": {
                "description": "Get the current weather in a location",
                "name": "get_current_weather",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "location": {
                            "type": "string",
                            "description": "The location to get the weather for",
                        },
                    },
                    "required": [
                        "location",
                    ],
                },
            },
            "type": "function",
        },
    ], top_p=1, user="user-1234")

    with res as event_stream:
        for event in event_stream:
            # handle event
            print(event, flush=True)
