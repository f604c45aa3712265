"""Preparation of requests for the core: messages, tools, grammars, prompts.

May import `engine.reply`, `engine.images` and `engine.text`.
"""
