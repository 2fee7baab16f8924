"""Run folders: the frames as parquet, the facts as ``run.json``.

A folder is written beside its final place and renamed, so that what bears the name is whole.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from spp.errors import StoreError
from spp.frame.files import RUN_FILE, failed, read_facts, read_table
from spp.frame.parts import WATCH, grows, read_parts
from spp.frame.schema import (
    BLOCK_COLUMNS,
    CHANNEL_COLUMNS,
    COLUMNS,
    EXPONENT_COLUMNS,
    MODULE_COLUMNS,
    UNMEASURED_COLUMNS,
    VERSION,
    WATCH_BLOCK_COLUMNS,
    WATCH_COLUMNS,
    Spec,
    check,
)

TABLES: dict[str, Mapping[Any, Spec]] = {
    "frame": COLUMNS,
    "blocks": BLOCK_COLUMNS,
    "modules": MODULE_COLUMNS,
    "unmeasured": UNMEASURED_COLUMNS,
    "exponents": EXPONENT_COLUMNS,
    "channels": CHANNEL_COLUMNS,
}
WATCH_TABLES: dict[str, Mapping[Any, Spec]] = {**TABLES, "frame": WATCH_COLUMNS, "blocks": WATCH_BLOCK_COLUMNS}
"""Those of a watch."""
OPTIONAL = ("exponents", "channels")
"""Tables that are written only where they hold something."""


def check_writable(folder: str | Path, *, overwrite: bool = False) -> Path:
    """The folder as an absolute path, if a run can be written there; to be asked before the work, not after.

    Raises:
        StoreError: It exists and is not empty (and ``overwrite`` is False), is a file, or cannot be written to.
    """
    path = Path(folder).expanduser().absolute()
    if path.exists() and not path.is_dir():
        raise StoreError(
            "a run is saved in a folder", received="a file", where=str(folder), remedy="Choose another name"
        )
    if path.is_dir() and any(path.iterdir()):
        if not overwrite:
            raise StoreError(
                "an existing run is not overwritten silently",
                received="a folder that is not empty",
                where=str(folder),
                remedy="Choose another folder or allow overwriting",
            )
        if not (path / RUN_FILE).is_file():
            raise StoreError(
                "only a run folder is overwritten",
                received=f"a folder without {RUN_FILE}",
                where=str(folder),
                remedy="Choose another folder",
            )
    parent = path
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK) or not _can_write(parent):
        raise StoreError(
            "the output folder can be written to", received=f"no right to write in {parent}", where=str(folder)
        )
    return path


def _can_write(folder: Path) -> bool:
    """Ask by doing: access rights alone miss read-only file systems, and root passes every check."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def write(
    folder: str | Path,
    tables: Mapping[str, pd.DataFrame],
    run: Mapping[str, Any],
    *,
    overwrite: bool = False,
    csv: bool = True,
) -> Path:
    """Write a run folder: ``frame.parquet`` (and ``frame.csv``), the other tables, and ``run.json``.

    Raises:
        StoreError: See :func:`check_writable`; or writing failed, in which case nothing is left behind.
    """
    path = check_writable(folder, overwrite=overwrite)
    facts = json.dumps({"format": VERSION, **run}, indent=2, default=str)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise failed(folder, error) from error
    try:
        draft.chmod(0o755)
        for name, table in tables.items():
            if name in OPTIONAL and table.empty:
                continue
            table.to_parquet(draft / f"{name}.parquet", index=False)
        if csv:
            tables["frame"].to_csv(draft / "frame.csv", index=False)
        (draft / RUN_FILE).write_text(facts + "\n", encoding="utf-8")
        if path.is_dir() and not any(path.iterdir()):
            for file in sorted(
                draft.iterdir(), key=lambda f: f.name == RUN_FILE
            ):  # run.json last: with it the run is whole
                file.replace(path / file.name)
        elif path.is_dir():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
            path.rename(old / "old")
            draft.rename(path)
            shutil.rmtree(old)
        else:
            draft.rename(path)
    except OSError as error:
        raise failed(folder, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return path


def read(folder: str | Path) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """The tables and facts of a run folder.

    Raises:
        StoreError: It is no run folder, was written by a later version, or is damaged.
    """
    path = Path(folder).expanduser()
    run = read_facts(path, str(folder))
    watched = run.get("kind") == WATCH
    if watched and grows(path):
        return read_parts(path, run, str(folder)), run
    tables = {}
    for name, columns in (WATCH_TABLES if watched else TABLES).items():
        if name in OPTIONAL and not (path / f"{name}.parquet").exists():
            continue
        tables[name] = check(_as_written(read_table(path / f"{name}.parquet", str(folder)), columns), columns)
    return tables, run


def _as_written(table: pd.DataFrame, columns: Mapping[Any, Spec]) -> pd.DataFrame:
    """Columns in the dtypes of the schema: parquet forgets those of empty columns and the unused closed categories."""
    for column, spec in columns.items():
        if column not in table:
            continue
        if spec.dtype == "category":
            values = table[column].astype("category")
            if spec.categories:
                values = values.cat.set_categories([str(c) for c in spec.categories])
            table[str(column)] = values
        elif str(table[column].dtype) != spec.dtype and (spec.dtype == "str" or not len(table)):
            table[str(column)] = table[column].astype(spec.dtype)
    return table
