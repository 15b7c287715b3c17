"""The shape of the package: imports point one way, and the two halves meet in one place."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import workerbee

PACKAGE = Path(workerbee.__file__).parent


def imports():
    """Module -> the modules of the package that it imports."""
    found = {}
    for file in PACKAGE.rglob("*.py"):
        below = set()
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "workerbee":
                module = node.module.partition(".")[2]
                below |= {f"{module}.{alias.name}".strip(".") for alias in node.names} | {module}
        found[name_of(file)] = {name for name in below if (PACKAGE / f"{name.replace('.', '/')}.py").exists()}
    return found


def name_of(file):
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts)


def reached(start, graph):
    seen, todo = set(), [start]
    while todo:
        for below in graph[todo.pop()] - seen:
            seen.add(below)
            todo.append(below)
    return seen


def test_imports_point_one_way():
    graph = imports()
    assert len(graph) > 20
    # Raises CycleError for a circle.
    order = list(TopologicalSorter(graph).static_order())
    assert set(order) == set(graph)
    assert {"__init__", "postgres"} & reached("postgresql", graph) == set()
    for leaf in ("errors", "job", "text", "readable"):
        assert graph[leaf] == set()


def test_processes_know_no_sql_and_jobs_know_no_processes():
    graph = imports()
    database = {"channel", "store", "session", "queries", "address", "loading"}
    processes = {"child", "supervisor", "node", "signals", "output"}
    # The command is on top of it all.
    for module in graph:
        if not module.startswith(("command.", "__main__")):
            assert not any(below.startswith("command.") for below in reached(module, graph)), module
    for module in ("supervisor", "child", "output", "board"):
        assert reached(module, graph) & database == set(), module
    for module in ("bee", "undertaker", "store", "loading", "session"):
        assert reached(module, graph) & processes == set(), module


def test_sql_is_only_on_its_shelf():
    words = ("SELECT ", "INSERT INTO", "UPDATE ", "DELETE FROM", "CREATE TABLE")
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "execute":
                assert file.stem in {"channel", "link"}
            if isinstance(node, ast.JoinedStr):
                text = "".join(part.value for part in node.values if isinstance(part, ast.Constant))
                # Text that tells a person which query to make is no query.
                assert not text.startswith(words), f"{file.name}:{node.lineno}"
