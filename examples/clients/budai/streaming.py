# budai, "Streaming Responses". The address is BUD_BASE_URL.

from budai import BudClient

client = BudClient(api_key="your-key")

stream = client.chat.completions.create(
    model="llama-3.2-1b",
    messages=[{"role": "user", "content": "Explain quantum physics"}],
    stream=True
)

for chunk in stream:
    if chunk.choices[0].delta.content:
        print(chunk.choices[0].delta.content, end="", flush=True)
