"""From a model's name to a checked directory, and what the core is told about it.

May import `engine.images`.
"""
