"""LoRA adapters as messages name them: by the digest of their files."""

from __future__ import annotations

import msgspec


class AdapterSource(msgspec.Struct, frozen=True):
    """The files of an adapter. path: their directory.

    digest: what they must have; empty takes them as they are.
    """

    path: str
    digest: str = ""


class AddAdapter(msgspec.Struct, frozen=True, tag="add_adapter"):
    """Load an adapter; the core answers when rows may use it, or with the problem."""

    source: AdapterSource


class RemoveAdapter(msgspec.Struct, frozen=True, tag="remove_adapter"):
    """Forget an adapter that no row uses; the core answers when it has."""

    source: AdapterSource


class AdapterAnswer(msgspec.Struct, frozen=True, tag="adapter"):
    """The outcome for an adapter: of loading it or, if `removed`, of forgetting it.

    digest: SHA-256 of its files, hexadecimal, by which rows choose it. nbytes: of its matrices as
    they are stored. problem: why there is none of this; else empty.
    """

    source: AdapterSource
    digest: str = ""
    nbytes: int = 0
    removed: bool = False
    problem: str = ""
