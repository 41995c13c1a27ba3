"""The rules of the library's shape, checked on its source: who imports whom, and what may not be written."""

import ast
import functools
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import bdl

ROOT = Path(bdl.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
EACH_FILE = pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))

PACKAGES = sorted(".".join(("bdl", *f.relative_to(ROOT).parts[:-1])) for f in FILES if f.stem == "__init__")

# A room imports only rooms of earlier lines, and never its neighbours. A private file of the root stands with the rooms
# that it helps, before them; one that is not named here imports no room at all.
LAYERS = (
    {"networks", "likelihoods", "metrics", "uncertainty", "data"},
    {"priors", "families", "calibration", "conformal"},
    {"noise"},
    {"posteriors", "model"},
    {"_bind", "kl", "_outputs"},
    {"objectives"},
    {"inference", "_draws", "_mixture"},
    {"_activation_maps", "log_predictive", "predict", "function_draw"},
    {"prior_predictive"},
    {"_training", "_trail", "_resume", "_watch", "fit"},
    {"checkpoint", "diagnostics", "evaluate", "export", "_health", "ood", "plots", "prune", "summary", "testing"},
)


def room(file: Path) -> str:
    return file.relative_to(ROOT).with_suffix("").parts[0]


def level(name: str) -> int:
    if name == "__init__":
        return len(LAYERS)
    found = [i for i, rooms in enumerate(LAYERS) if name in rooms] or [-1] * name.startswith("_")
    assert found, f"bdl/{name} has no place in the order of the rooms; give it one in LAYERS of {__file__}"
    return found[0]


@functools.cache
def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), str(file))


def imported_rooms(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, room) of every import from bdl, those inside functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute (`from bdl.x import y`)"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "bdl":
                yield node.lineno, parts[1] if len(parts) > 1 else "__init__"


def code_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but docstrings and other strings that stand alone."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            yield node
            yield from code_nodes(node)


def backward_arrows(name: str, tree: ast.AST) -> list[str]:
    return [
        f"line {line}: bdl.{name} imports bdl.{other}"
        for line, other in imported_rooms(tree)
        if other != name and not (level(other) < level(name) or (other.startswith("_") and level(other) == level(name)))
    ]


def platform_names(tree: ast.AST) -> list[str]:
    return [
        f"line {node.lineno}: {node.value!r}"
        for node in code_nodes(tree)
        if isinstance(node, ast.Constant) and node.value in ("cpu", "gpu", "cuda", "rocm", "tpu")
    ]


def class_name_tests(tree: ast.AST) -> list[str]:
    """Comparisons with `type(x).__name__` or `x.__class__.__name__`, or with those names in a `match`."""

    def is_class_name(node: ast.AST) -> bool:
        if not (isinstance(node, ast.Attribute) and node.attr in ("__name__", "__qualname__")):
            return False
        owner = node.value
        by_type = isinstance(owner, ast.Call) and isinstance(owner.func, ast.Name) and owner.func.id == "type"
        return by_type or (isinstance(owner, ast.Attribute) and owner.attr == "__class__")

    def sides(node: ast.AST) -> list[ast.AST]:
        if isinstance(node, ast.Compare):
            return [node.left, *node.comparators]
        if isinstance(node, ast.Match):
            return [node.subject]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            return [node.func.value] if node.func.attr in ("startswith", "endswith", "find") else []
        return []

    return [f"line {node.lineno}" for node in code_nodes(tree) if any(map(is_class_name, sides(node)))]


def constant_keys(tree: ast.AST) -> list[str]:
    """Random keys made from a number that stands in the code; only checks of other code may have them."""
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in code_nodes(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).split(".")[-1] in ("key", "PRNGKey")
        and "random" in ast.unparse(node.func)
        and node.args
        and isinstance(node.args[0], ast.Constant)
    ]


