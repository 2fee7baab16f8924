"""The documentation says what is so: columns, commands, links, and the numbers it works out by hand.

Run as a program, it writes the tables of columns into ``docs/statistics.md``.
"""

import doctest
import importlib
import inspect
import re
import sys
from pathlib import Path

import click
import pytest
import torch

from spp.frame import schema
from spp_cli.main import cli
from spp_cli.options import LOSSES
from tests.scripts import script

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")])
STATISTICS = ROOT / "docs" / "statistics.md"
DOCTESTS = sorted(path for path in (ROOT / "spp").rglob("*.py") if ">>>" in path.read_text())
TABLES = (
    "COLUMNS",
    "PREDICTED",
    "BLOCK_COLUMNS",
    "MODULE_COLUMNS",
    "UNMEASURED_COLUMNS",
    "STEP_COLUMNS",
    "EXPONENT_COLUMNS",
    "CHANNEL_COLUMNS",
)


def table(name: str) -> str:
    """One of the tables of the schema in Markdown."""
    lines = ["| column | dtype | meaning |", "|---|---|---|"]
    for column, spec in getattr(schema, name).items():
        missing = " (may be missing)" if spec.missing and "missing" not in spec.meaning else ""
        allowed = f": {', '.join(f'`{category}`' for category in spec.categories)}" if spec.categories else ""
        lines.append(f"| `{column}` | {spec.dtype} | {spec.meaning}{allowed}{missing} |")
    return "\n".join(lines)


def section(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<=<!-- {name} -->\n).*?(?=\n<!-- end -->)", re.DOTALL)


@pytest.mark.parametrize("name", TABLES)
def test_every_column_is_documented_as_the_schema_has_it(name):
    (found,) = section(name).findall(STATISTICS.read_text())
    assert found == table(name), "run `python -m tests.test_docs`"


def test_every_statistic_has_a_formula():
    formulas = STATISTICS.read_text().split("## Formulas")[1].split("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", formulas))
    assert {str(column) for column in schema.STATISTICS} <= named


def test_the_example_worked_by_hand():
    from spp.stats.backends import reduce
    from spp.stats.statistics import summarize

    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    numbers = summarize([reduce(x, 1)])
    assert (numbers["acsm"][0], numbers["acv"][0], numbers["mean_square"][0]) == (6.5, 1.0, 7.5)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing


