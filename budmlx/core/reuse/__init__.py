"""KV of former prompts and replies: where it is kept, and how prompts begin with it.

May import `core.model` and the row.
"""
