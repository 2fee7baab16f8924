"""The reference of the library: one page per public module, written from its docstrings into ``docs/api`` before a build.

A name is public where its module defines it without a leading underscore, or hands it on as ``from x import y as y``. An
object has its entry on the first page that offers it, so that a reference to it is never ambiguous.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sphinx.pycode import ModuleAnalyzer

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

MODULES = (
    "spp",
    "spp.data",
    "spp.models",
    "spp.nn",
    "spp.nn.functional",
    "spp.nn.init",
    "spp.plot",
    "spp.plot.page",
    "spp.plot.panels",
    "spp.watching",
    "spp.training",
    "spp.diagnosis",
    "spp.theory",
    "spp.report",
    "spp.studies",
    "spp.stats",
    "spp.frame.schema",
    "spp.frame.precision",
    "spp.errors",
    "spp.vocabulary",
    "spp.layers",
    "spp.registry",
    "spp.plugins",
)
"""Every module that a user may import, in the order of the pages; one that this version does not have is left out.

Those of ``spp.integrations`` are not among them: what they offer exists only beside the library that they are about.
"""


def public(module: ModuleType) -> Iterator[str]:
    """The public names of ``module`` that are no modules, in the order in which its file has them."""
    for node in ast.parse(inspect.getsource(module)).body:
        for name in _bound(node):
            if not name.startswith("_") and not inspect.ismodule(getattr(module, name, module)):
                yield name


def _bound(node: ast.stmt) -> list[str]:
    """The names that a statement offers to those who import its module."""
    if isinstance(node, ast.ImportFrom):
        return [alias.name for alias in node.names if alias.asname == alias.name]
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.If):  # names that only type checkers import, and ``__getattr__`` hands out later
        return [name for inner in node.body for name in _bound(inner)]
    return []


def pages() -> dict[str, str]:
    """The text of every page, by module."""
    written: set[int] = set()
    out = {}
    for name in filter(_exists, MODULES):
        module = import_module(name)
        entries = {entry: getattr(module, entry) for entry in public(module)}
        fresh = {entry: value for entry, value in entries.items() if id(value) not in written}
        texts = {entry: lines for entry, value in fresh.items() if (lines := directive(module, entry, value))}
        written |= {id(fresh[entry]) for entry in texts}
        if texts:
            ordered = sorted(texts, key=lambda entry: kind(entries[entry]))  # and within a kind, as in the file
            out[name] = page(name, [texts[entry] for entry in ordered])
    return out


def _exists(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def kind(value: object) -> int:
    """Functions come first on a page, then classes, then tables and constants, then what is raised."""
    if inspect.isclass(value):
        return 3 if issubclass(value, BaseException) else 1
    return 0 if inspect.isroutine(value) else 2


def directive(module: ModuleType, name: str, value: Any) -> list[str]:
    """The entry of one name; empty where it would say nothing, as for a constant without a text below it."""
    full = f"{module.__name__}.{name}"
    if inspect.isclass(value) or inspect.isroutine(value):
        if not inspect.getdoc(value):
            return []
        options = ["   :members:", "   :exclude-members: extra_repr"] if inspect.isclass(value) else []
        if inspect.isclass(value) and value.__bases__ != (object,):
            options.append("   :show-inheritance:")
        return [f".. auto{'class' if inspect.isclass(value) else 'function'}:: {full}", *options, ""]
    home = _home(module, name)
    text = ModuleAnalyzer.for_module(home).find_attr_docs().get(("", name), [])
    options = [f"   :canonical: {home}.{name}"] if home != module.__name__ else []
    return [f".. py:data:: {full}", *options, "", *(f"   {line}".rstrip() for line in text), ""] if text else []


def _home(module: ModuleType, name: str) -> str:
    """The module whose file defines ``name``, which ``module`` may only hand on."""
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ImportFrom) and node.module and name in _bound(node):
            return _home(import_module(node.module), name)
    return module.__name__


def page(name: str, entries: list[list[str]]) -> str:
    """One page: what the module is for, and its entries."""
    head = [f"# {name}", "", "```{eval-rst}", f".. automodule:: {name}", "   :no-members:", ""]
    return "\n".join([*head, *(line for entry in entries for line in entry), "```", ""])


def _write(app: Sphinx) -> None:
    folder = Path(app.srcdir) / "api"
    folder.mkdir(exist_ok=True)
    texts = {f"{name}.md": text for name, text in pages().items()}
    for stale in {path.name for path in folder.glob("*.md")} - set(texts):
        (folder / stale).unlink()
    for name, text in texts.items():
        if not (folder / name).exists() or (folder / name).read_text() != text:
            (folder / name).write_text(text)


def _contents(app: Sphinx, page: str, source: list[str]) -> None:
    """Put the pages into ``api.md``: a table of what they are about, and the order in the navigation."""
    if page == "api":
        names = [name for name in MODULES if (Path(app.srcdir) / "api" / f"{name}.md").exists()]
        rows = [f"| [`{name}`](api/{name}.md) | {_summary(name)} |" for name in names]
        table = "\n".join(["| module | what it is |", "|---|---|", *rows])
        tree = "\n".join(["```{toctree}", ":hidden:", "", *(f"api/{name}" for name in names), "```"])
        source[0] = source[0].replace("<!-- modules -->", f"{table}\n\n{tree}")


def _summary(name: str) -> str:
    first = inspect.cleandoc(import_module(name).__doc__ or "").partition("\n\n")[0]
    return " ".join(first.split()).replace("``", "`").replace("|", r"\|")


def _named(app: Sphinx, env: BuildEnvironment, node: Any, content: nodes.TextElement) -> nodes.TextElement | None:
    """A name that exists but has no entry here stays as text; one that does not exist stays an error."""
    if node.get("refdomain") == "py" and exists(node["reftarget"], node.get("py:module") or "builtins"):
        return content
    return None


def exists(target: str, module: str) -> bool:
    """Whether ``target`` is a name within ``module``, of Python, of any file of ``spp``, or the full name of something."""
    files = [loaded for name, loaded in sys.modules.items() if name.partition(".")[0] == "spp"]
    if any(_reached(place, target) for place in [import_module(module), builtins, *files]):
        return True
    words = target.split(".")
    for end in range(len(words), 0, -1):
        if _exists(".".join(words[:end])):
            return _reached(import_module(".".join(words[:end])), ".".join(words[end:]))
    return False


def _reached(start: object, path: str) -> bool:
    for word in filter(None, path.split(".")):
        if not hasattr(start, word):
            return False
        start = getattr(start, word)
    return True


SEVERAL = re.compile(r"^(\s+)(\w+(?:, \w+)+): (.*)$")
"""An entry of a section that several attributes share."""

WRITTEN: dict[str, list[str]] = {}
"""Texts of attributes, from before napoleon to behind it."""


def _put_aside(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Napoleon takes what stands before a colon for the type of an attribute; here annotations have the types."""
    if what in ("data", "attribute", "property"):
        WRITTEN[name] = list(lines)
    elif what == "class":
        lines[:] = one_by_one(lines)


