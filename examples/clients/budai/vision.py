# budai, "Vision Models". The address is BUD_BASE_URL.
# It needs a model that sees, and a server with --image-host example.com; the picture of the document
# does not exist. A model that does not see answers 400.

from budai import BudClient

client = BudClient(api_key="your-key")

response = client.chat.completions.create(
    model="llava-1.6",
    messages=[
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What's in this image?"},
                {
                    "type": "image_url",
                    "image_url": {"url": "https://example.com/image.jpg"}
                }
            ]
        }
    ]
)
