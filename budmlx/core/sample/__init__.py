"""Logits to tokens: bias, penalties, grammars, filters, plugins and the draw itself.

Imports nothing of the core but the row, `plugin_calls`.
"""
