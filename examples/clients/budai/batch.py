# budai, "Batch Inference". The address is BUD_BASE_URL.

from budai import BudClient

client = BudClient(api_key="your-key")

prompts = [
    "What is AI?",
    "What is ML?",
    "What is deep learning?"
]

responses = []
for prompt in prompts:
    response = client.chat.completions.create(
        model="llama-3.2-1b",
        messages=[{"role": "user", "content": prompt}]
    )
    responses.append(response.choices[0].message.content)
