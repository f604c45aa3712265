"""Groups of rows that share forward passes: prefill, slots in their caches, placement.

May import `core.reuse`, `core.sample`, `core.model` and the row.
"""
