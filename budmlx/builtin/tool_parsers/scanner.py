"""Scanner: finds tool calls in text, the part that all families of formats share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from budmlx.builtin.reader import Broken, Reader, Steps, markers
from budmlx.plugins.parsing import Call, CallArguments, CallBegun, Piece, Tool


class Calls:
    """Receives the calls that are read, and passes each on whole or in pieces (`in_pieces`).

    known: calls to other functions than the tools are none.
    """

    def __init__(self, reader: Reader, tools: Sequence[Tool], in_pieces: bool, known: bool = False):
        self.schemas = {tool.name: tool.parameters for tool in tools}
        self.begun = False
        self._reader = reader
        self._in_pieces = in_pieces
        self._known = known
        self._name = ""
        self._id: str | None = None
        self._arguments: list[str] = []

    @property
    def given(self) -> bool:
        """Whether a part of the call that is being read was passed on."""
        return self.begun and self._in_pieces

    def check(self, name: str) -> None:
        """Check the name of a call.

        Raises:
            Broken: there is no name, or calls of that name do not count.
        """
        if not name or (self._known and name not in self.schemas):
            raise Broken

    def begin(self, name: str) -> None:
        """Begin a call, whose name is known. Raises as `check` does."""
        self.check(name)
        self.begun, self._name = True, name
        if self._in_pieces:
            self._reader.drop()
            self._reader.give(CallBegun(name, self._id))

    def identify(self, call_id: object) -> None:
        """Note the id that the model gives the call, where it is one."""
        if isinstance(call_id, str) and call_id:
            self._id = call_id

    def arguments(self, text: str) -> None:
        """Add text of the arguments."""
        if not self._in_pieces:
            self._arguments.append(text)
        elif text:
            self._reader.give(CallArguments(text))

    def end(self) -> None:
        """End the call, which is complete with its markup."""
        self._reader.drop()
        if not self._in_pieces:
            self._reader.give(Call(self._name, "".join(self._arguments), self._id))
        self.abandon()

    def abandon(self) -> None:
        """Forget the call that is being read."""
        self.begun = False
        self._id = None
        self._arguments.clear()

    def whole(self, name: str, arguments: str) -> None:
        """Pass on a complete call, of a format that does not come in pieces.

        Raises as `check` does.
        """
        self.check(name)
        self._reader.drop()
        self._reader.give(Call(name, arguments))


@dataclass(frozen=True, slots=True)
class Form:
    """The form of one family's calls in text.

    openers: texts that begin a call or a section of calls. None is the beginning of another.
    read: reads on after an opener, through the end of a call, and gives the call. It raises
    `Broken` where the text is no call.
    closers: texts after calls that are dropped, such as the end of a section.
    bare: what a call without an opener begins with, at the beginning of the reply or directly
    after a call; empty if there is always an opener.
    ends: texts where a call that turned out to be broken ends at the latest.
    """

    openers: tuple[str, ...]
    read: Callable[[Reader, Calls, str], Steps[None]]
    closers: tuple[str, ...] = ()
    bare: str = ""
    ends: tuple[str, ...] = ()


class CallScanner:
    """The `OutputParser` of a form.

    White space before a call and after the last one is dropped. A call that is broken or cut
    off comes back as the text it was; if pieces of it were given already, they stay, and the
    rest is dropped up to its end marker or the next opener, where the form has such a marker.
    A call whose end marker alone is missing at the end of the text counts. If the model ended the
    text itself, tags of its own may be missing there too.
    """

    def __init__(self, form: Form, tools: Sequence[Tool], in_pieces: bool, known: bool = False):
        self._form = form
        self._markers = markers(*form.openers, *form.closers)
        self._ends = markers(*form.ends, *form.openers)
        self._reader = Reader()
        self._calls = Calls(self._reader, tools, in_pieces, known)
        self._steps = self._run()

    def push(self, text: str, last: bool) -> Sequence[Piece]:
        """See `OutputParser`."""
        return self._reader.advance(self._steps, text, last)

    def finish(self) -> None:
        """See `FinishedParser`."""
        self._reader.finished = True

    def _run(self) -> Steps[None]:
        form, reader = self._form, self._reader
        bare, called = bool(form.bare), False
        while True:
            opener = (yield from self._bare(called)) if bare else ""
            opener = opener or (yield from self._text())
            if not opener:
                break
            if opener in form.closers:
                bare = False
                if called:
                    reader.drop()
                else:
                    reader.pass_on(reader.at)
                continue
            whole = yield from self._call(opener)
            bare, called = bool(form.bare) and whole, called or whole
        if reader.after_drop:
            reader.drop()
        else:
            reader.pass_on(len(reader.buffer))

    def _text(self) -> Steps[str]:
        """Pass text on up to a marker, which is read; the empty string if the text ends."""
        reader = self._reader
        while True:
            found = self._markers.search(reader.buffer, reader.at, complete=reader.last)
            reader.at = len(reader.buffer) if found is None else found.start()
            reader.hold_space(reader.at)
            if found is not None and found[1]:
                reader.at = found.end()
                return found[1]
            if reader.last:
                return ""
            yield

    def _bare(self, called: bool) -> Steps[str]:
        """Read the beginning of a call without an opener, if it stands here."""
        reader = self._reader
        yield from reader.space()
        separator = (yield from reader.maybe(";")) if called else ""
        if separator:
            yield from reader.space()
        beginning = yield from reader.maybe(self._form.bare)
        if separator and not beginning:
            reader.pass_on(reader.at)
        return beginning

    def _call(self, opener: str) -> Steps[bool]:
        """Read what follows an opener; returns whether it was a call."""
        reader, calls = self._reader, self._calls
        try:
            yield from self._form.read(reader, calls, opener)
        except Broken:
            if calls.given:
                yield from self._skip()
            else:
                reader.pass_on(reader.at)
            calls.abandon()
            return False
        reader.drop()
        return True

    def _skip(self) -> Steps[None]:
        """Drop text up to the end of a broken call, of which pieces were given."""
        reader = self._reader
        while self._form.ends:
            found = self._ends.search(reader.buffer, reader.at, complete=reader.last)
            reader.at = len(reader.buffer) if found is None else found.start()
            reader.drop()
            if found is not None and found[1]:
                reader.at = found.end() if found[1] in self._form.ends else found.start()
                break
            if reader.last:
                break
            yield
        reader.drop()


def calls_in_reasoning(form: Form, tools: Sequence[Tool]) -> CallScanner:
    """A parser of calls in reasoning: whole ones to these tools, after an opener."""
    return CallScanner(replace(form, bare=""), tools, False, known=True)
