"""The protocol of OpenAI: chat completions, completions, and tokens.

`dialect` is what the server sees. Each endpoint has a module with its body and its handler, as
`chat`; long replies stand beside it (`chat_reply`). Shared are the parts of requests (`messages`,
`tools`, `response_format`, `sampling`), what all of these are (`body`), and the common part of
replies (`reply`). `quirks` are exceptions for single clients.
"""
