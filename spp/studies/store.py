"""The folder of a study: ``study.json``, and a folder for each finished cell, which is there whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from spp.errors import InputError, StoreError
from spp.frame.files import DRAFT, failed, put, put_table, put_text, read_table
from spp.studies.study import Cell, Results, Setup, Study, Tables

STUDY_FILE, CELL_FILE, CELLS = "study.json", "cell.json", "cells"
FORMAT = 1
"""Version of the folder's layout."""


class Shelf:
    """Finished cells of one study, on disk.

    Args:
        folder: Of the study.
        study: Which.
        setup: At which size.

    Raises:
        InputError: The folder holds another study, or the same one at another size.
        StoreError: It cannot be written, or is no such folder.
    """

    def __init__(self, folder: str | Path, study: Study, setup: Setup) -> None:
        self.folder = Path(folder).expanduser()
        facts = {"format": FORMAT, "study": study.name, "setup": described(setup)}
        try:
            if (self.folder / STUDY_FILE).is_file():
                self._compare(read_json(self.folder / STUDY_FILE), facts)
                return
            if self.folder.is_dir() and any(self.folder.iterdir()):
                raise StoreError(
                    "a study goes into a folder of its own",
                    received="a folder that holds something else",
                    where=str(folder),
                    remedy="Choose another folder",
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / STUDY_FILE, facts)
        except OSError as error:
            raise error if isinstance(error, StoreError) else failed(folder, error) from error

    def has(self, cell: Cell) -> bool:
        """Whether the cell is finished."""
        return (self._place(cell) / CELL_FILE).is_file()

    def put(self, cell: Cell, tables: Tables, seconds: float) -> None:
        """Keep what a cell measured: written beside its place, and renamed.

        Raises:
            StoreError: It cannot be written.
        """
        place = self._place(cell)
        draft = place.with_name(f"{DRAFT}{os.getpid()}-{place.name}")
        try:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            for name, table in tables.items():
                table.to_parquet(draft / f"{name}.parquet", index=False)
            write_json(
                draft / CELL_FILE, {"parameters": dict(cell.parameters), "seconds": seconds, "tables": list(tables)}
            )
            draft.replace(place)
        except OSError as error:
            raise failed(place, error) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def read(self, cells: list[Cell]) -> Results:
        """What the finished ones among ``cells`` measured.

        Raises:
            StoreError: A file is damaged; the message says what to remove to have the cell run again.
        """
        tables: dict[Cell, Tables] = {}
        seconds: dict[Cell, float] = {}
        for cell in filter(self.has, cells):
            place = self._place(cell)
            facts = read_json(place / CELL_FILE)
            tables[cell] = {name: read_table(place / f"{name}.parquet", str(place)) for name in facts["tables"]}
            seconds[cell] = float(facts["seconds"])
        return Results(tuple(tables), tables, seconds)

    def _place(self, cell: Cell) -> Path:
        return self.folder / CELLS / cell.folder

    def _compare(self, stored: dict[str, Any], own: dict[str, Any]) -> None:
        differing = [key for key in own if stored.get(key) != own[key]]
        if differing:
            raise InputError(
                "a study goes on in the folder in which it began, at the size at which it began",
                received="; ".join(f"{key} {own[key]} instead of {stored.get(key)}" for key in differing),
                where=str(self.folder),
                remedy="Choose another folder.",
            )


def described(setup: Setup) -> dict[str, Any]:
    """What of the setup decides about the numbers; more seeds or another place of the data do not change a cell's."""
    return {key: value for key, value in asdict(setup).items() if key in ("quick", "device")}


def read_json(path: Path) -> dict[str, Any]:
    """A file of facts.

    Raises:
        StoreError: It cannot be read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(
            "a file of a study holds its facts", received=str(error), where=str(path), remedy=f"Remove {path.parent}"
        ) from error
    if not isinstance(found, dict):
        raise StoreError("a file of a study holds its facts", received="something else", where=str(path))
    return found


def write_json(path: Path, facts: dict[str, Any]) -> None:
    """Write facts, whole or not at all."""
    text = json.dumps(facts, indent=2, default=str) + "\n"
    put_text(path, text)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as parquet or, after its suffix, as CSV; whole or not at all."""
    if path.suffix == ".csv":
        put(path, lambda draft: table.to_csv(draft, index=False))
    else:
        put_table(path, table)
