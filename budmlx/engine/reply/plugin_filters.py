"""Output filters of plugins, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

from budmlx.plugins.boundary import calling, checked_text
from budmlx.plugins.manager import Owned
from budmlx.plugins.specs import EndText, OutputFilter, OutputFilterFactory


class FilterChain:
    """The output filters of one choice, each fed by the one before it.

    ended: a filter ended the text; nothing may be pushed any more.
    """

    def __init__(self, factories: Sequence[Owned[OutputFilterFactory]]):
        self.ended = False
        self._filters: list[Owned[OutputFilter]] = []
        for factory in factories:
            with calling(factory.plugin, "output filter"):
                self._filters.append(Owned(factory.plugin, factory.value()))

    def push(self, text: str, *, last: bool) -> str:
        """The part of the text that may be shown now. Raises PluginError."""
        for each in self._filters:
            if not text and not last:
                break
            with calling(each.plugin, "output filter"):
                result = each.value.push(text, last)
            if isinstance(result, EndText):
                self.ended = last = True
                result = result.text
            text = checked_text(each.plugin, "output filter", result)
        return text
