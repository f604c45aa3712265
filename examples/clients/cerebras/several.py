# cerebras-cloud-sdk, "Multiple Completions".
# Address and key are CEREBRAS_BASE_URL and CEREBRAS_API_KEY.

from cerebras.cloud.sdk import Cerebras

client = Cerebras()

response = client.chat.completions.create(
    model="llama3.1-70b",
    messages=[
        {"role": "user", "content": "Write a creative opening line for a story"}
    ],
    n=3,  # Generate 3 different completions
    max_tokens=50,
    temperature=0.9
)

for i, choice in enumerate(response.choices):
    print(f"Option {i+1}: {choice.message.content}")
