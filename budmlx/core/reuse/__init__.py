"""The prefix cache: KV of former prompts and replies, stored for prompts that begin alike.

May import `core.model` and the row.
"""
