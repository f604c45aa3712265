"""How much a test does: a part in the usual run, all of it in long runs (`make test-long`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import settings

# Of a property test that says nothing else, in the usual run and in long ones.
EXAMPLES = 20
LONG_EXAMPLES = 200


def examples(usual: int) -> int:
    """Examples of a property test that needs `usual` ones in the usual run."""
    return usual * settings.default.max_examples // EXAMPLES


def usually(wanted: Callable[[Any], bool], cases: Iterable[Any]) -> list[Any]:
    """Parameters of a test, of which those that are not wanted run in long runs only.

    A case is one value, or a tuple of several.
    """

    def long(case: Any) -> Any:
        values = case if isinstance(case, tuple) else (case,)
        return pytest.param(*values, marks=pytest.mark.long)

    return [case if wanted(case) else long(case) for case in cases]
