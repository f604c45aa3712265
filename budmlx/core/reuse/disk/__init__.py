"""The disk tier: files of KV blocks, the directory they are in, and its limit.

May import `core.model`.
"""
