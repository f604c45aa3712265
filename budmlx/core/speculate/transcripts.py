"""Transcripts: what rows said, which others of the same namespace may say again."""

from __future__ import annotations

from collections.abc import Sequence

from budmlx.core.speculate.drafts import Kept
from budmlx.core.speculate.ngram import NgramIndex
from budmlx.lookup import Bounded

# Tokens that are kept of a namespace; when there are more, the older half is dropped.
MOST_KEPT = 2**14
# Namespaces of which anything is kept, those that were used last.
MOST_NAMESPACES = 16
# Occurrences that are compared: fewer than of a row's own text, which is likelier to repeat.
CANDIDATES = 16


class Transcripts:
    """The replies of rows that ended, by namespace, in the order of their ends.

    kept: what rows of all namespaces learnt.
    """

    def __init__(self) -> None:
        self.kept = Kept()
        self._kept: Bounded[str, tuple[list[int], NgramIndex]] = Bounded(count=MOST_NAMESPACES)

    def of(self, namespace: str) -> NgramIndex | None:
        """What was said in a namespace; None if that is nothing. It may be another one later."""
        found = self._kept.get(namespace)
        return None if found is None else found[1]

    def add(self, namespace: str, ids: Sequence[int]) -> None:
        """Keep the end of a reply. ids: what was generated."""
        found, new = self._kept.get(namespace), ids[-MOST_KEPT // 2 :]
        if found is not None and len(found[0]) + len(new) <= MOST_KEPT:
            found[0].extend(new)
            return
        # The list that rows may be drafting from stays as it is.
        old = [] if found is None else found[0][-MOST_KEPT // 2 :]
        kept = [*old, *new]
        self._kept.put(namespace, (kept, NgramIndex(kept, CANDIDATES)))
