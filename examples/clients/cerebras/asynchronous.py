# cerebras-cloud-sdk, "Async Chat Completion".
# Address and key are CEREBRAS_BASE_URL and CEREBRAS_API_KEY.
# Wrong in the document: `await client.aclose()`; the package has `close()`.

import asyncio
from cerebras.cloud.sdk import AsyncCerebras

async def chat_example():
    client = AsyncCerebras()

    response = await client.chat.completions.create(
        model="llama3.1-70b",
        messages=[
            {"role": "user", "content": "Explain quantum computing"}
        ],
        max_tokens=300
    )

    print(response.choices[0].message.content)

    await client.close()

asyncio.run(chat_example())
