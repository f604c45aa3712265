"""Token ids to text and back: the tokenizer, its control tokens, text that arrives in pieces.

May import `engine.template`.
"""
