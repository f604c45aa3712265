"""Tokens to events: text, reasoning, tool calls, and whole completions made of them.

May import `engine.text`.
"""
