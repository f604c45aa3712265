"""Ids of what is kept, which say whose they are where several servers share an address."""

from __future__ import annotations

import secrets


def new_id(prefix: str, tag: str) -> str:
    """A new id, such as `resp_` with 32 hexadecimal digits and `_a`. tag: of the server, or none.

    prefix: with what parts it from the digits.
    """
    return f"{prefix}{secrets.token_hex(16)}{tag and f'_{tag}'}"
