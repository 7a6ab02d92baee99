"""The walls of the house: sizes of files, functions and parameter lists; no test imports another."""

import ast

import pytest

from tests.support.root import ROOT

LINES, FUNCTION_LINES, PARAMETERS = 300, 60, 6
FILES = sorted(path for name in ("asu_lora", "cli", "tests", "benchmarks") for path in (ROOT / name).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def where(path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(tree: ast.AST, public: bool = True, prefix: str = ""):
    """Functions and methods: (name, node, whether a user may call it). What is inside a function is nobody's to call."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from functions(node, public and not node.name.startswith("_"), f"{prefix}{node.name}.")
        elif isinstance(node, FUNCTIONS):
            own = public and (not node.name.startswith("_") or node.name == "__init__")
            yield f"{prefix}{node.name}", node, own
            yield from functions(node, False, f"{prefix}{node.name}.")
        else:
            yield from functions(node, public, prefix)


def positional(node) -> list[str]:
    names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def too_long_files() -> dict[str, int]:
    found = {where(path): len(path.read_text().splitlines()) for path in FILES}
    return {name: lines for name, lines in found.items() if lines > LINES}


def too_long_functions() -> dict[str, int]:
    found = {}
    for path in FILES:
        for name, node, _ in functions(ast.parse(path.read_text())):
            if (lines := node.end_lineno - node.lineno + 1) > FUNCTION_LINES:
                found[f"{where(path)}:{name}"] = lines
    return found


def too_many_parameters() -> dict[str, int]:
    found = {}
    for path in FILES:
        for name, node, public in functions(ast.parse(path.read_text())):
            if public and len(positional(node)) > PARAMETERS:
                found[f"{where(path)}:{name}"] = len(positional(node))
    return found


def imported(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)
            yield f"{'.' * node.level}{node.module or ''}"


def test_no_file_is_too_long():
    assert not too_long_files()


def test_no_function_is_too_long():
    assert not too_long_functions()


def test_no_public_function_has_too_many_positional_parameters():
    assert not too_many_parameters()


@pytest.mark.parametrize("path", TESTS, ids=where)
def test_no_test_imports_another(path):
    names = list(imported(ast.parse(path.read_text())))
    assert not [name for name in names if name.startswith(".") or ".test_" in name or name.startswith("test_")]
