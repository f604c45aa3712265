"""Images of requests: fetched, decoded, and prepared by the model's plugin.

May import `engine.text`.
"""
