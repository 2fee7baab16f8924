"""The shape of the code, counted: files, lines, imports, comments, complexity; and how many files a trace runs through.

    python benchmarks/structure.py            # ast and tokenize alone: none of the code is run
    python benchmarks/structure.py --rooms    # files and lines of each room
    python benchmarks/structure.py --paths    # runs a trace and a watched step of a 6-layer network under sys.setprofile

Imports count wherever they stand: under TYPE_CHECKING and inside functions too. A package's ``__init__`` is a module like
others; a name imported from it counts as an import of the module that the name is, where it is one.
"""

from __future__ import annotations

import argparse
import ast
import io
import sys
import tokenize
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (("spp", ROOT), ("spp_cli", ROOT / "cli"))
COMPLEX = 15
_BRANCHES = (
    ast.If,
    ast.IfExp,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.ExceptHandler,
    ast.With,
    ast.Assert,
    ast.comprehension,
)
_SILENT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
    tokenize.ENCODING,
}


@dataclass(frozen=True)
class Module:
    """One file, as text."""

    name: str
    path: Path
    tree: ast.Module
    code: frozenset[int]
    comments: int

    @property
    def room(self) -> str:
        package, _, rest = self.name.partition(".")
        folder = rest.partition(".")[0] if "." in rest or self.path.name == "__init__.py" else ""
        return f"{package}/{folder}" if folder and package == "spp" else package


def read() -> dict[str, Module]:
    """Every module of the library and the command line, by its dotted name."""
    found = {}
    for package, root in SOURCES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            text = path.read_text(encoding="utf-8")
            tree = ast.parse(text)
            code, comments = _lines(text, tree)
            found[name] = Module(name, path, tree, code, comments)
    return found


def _lines(text: str, tree: ast.Module) -> tuple[frozenset[int], int]:
    """The lines that hold code, docstrings apart, and the number of comments that have a line of their own."""
    docstrings: set[int] = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            # a string that is a statement documents what stands before it
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                docstrings.update(range(statement.lineno, (statement.end_lineno or statement.lineno) + 1))
    code: set[int] = set()
    comments: list[int] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comments.append(token.start[0])
        elif token.type not in _SILENT:
            code.update(range(token.start[0], token.end[0] + 1))
    code -= docstrings
    return frozenset(code), sum(line not in code for line in comments)


def imports(modules: dict[str, Module]) -> dict[str, set[str]]:
    """Which modules each module imports, wherever in its file."""
    edges: dict[str, set[str]] = {name: set() for name in modules}
    for name, module in modules.items():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Import):
                edges[name].update(alias.name for alias in node.names if alias.name in modules)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    target = inner if inner in modules else node.module
                    if target in modules:
                        edges[name].add(target)
        edges[name].discard(name)
    return edges


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one module (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in edges[name]:
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            component = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(component) > 1:
                found.append(sorted(component))

    for name in edges:
        if name not in index:
            visit(name)
    return found


def longest_chain(edges: dict[str, set[str]]) -> list[str]:
    """The longest chain of modules of which each imports the next; inside a circle each module counts once."""
    known: dict[str, list[str]] = {}

    def chain(name: str, above: frozenset[str]) -> list[str]:
        if name not in known:
            below = [chain(target, above | {name}) for target in edges[name] if target not in above]
            known[name] = [name, *max(below, key=len, default=[])]
        return known[name]

    return max((chain(name, frozenset()) for name in edges), key=len)


def complexity(function: ast.AST) -> int:
    """McCabe's number of a function: its branches and one; functions inside it count for themselves."""
    count = 1
    waiting = list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, _BRANCHES) and not isinstance(node, ast.With | ast.Assert):
            count += 1
        if isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
        if isinstance(node, ast.match_case):
            count += 1
        waiting.extend(ast.iter_child_nodes(node))
    return count


