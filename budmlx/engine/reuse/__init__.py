"""Reuse of former requests: stored replies, transcripts, and why KV was not reused.

May import `engine.reply` and `engine.text`.
"""