def test_every_page_of_the_docs_can_be_reached_from_the_index():
    index = (ROOT / "docs" / "index.md").read_text()
    assert not [
        page.name for page in (ROOT / "docs").glob("*.md") if page.name != "index.md" and page.name not in index
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_rows_of_a_table_have_as_many_cells_as_its_head(page):
    """An unescaped bar ends a cell, inside of code too, and what is beyond the last column is lost."""
    for table in re.findall(r"(?:^\|.*\|\n)+", page.read_text(), re.MULTILINE):
        bars = [len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()]
        assert set(bars) == {bars[0]}, table.splitlines()[bars.index(next(n for n in bars if n != bars[0]))]


def test_the_readme_begins_with_the_two_lines():
    first, second = (ROOT / "README.md").read_text().splitlines()[:2]
    assert first == "    pip install -c constraints.txt . && spp analyze --model effnet_b0 --norm none"
    assert second == '    pip install -c constraints.txt -e ".[dev]" && pytest -n 2'


def test_every_page_of_the_docs_is_in_the_navigation():
    navigation = script("_ext/navigation.py")
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")}
    groups = navigation.grouped(pages)
    assert sorted(page for group in groups.values() for page in group) == sorted(pages - {"index"})
    assert navigation.grouped({"index", "install", "brand-new", "api/spp"}) == {
        "First steps": ["install"],
        "More": ["brand-new"],
    }
    assert (ROOT / "docs" / "index.md").read_text().count(navigation.MARK) == 1


def test_every_public_name_has_an_entry_in_the_reference():
    import spp

    pages = script("_ext/public_names.py").pages()
    for name in dir(spp):
        if not name.startswith("_") and not inspect.ismodule(getattr(spp, name)):
            assert any(re.search(rf":: spp(\.\w+)*\.{name}$", text, re.MULTILINE) for text in pages.values()), name
    entries = re.findall(r"^\.\. (?:auto\w+|py:data):: (\S+)$", "\n".join(pages.values()), re.MULTILINE)
    assert len(set(entries)) == len(entries)


def test_every_option_is_in_the_reference_of_the_command_line():
    page = script("_ext/command_reference.py").page(cli, "spp")
    for command in commands():
        section = page.split(f"## spp {command.name}")[1].split("\n## ")[0]
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert all(f"`{name}`" in section for name in parameter.opts), parameter.name


def test_help_texts_become_markdown():
    reference = script("_ext/command_reference.py")
    assert reference.paragraphs("One\ntwo.\n\n\b\nExamples:\n  spp a\n  spp b") == (
        "One\ntwo.\n\nExamples:\n\n```text\nspp a\nspp b\n```"
    )

    @click.command()
    @click.option("--kind", type=click.Choice(["a", "b"]), default="a", help="Instead of --all, not `--none`.")
    @click.option("--all", is_flag=True, help="Every one.")
    @click.argument("run")
    def made() -> None:
        """Text."""

    context = click.Context(made, info_name="made")
    assert [reference.row(parameter, context) for parameter in made.params] == [
        r"| `--kind` `[a\|b]` | `a` | Instead of `--all`, not `--none`. |",
        "| `--all` |  | Every one. |",
        "| `RUN` | required |  |",
    ]


@pytest.mark.parametrize("path", DOCTESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_in_docstrings_are_so(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted and not result.failed


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    torch.set_num_threads(1)  # two threads that wait for each other take five times as long on a busy machine
    images, page = script("make_images.py"), ROOT / "docs" / "tutorial.md"
    names = images.run_blocks(page)
    sys.modules.pop("mynet")
    assert images.shown(page) <= {path.name for path in tmp_path.iterdir()}
    assert all((ROOT / "docs" / "images" / name).exists() for name in images.shown(page))
    assert (tmp_path / "figure.pdf").stat().st_size
    said = capsys.readouterr().out
    for line in re.findall(r"^    ((?:error|warning) .*)$", page.read_text(), re.MULTILINE):
        assert line in said
    assert names["loss"].item() < 2.25  # it learns, as the page says, where guessing is log(10) = 2.30


def commands() -> list[click.Command]:
    context = click.Context(cli)
    return [command for name in cli.list_commands(context) if (command := cli.get_command(context, name)) is not None]


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.name)
def test_every_command_has_help_and_is_in_the_docs(command):
    assert command.help
    assert f"spp {command.name}" in (ROOT / "docs" / "index.md").read_text()
    assert all(option.help for option in command.params if isinstance(option, click.Option))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documented_command_lines_parse(page):
    """Every ``spp ...`` line of a code block is taken by its command's parser."""
    context = click.Context(cli)
    for line in re.findall(r"^    (?:.* && )?spp (\w.*)$", page.read_text(), re.MULTILINE):
        name, *rest = line.split()
        command = cli.get_command(context, name)
        assert command is not None, line
        rest = [word for word in rest if not word.startswith("|")]
        missing_files = [str(ROOT / "README.md") if word.endswith(".pt") else word for word in rest]
        command.make_context(name, missing_files)


def test_pins_are_exact_and_portable():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9A-Za-z.]*", line) for line in lines)
    names = [re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines]
    assert len(set(names)) == len(names)
    assert "torch==2.13.0" in lines


def test_every_dependency_is_pinned_within_its_range():
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    asked = [*project["project"]["dependencies"], *(line for lines in extras.values() for line in lines)]
    asked += project["build-system"]["requires"]
    pins = dict(
        line.lower().split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line[1:]
    )
    pins = {name.replace("_", "-"): version for name, version in pins.items() if not name.startswith("#")}
    for line in asked:
        requirement = Requirement(line)
        if requirement.name != "torch-spp":
            assert requirement.specifier.contains(pins[requirement.name.lower()]), line


def test_losses_are_in_the_help():
    (analyze,) = (command for command in commands() if command.name == "analyze")
    (loss,) = (option for option in analyze.params if option.name == "loss")
    assert isinstance(loss, click.Option)
    assert all(name in (loss.help or "") for name in LOSSES)


if __name__ == "__main__":
    text = STATISTICS.read_text()
    for name in TABLES:
        text = section(name).sub(lambda _, name=name: table(name), text, count=1)
    STATISTICS.write_text(text)