def functions(modules: dict[str, Module]) -> dict[str, int]:
    """The complexity of every function, by ``module:line name``."""
    return {
        f"{module.path.relative_to(ROOT)}:{node.lineno} {node.name}": complexity(node)
        for module in modules.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def report(rooms: bool) -> None:
    modules = read()
    edges = imports(modules)
    importers: dict[str, set[str]] = defaultdict(set)
    for name, targets in edges.items():
        for target in targets:
            importers[target].add(name)
    code = sum(len(module.code) for module in modules.values())
    comments = sum(module.comments for module in modules.values())
    # a package's __init__ is there for those outside
    single = sorted(n for n, by in importers.items() if len(by) == 1 and modules[n].path.name != "__init__.py")
    chain, found = longest_chain(edges), circles(edges)
    complex_ones = {name: number for name, number in functions(modules).items() if number > COMPLEX}
    if rooms:
        lines, files = Counter[str](), Counter[str]()
        for module in modules.values():
            lines[module.room] += len(module.code)
            files[module.room] += 1
        for room in sorted(lines):
            print(f"{room:20}{files[room]:5} files{lines[room]:7} lines")
    print(
        "modules with a single importer:", *(f"  {name} <- {next(iter(importers[name]))}" for name in single), sep="\n"
    )
    print("longest chain:", *(f"  {name}" for name in chain), sep="\n")
    print(f"functions of complexity above {COMPLEX}:", *(f"  {n}: {c}" for n, c in complex_ones.items()), sep="\n")
    print("import circles:", *(f"  {' <-> '.join(circle)}" for circle in found), sep="\n")
    print()
    for name, number, limit in (
        ("code lines", code, "19,500 at most"),
        ("Python files", len(modules), "190 at most"),
        ("import circles", len(found), "0"),
        ("longest import chain", len(chain), "16 at most"),
        ("modules with a single importer", len(single), "45 at most"),
        ("comment lines per 100 code lines", round(100 * comments / code, 1), "3 at least"),
        (f"functions of complexity above {COMPLEX}", len(complex_ones), "20 at most"),
    ):
        print(f"{name:40}{number:>10,}   ({limit})")


def paths() -> None:
    """How many of our files and how deep a stack of our frames a trace and a watched step run through."""
    import torch
    from torch import nn

    import spp

    def network() -> nn.Module:
        layers = (nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 2))
        return nn.Sequential(*layers)

    def traced() -> None:
        spp.trace(network(), torch.randn(4, 8))

    def watched() -> None:
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        with spp.watch(model, optimizer, every=1):
            for _ in range(2):
                model(torch.randn(4, 8)).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()

    for name, act, limits in (("spp.trace", traced, "18 and 10"), ("spp.watch", watched, "24 and 13")):
        act()  # what is loaded or built once is no part of the path
        files, depth = _profiled(act)
        print(f"{name}: {len(files)} files, a stack of {depth} ({limits} at most)")
        print(*(f"  {file}" for file in sorted(files)), sep="\n")


def _profiled(act: object) -> tuple[set[str], int]:
    files: set[str] = set()
    deepest = 0
    ours = str(ROOT / "spp")

    def note(frame: object, event: str, _: object) -> None:
        nonlocal deepest
        if event != "call" or not frame.f_code.co_filename.startswith(ours):  # type: ignore[attr-defined]
            return
        files.add(str(Path(frame.f_code.co_filename).relative_to(ROOT)))  # type: ignore[attr-defined]
        depth, above = 0, frame
        while above is not None:
            depth += above.f_code.co_filename.startswith(ours)  # type: ignore[attr-defined]
            above = above.f_back  # type: ignore[attr-defined]
        deepest = max(deepest, depth)

    sys.setprofile(note)
    try:
        act()  # type: ignore[operator]
    finally:
        sys.setprofile(None)
    return files, deepest


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", action="store_true", help="trace and watch a 6-layer network under sys.setprofile")
    parser.add_argument("--rooms", action="store_true", help="files and lines of each room")
    given = parser.parse_args()
    sys.setrecursionlimit(10_000)
    if given.paths:
        paths()
    else:
        report(given.rooms)
