"""From what callers ask to what the core takes: messages, tools, grammars, prompts.

May import `engine.reply`, `engine.images` and `engine.text`.
"""
