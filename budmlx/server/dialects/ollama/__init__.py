"""The protocol of Ollama: chats and texts as JSON lines, and the models on this machine.

`dialect` is what the server sees. `chat`, `generate` and `embed` have a body and a handler each;
what these share is in `generation`, `options`, `messages` and `keep_alive`, and replies are in
`reply`. `listing` tells of models, `files` fetches and deletes them, `names` knows how clients
write them, and `request_body` reads what they send.
"""
