"""Chat templates: jinja in a sandbox, within limits of time and size.

Imports nothing of the engine.
"""
