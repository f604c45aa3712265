"""What may be changed in a file: one place of its source each, and what stands there instead."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}


@dataclass(frozen=True)
class Change:
    """`before`, which starts at `line` and `column` (characters, from 0), becomes `after`."""

    function: str
    line: int
    column: int
    before: str
    after: str

    def applied(self, source: str) -> str:
        """The source with this change. Raises ValueError: something else stands there."""
        lines = source.splitlines(keepends=True)
        start = sum(map(len, lines[: self.line - 1])) + self.column
        if not source.startswith(self.before, start):
            raise ValueError(f"line {self.line} does not hold {self.before!r}")
        return source[:start] + self.after + source[start + len(self.before) :]


def changes_of(source: str) -> list[Change]:
    """All changes of a file, in the order of their places."""
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    return sorted(finder.found, key=lambda change: (change.line, change.column, change.after))


class _Finder(ast.NodeVisitor):
    """Walks over what runs within functions: no annotations, defaults, or texts for people."""

    def __init__(self, source: str):
        self.found: list[Change] = []
        self._source = source
        self._lines = source.splitlines()
        self._names: list[str] = []

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._named(node.name, [each for each in node.body if _defines(each)])

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._named(node.name, node.body)

    visit_AsyncFunctionDef = visit_FunctionDef

    def _named(self, name: str, body: list[ast.stmt]) -> None:
        self._names.append(name)
        for each in body:
            self.visit(each)
        self._names.pop()

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Nothing: what is in it is told people, most of the time."""

    def generic_visit(self, node: ast.AST) -> None:
        if self._names and isinstance(node, ast.expr | ast.stmt):
            for after in _alternatives(node):
                self._note(node, after)
        super().generic_visit(node)

    def _note(self, node: ast.expr | ast.stmt, after: str) -> None:
        before = ast.get_source_segment(self._source, node)
        assert before is not None
        if isinstance(node, ast.If | ast.While):
            return
        bytes_before = self._lines[node.lineno - 1].encode()[: node.col_offset]
        column = len(bytes_before.decode())
        # Within brackets, so that it stays one expression wherever it stands.
        text = f"({after})" if isinstance(node, ast.expr) and not after.isidentifier() else after
        self.found.append(Change(".".join(self._names), node.lineno, column, before, text))


def _defines(node: ast.stmt) -> bool:
    return isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)


def _alternatives(node: ast.expr | ast.stmt) -> Iterator[str]:
    """What may stand in place of a node."""
    match node:
        case ast.Compare(ops=[operator]) if type(operator) in COMPARISONS:
            other = ast.Compare(node.left, [COMPARISONS[type(operator)]()], node.comparators)
            yield ast.unparse(other)
        case ast.BoolOp():
            other_kind = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield ast.unparse(ast.BoolOp(other_kind, node.values))
        case ast.UnaryOp(op=ast.Not()):
            yield ast.unparse(node.operand)
        case ast.BinOp() if type(node.op) in OPERATORS and not _of_texts(node):
            yield ast.unparse(ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right))
        case ast.Constant(value=bool()):
            yield str(not node.value)
        case ast.Constant(value=int() | float()):
            yield repr(node.value + 1)
        case ast.Constant(value=str(text)) if text.isidentifier():
            yield repr(f"{text}_")
        case ast.IfExp():
            yield ast.unparse(ast.IfExp(node.test, node.orelse, node.body))
        case ast.Return(value=ast.expr()) if not _is_none(node.value):
            yield "return None"
        case ast.AugAssign() if type(node.op) in OPERATORS:
            yield ast.unparse(ast.AugAssign(node.target, OPERATORS[type(node.op)](), node.value))
        case ast.Expr(value=ast.Call() | ast.Await()):
            yield "pass"
        case ast.Continue():
            yield "break"
        case ast.Break():
            yield "continue"


def _is_none(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _of_texts(node: ast.BinOp) -> bool:
    return any(
        isinstance(side, ast.JoinedStr)
        or (isinstance(side, ast.Constant) and isinstance(side.value, str))
        for side in (node.left, node.right)
    )
