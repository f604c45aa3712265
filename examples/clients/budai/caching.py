# budai, "Response Caching". The address is BUD_BASE_URL.
# Wrong in the document: what it calls cached is the second reply; the first is not.

from budai import BudClient

client = BudClient(api_key="your-key")

# First request - cached
response1 = client.chat.completions.create(
    model="llama-3.2-1b",
    messages=[{"role": "user", "content": "What is AI?"}],
    cache=True
)

# Second request - served from cache
response2 = client.chat.completions.create(
    model="llama-3.2-1b",
    messages=[{"role": "user", "content": "What is AI?"}],
    cache=True
)

print(response2.cached)  # True
