"""The loaded model: mlx-lm's module, its KV cache classes, and what they cost in memory.

Imports nothing of the core but `plugin_calls`.
"""