def one_by_one(lines: list[str]) -> list[str]:
    """Give every name of ``a, b: text`` its own entry, in which napoleon would see one of the type ``a``."""
    out: list[str] = []
    for index, line in enumerate(lines):
        if entry := SEVERAL.match(line):
            indent, names, text = entry.groups()
            end = index + 1
            while end < len(lines) and lines[end].startswith(indent + " "):
                end += 1
            rest = lines[index + 1 : end]
            for name in names.split(", ")[:-1]:
                out += [f"{indent}{name}: {text}", *rest]
            line = f"{indent}{names.split(', ')[-1]}: {text}"
        out.append(line)
    return out


def _put_back(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    lines[:] = WRITTEN.pop(name, lines)
    if what == "module":  # a text that goes over into a program, as that of ``spp`` itself
        starts = [index for index, line in enumerate(lines) if line.startswith("import ")]
        for index in range(starts[0] if starts else len(lines), len(lines)):
            lines[index] = f"   {lines[index]}".rstrip()
        if starts:
            lines[starts[0] : starts[0]] = [".. code-block:: python", ""]


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", _write)
    app.connect("source-read", _contents)
    app.connect("missing-reference", _named)
    app.connect("autodoc-process-docstring", _put_aside, priority=400)  # napoleon's is 500
    app.connect("autodoc-process-docstring", _put_back, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