def swallowed_options(tree: ast.AST) -> list[str]:
    """`kwargs.get(...)` or `.pop(...)` of a function's own `**kwargs`: a misspelt option would pass in silence."""
    found = []
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and function.args.kwarg:
            name = function.args.kwarg.arg
            found += [
                f"line {node.lineno}: {ast.unparse(node)}"
                for node in ast.walk(function)
                if isinstance(node, ast.Call) and ast.unparse(node.func) in (f"{name}.get", f"{name}.pop")
            ]
    return found


@EACH_FILE
def test_imports_run_one_way(file):
    name = room(file)
    assert name == "__init__" or not backward_arrows(name, parse(file))


@EACH_FILE
def test_files_are_short(file):
    assert len(file.read_text().splitlines()) < 400


@EACH_FILE
@pytest.mark.parametrize("rule", [platform_names, class_name_tests, constant_keys, swallowed_options])
def test_forbidden_code(file, rule):
    if rule is constant_keys and room(file) == "testing":
        return
    assert not rule(parse(file))


@pytest.mark.parametrize(
    ("rule", "bad", "good"),
    [
        (functools.partial(backward_arrows, "families"), "from bdl import model", "from bdl import _keys"),
        (functools.partial(backward_arrows, "metrics"), "def f():\n    import bdl.model", "import numpy"),
        (functools.partial(backward_arrows, "_keys"), "from bdl.families import point", "from bdl._paths import match"),
        (platform_names, "x = p == 'gpu'", "'''gpu'''\nx = 'a gpu'"),
        (class_name_tests, "type(x).__name__ == 'A'", "f'{type(x).__name__}'"),
        (class_name_tests, "x.__class__.__name__ in names", "f.__name__ == 'A'"),
        (constant_keys, "k = jax.random.key(0)", "k = jax.random.key(seed)"),
        (swallowed_options, "def f(**kw):\n    return kw.get('a')", "def f(**kw):\n    return g(**kw)"),
    ],
)
def test_rules_find_what_they_forbid(rule, bad, good):
    assert rule(ast.parse(bad))
    assert not rule(ast.parse(good))


def test_import_touches_no_device():
    """Importing must leave the choice of devices, of precision and of the key implementation to the user."""
    code = (
        "import jax; from jax._src import xla_bridge; before = dict(jax.config.values)\n"
        "import bdl; [getattr(bdl, name) for name in bdl.__all__]\n"
        "assert not xla_bridge.backends_are_initialized(), 'a device was initialised'\n"
        "changed = {k for k, v in jax.config.values.items() if k in before and before[k] != v}\n"
        "assert not changed, changed"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def public_functions() -> dict[str, object]:
    """Functions of the root's and the rooms' `__all__`, by their names."""
    found = {}
    for module in map(importlib.import_module, PACKAGES):
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if inspect.isfunction(value):
                found[f"{module.__name__}.{name}"] = value
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_every_room_names_what_is_public(package):
    module = importlib.import_module(package)
    assert not [name for name in module.__all__ if not hasattr(module, name)]


VERBS = {"activation_maps", "elbo", "fit", "function_draw", "kl", "log_predictive", "predict", "prior_predictive"}


@pytest.mark.parametrize("name", sorted(VERBS))
def test_verbs_take_the_key_first_and_policy_by_keyword(name):
    parameters = list(inspect.signature(getattr(bdl, name)).parameters.values())
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional[0] == "key"
    order = [p for p in positional if p in ("algorithm", "posterior", "model")]
    assert order == [p for p in ("algorithm", "posterior", "model") if p in order]
    optional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is not p.empty]
    assert optional == (["index"] if name == "function_draw" else []), "options are keyword-only"


@pytest.mark.parametrize("name", sorted(public_functions()))
def test_every_public_function_orders_its_arguments_alike(name):
    parameters = inspect.signature(public_functions()[name]).parameters
    positional = [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert "key" not in positional[1:], "a key is the first argument"
    if "posterior" in positional and "model" in positional:
        assert positional.index("posterior") < positional.index("model")
