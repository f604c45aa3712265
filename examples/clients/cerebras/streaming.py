# cerebras-cloud-sdk, "Streaming Chat Completion".
# Address and key are CEREBRAS_BASE_URL and CEREBRAS_API_KEY.

from cerebras.cloud.sdk import Cerebras

client = Cerebras()

stream = client.chat.completions.create(
    model="llama3.1-70b",
    messages=[
        {"role": "user", "content": "Tell me a short story"}
    ],
    stream=True,
    max_tokens=500
)

print("Story: ", end="")
for chunk in stream:
    if chunk.choices[0].delta.content:
        print(chunk.choices[0].delta.content, end="", flush=True)
print()
