"""The protocol of OpenAI: chat completions, completions, and tokens."""
