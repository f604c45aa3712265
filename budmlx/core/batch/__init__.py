"""Plans and what runs them: prefill, groups of rows that share forward passes, their slots.

May import `core.reuse`, `core.sample`, `core.model` and the row.
"""
