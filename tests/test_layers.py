"""The shape of the code: imports point one way, MLX stays in the core, units stay small."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_FILE = 400
MAX_TEST_FILE = 500
MAX_FUNCTION = 60

# From left to right; a module may import what stands in its own group or further left.
LAYERS = [
    {"backend", "clock", "directories", "errors", "log_file", "logs", "lookup", "machine_memory"}
    | {
        "model_context",
        "model_identity",
        "open_files",
        "stacks",
        "progress",
        "threads",
        "units",
        "weight_digests",
    },
    {"types"},
    {""},  # budmlx/__init__.py
    {"protocol"},
    {"config"},
    {"plugins"},
    {"core"},
    {"engine"},
    {"server", "client", "testing", "benchmark"},
    {"builtin"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
# Who may import MLX, and mlx_lm, which imports it.
OWN_MLX = ("budmlx.core", "budmlx.testing", "budmlx.builtin")
# The only module that imports the core; the other host starts it as a process.
IMPORTS_CORE = {"budmlx.engine.hosts.thread"}
COMMAND_MODULES = (
    *(
        "batch",
        "bench",
        "cache",
        "cert",
        "chat",
        "doctor.command",
        "launch.command",
        "embed",
        "generate",
        "keys",
        "models",
        "plugin_commands",
        "plugins",
        "ps",
    ),
    *("pull", "rank", "residence", "rm", "serve", "service.command", "show"),
)
# Modules that are imported or started by name, each with who may do so. The targets load late
# so that `--help` and a server's parent stay free of what they do not need.
LATE = {
    "budmlx": {"budmlx.engine.engine", "budmlx.engine.models.models"},
    "budmlx.client.clients": {"budmlx.server.embedded"},
    "budmlx.engine.run.batch_methods": {"budmlx.server.offline"},
    "budmlx.core.__main__": {"budmlx.core.loop", "budmlx.core.follower"},
    "budmlx.cli.app": {f"budmlx.cli.{name}" for name in COMMAND_MODULES},
    "budmlx.cli.doctor.machine": {"budmlx.core.speed_test"},
    "budmlx.engine.hosts.host": {"budmlx.engine.hosts.thread", "budmlx.engine.hosts.process"},
    "budmlx.engine.hosts.agent": {"budmlx.core.speed_test"},
    "budmlx.engine.hosts.child": {"budmlx.core"},
    "budmlx.engine.hosts.device_memory": {"budmlx.core.device_memory"},
    "budmlx.server.app": {"budmlx.server.telemetry.traces"},
    "budmlx.plugins.discovery": {
        f"budmlx.builtin.{name}"
        for name in ("memory_cache", "reasoning", "stable_prompts", "tool_parsers")
    },
}
# Who else calls importlib: transformers is loaded for few tokenizers, mlx-lm's models by type,
# plugins by name.
IMPORTLIB = LATE.keys() | {
    "budmlx.cli.plugin_commands",
    "budmlx.core.mlx_lm_alone",
    "budmlx.core.plugin_calls",
    "budmlx.testing.tiny_random",
    "budmlx.engine.text.tokenizer_files",
}


# The folders of a ring, each with those that it may import, and what these may import.
ROOMS = {
    "budmlx.core.adapters": (),
    "budmlx.core.model": ("budmlx.core.adapters",),
    "budmlx.core.sample": (),
    "budmlx.core.reuse.disk": ("budmlx.core.model",),
    "budmlx.core.reuse": ("budmlx.core.reuse.disk",),
    "budmlx.core.speculate": (),
    "budmlx.core.batch": ("budmlx.core.reuse", "budmlx.core.sample", "budmlx.core.speculate"),
    "budmlx.core.schedule": ("budmlx.core.batch",),
    "budmlx.core.ranks": ("budmlx.core.batch",),
    "budmlx.engine.template": (),
    "budmlx.engine.text": ("budmlx.engine.template",),
    "budmlx.engine.images": ("budmlx.engine.text",),
    "budmlx.engine.reply": ("budmlx.engine.text",),
    "budmlx.engine.request": ("budmlx.engine.reply", "budmlx.engine.images"),
    "budmlx.engine.reuse": ("budmlx.engine.reply",),
    "budmlx.engine.hosts": (),
    "budmlx.engine.store": (),
    "budmlx.engine.load": ("budmlx.engine.images",),
    "budmlx.engine.run": ("budmlx.engine.request", "budmlx.engine.reuse", "budmlx.engine.hosts"),
    "budmlx.engine.embed": ("budmlx.engine.load", "budmlx.engine.run"),
    "budmlx.engine.models": ("budmlx.engine.load", "budmlx.engine.run"),
    "budmlx.server.batches": (),
    "budmlx.server.dialects": ("budmlx.server.batches",),
    "budmlx.server.telemetry": (),
    "budmlx.server.routes": ("budmlx.server.batches", "budmlx.server.telemetry"),
}
# The folder that says what runs next; what is computed and measured, it hears of.
DECIDES = {"budmlx.core.schedule"}
# Who looks at a model's caches, or at what it refuses, and computes nothing.
PROBES = ("adapters.probe", "model.batchable", "model.loading", "model.quantized_kv")
PROBES += ("reuse.disk.identity",)
# Modules between the folders that all of a ring may import.
SHARED = {
    "budmlx.core.activity",
    "budmlx.core.row",
    "budmlx.core.plugin_calls",
    "budmlx.engine.procedures",
    "budmlx.engine.prompt",
}


# A folder above the facade of its ring.
UPSTAIRS = {"budmlx.engine.models": {"budmlx.engine.assembly", "budmlx.engine.engine"}}


# What the server asks of dialects, and the only module that imports them all.
DIALECTS = "budmlx.server.dialects"
DIALECT_BASE = f"{DIALECTS}.base"
DIALECT_REGISTRY = f"{DIALECTS}.registry"


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in sorted((ROOT / "budmlx").rglob("*.py"))}
FILES = [
    path
    for folder in ("budmlx", "tests", "bench", "examples")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


@cache
def tree_of(module: str) -> ast.Module:
    """A module's syntax tree."""
    return ast.parse(MODULES[module].read_text("utf-8"))


