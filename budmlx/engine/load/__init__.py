"""Loading: from a model's name to a checked directory and the settings of its core.

May import `engine.images`.
"""
