# cerebras-cloud-sdk, "Basic Chat Completion".
# Address and key are CEREBRAS_BASE_URL and CEREBRAS_API_KEY.

from cerebras.cloud.sdk import Cerebras

client = Cerebras()

response = client.chat.completions.create(
    model="llama3.1-70b",
    messages=[
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is machine learning?"}
    ],
    max_tokens=200,
    temperature=0.7
)

print(response.choices[0].message.content)
print(f"Used {response.usage.total_tokens} tokens")
