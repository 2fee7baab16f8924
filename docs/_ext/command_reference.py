"""``{commands}``: the reference of the command line, written from the commands themselves.

One section per command: its usage line, its help, a table of its arguments and options, its examples. Groups within the
group come after it, each as its own section.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from sphinx.application import Sphinx

OPTION = re.compile(r"(?<![`\w-])(--[a-z][\w-]*)(?![^`]*`[^`]*$)")
"""The name of an option in a help text, where it does not stand in backticks yet."""


def walk(command: click.Command, path: str, above: click.Context | None = None) -> Iterator[tuple[str, click.Context]]:
    """Every command below ``command`` that can be run, with the words that run it, in the order of the help."""
    context = click.Context(command, parent=above, info_name=path.split()[-1])
    if not isinstance(command, click.Group):
        yield path, context
        return
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        if below is not None and not below.hidden:
            yield from walk(below, f"{path} {name}", context)


def page(command: click.Command, path: str) -> str:
    """The reference of every command below ``command``, as Markdown."""
    return "\n\n".join(section(words, context) for words, context in walk(command, path))


def section(words: str, context: click.Context) -> str:
    """One command: usage, help, table of parameters, examples."""
    command = context.command
    usage = " ".join([words, *command.collect_usage_pieces(context)])
    rows = [row(parameter, context) for parameter in command.get_params(context) if not _hidden(parameter)]
    table = ["| option | default | meaning |", "|---|---|---|", *rows]
    parts = [f"## {words}", _fenced(usage), paragraphs(command.help or ""), "\n".join(table)]
    if command.epilog:
        parts.append(paragraphs(command.epilog))
    return "\n\n".join(part for part in parts if part)


def row(parameter: click.Parameter, context: click.Context) -> str:
    """One line of the table; every ``|`` within is escaped."""
    text = parameter.help if isinstance(parameter, click.Option) else ""
    names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    if isinstance(parameter, click.Argument):
        names = f"`{parameter.make_metavar(context)}`"
    elif not parameter.is_flag:  # type: ignore[attr-defined]
        names += f" `{parameter.make_metavar(context)}`"
    cells = (names, _default(parameter, context), OPTION.sub(r"`\1`", text or ""))
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def paragraphs(text: str) -> str:
    r"""A help text as Markdown: a paragraph that begins with ``\b`` keeps its lines, as on the terminal."""
    out = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if block.startswith("\b"):
            first, _, rest = block.removeprefix("\b").lstrip("\n").partition("\n")
            title, lines = (first, rest) if first.endswith(":") else ("", f"{first}\n{rest}")
            out += [title, _fenced(inspect.cleandoc(lines))]
        else:
            out.append(block)
    return "\n\n".join(part for part in out if part)


def _fenced(text: str) -> str:
    return f"```text\n{text}\n```"


def _default(parameter: click.Parameter, context: click.Context) -> str:
    if parameter.required:
        return "required"
    value: Any = parameter.get_default(context)
    shown = isinstance(value, str | int | float) and not isinstance(value, bool)
    return f"`{value}`" if shown else ""


def _hidden(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Option) and (parameter.hidden or "--help" in parameter.opts)


class Commands(SphinxDirective):
    """Writes the reference of ``spp`` where it stands."""

    def run(self) -> list[nodes.Node]:
        """Called by Sphinx."""
        from spp_cli.main import cli

        for file in sorted({inspect.getfile(type(cli)), *(_file(context) for _, context in walk(cli, "spp"))}):
            self.env.note_dependency(file)
        return self.parse_text_to_nodes(page(cli, "spp"), allow_section_headings=True)


def _file(context: click.Context) -> str:
    callback = context.command.callback
    assert callback is not None, context.command
    return inspect.getfile(inspect.unwrap(callback))


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