def _imported(node: ast.AST, importer: str) -> Iterator[str]:
    """Full names that an import statement loads: `from a import b` may mean the module a.b."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{importer} has a relative import"
        for alias in node.names:
            inner = f"{node.module}.{alias.name}"
            yield inner if inner in MODULES else str(node.module)


@cache
def imports(module: str) -> frozenset[str]:
    """Everything that a module imports, wherever in the file; `LATE` names not included."""
    found = {name for node in ast.walk(tree_of(module)) for name in _imported(node, module)}
    return frozenset(found - LATE.get(module, set()))


def type_only(module: str) -> set[str]:
    """What a module imports under `if TYPE_CHECKING:`, which never runs."""
    blocks = [
        node
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    return {
        name for block in blocks for node in ast.walk(block) for name in _imported(node, module)
    }


def layer(module: str) -> str:
    """`budmlx.engine.load.hub` -> `engine`; the package itself is the empty string."""
    return module.removeprefix("budmlx").removeprefix(".").partition(".")[0]


def test_imports_point_left() -> None:
    for module in MODULES:
        assert layer(module) in RANK, f"{module} has no place in LAYERS"
        own = {name for name in imports(module) if name.partition(".")[0] == "budmlx"}
        wrong = {name for name in own if RANK[layer(name)] > RANK[layer(module)]}
        assert not wrong, module


def test_only_the_core_knows_mlx() -> None:  # LIMITS 105
    for module in MODULES:
        if module.startswith(OWN_MLX):
            continue
        roots = {name.partition(".")[0] for name in imports(module)}
        assert not roots & {"mlx", "mlx_lm"}, module
        if module not in IMPORTS_CORE:
            assert not {name for name in imports(module) if layer(name) == "core"}, module


def test_nothing_forks() -> None:  # LIMITS 106
    for module in MODULES:
        assert not {name for name in imports(module) if name.startswith("multiprocessing")}, module
        called = {ast.unparse(n.func) for n in ast.walk(tree_of(module)) if isinstance(n, ast.Call)}
        assert not called & {"os.fork", "os.forkpty", "fork"}, module


def room(module: str) -> str:
    """The innermost folder of `ROOMS` that a module is in; empty for what stands between."""
    inside = [each for each in ROOMS if module == each or module.startswith(f"{each}.")]
    return max(inside, key=len, default="")


def reachable(place: str) -> set[str]:
    """The folders that a folder may import, and itself."""
    return {place}.union(*(reachable(each) for each in ROOMS[place]))


def test_folders_import_in_one_order() -> None:
    for module in (each for each in MODULES if room(each)):
        ring = ".".join(module.split(".")[:2])
        own = {name for name in imports(module) - type_only(module) if name.startswith(f"{ring}.")}
        others = {name for name in own if room(name) and room(name) not in reachable(room(module))}
        assert not others, module
        # The server's own modules serve all of its folders; elsewhere few are shared.
        between = {name for name in own if not room(name)}
        assert ring == "budmlx.server" or between <= SHARED | UPSTAIRS.get(room(module), set()), (
            module
        )


def _calls_a_model(node: ast.AST) -> bool:
    """Whether this is `model(...)`, `self._model(...)`, or the same of its module."""
    if not isinstance(node, ast.Call):
        return False
    called = ast.unparse(node.func)
    return re.fullmatch(r"(\w+\.)*_?(model|module)(\.module)?", called) is not None


def test_only_the_executor_and_what_it_hands_the_model_to_call_it() -> None:
    calling = {name for name in MODULES if any(map(_calls_a_model, ast.walk(tree_of(name))))}
    probes = {f"budmlx.core.{name}" for name in PROBES}
    callers = ("batch.group", "batch.prefill", "batch.draft_rows", "model.model")
    callers = {f"budmlx.core.{name}" for name in (*callers, "model.draft_model")}
    assert calling <= callers | probes
    assert "budmlx.core.batch.prefill" in calling, "the test recognises no call"


def test_who_decides_has_neither_model_nor_arrays_nor_a_clock() -> None:
    for module in (each for each in MODULES if room(each) in DECIDES):
        own = imports(module)
        assert "budmlx.core.model.model" not in own, module
        roots = {name.partition(".")[0] for name in own}
        assert not roots & {"mlx", "mlx_lm", "numpy", "time"}, module


def dialect(module: str) -> str:
    """What holds a dialect: the folder that a module is in; empty for all other modules."""
    if module in (DIALECT_BASE, DIALECT_REGISTRY) or not module.startswith(f"{DIALECTS}."):
        return ""
    return module.removeprefix(f"{DIALECTS}.").partition(".")[0]


def test_dialects_are_known_to_the_registry_alone() -> None:
    for module in (each for each in MODULES if layer(each) == "server"):
        others = {dialect(name) for name in imports(module)} - {"", dialect(module)}
        assert not others or module == DIALECT_REGISTRY, module
        knows = DIALECT_REGISTRY in imports(module)
        assert not knows or module == "budmlx.server.app", module


def _own_nodes(function: ast.AsyncFunctionDef) -> Iterator[ast.AST]:
    """The nodes of a function, without those of functions within."""
    nodes: list[ast.AST] = [*function.body]
    while nodes:
        node = nodes.pop()
        if not isinstance(node, ast.FunctionDef | ast.Lambda):
            yield node
            nodes += ast.iter_child_nodes(node)


def test_names_of_models_are_looked_up_off_the_loop() -> None:
    blocking = r"(\w+\.)*(models|app\[MODELS\])\.(find|resident|refresh|load)"
    seen = 0
    for module in (each for each in MODULES if layer(each) == "server"):
        for function in ast.walk(tree_of(module)):
            if not isinstance(function, ast.AsyncFunctionDef):
                continue
            called = {
                ast.unparse(node.func)
                for node in _own_nodes(function)
                if isinstance(node, ast.Call)
            }
            assert not any(re.fullmatch(blocking, each) for each in called), module
            seen += any(each.endswith(".afind") for each in called)
    assert seen > 2, "the test recognises no call"


def test_there_are_no_cycles() -> None:
    """Nor do two modules need each other for their types alone."""
    graph = {module: imports(module) & MODULES.keys() - {module} for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def test_imports_stand_at_the_top() -> None:
    for module in MODULES:
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
        functions = [node for node in ast.walk(tree_of(module)) if isinstance(node, kinds)]
        inside = {
            f"{function.name}:{node.lineno}"
            for function in functions
            for node in ast.walk(function)
            if isinstance(node, ast.Import | ast.ImportFrom)
        }
        assert not inside, module


def test_modules_that_are_named_in_strings_are_listed() -> None:
    for module in MODULES:
        constants = [node for node in ast.walk(tree_of(module)) if isinstance(node, ast.Constant)]
        named = {
            match[1]
            for node in constants
            if isinstance(node.value, str)
            and (match := re.fullmatch(r"(budmlx(?:\.\w+)+)(?::\w+)?", node.value))
            and match[1] in MODULES
        }
        assert named <= LATE.get(module, set()), module
        uses_importlib = any(
            isinstance(node, ast.Attribute) and node.attr == "import_module"
            for node in ast.walk(tree_of(module))
        )
        assert not uses_importlib or module in IMPORTLIB, module


def test_units_stay_small() -> None:
    for path in FILES:
        text = path.read_text("utf-8")
        limit = MAX_TEST_FILE if path.is_relative_to(ROOT / "tests") else MAX_FILE
        assert len(text.splitlines()) <= limit, path
        long = {
            f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and node.end_lineno is not None
            and node.end_lineno - node.lineno >= MAX_FUNCTION
        }
        assert not long, path


def test_patterns_work_in_all_pythons() -> None:
    """Before CPython 3.11.5, possessive groups matched less than they should."""
    for module in MODULES:
        constants = [node for node in ast.walk(tree_of(module)) if isinstance(node, ast.Constant)]
        texts = [node.value for node in constants if isinstance(node.value, str)]
        assert not [text for text in texts if re.search(r"\)[*+?]\+", text)], module
