"""Anthropic's messages protocol, as its SDKs, Claude Code and other agents speak it.

`create.py` has the endpoint, `history.py` makes our messages of theirs, `reply.py` encodes.
May import the server's seams, never another dialect.
"""
