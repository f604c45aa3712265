"""Speculation: what rows may say next, found in what was said before, on the host alone.

Imports nothing of the core.
"""
