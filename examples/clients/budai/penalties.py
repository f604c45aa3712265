# budai, "Presence and Frequency Penalties". The address is BUD_BASE_URL.

from budai import BudClient

client = BudClient(api_key="your-key")

# Reduce repetition
response = client.chat.completions.create(
    model="llama-3.2-1b",
    messages=[{"role": "user", "content": "List 10 unique ideas"}],
    presence_penalty=0.6,   # Encourage new topics
    frequency_penalty=0.8   # Penalize repeated phrases
)
