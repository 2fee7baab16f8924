"""The pages of the studies, from folders that ``spp study run`` wrote: ``python docs/make_studies.py FOLDER...``.

Each page becomes ``docs/studies/NAME.md``, its figures and ``verdicts.json`` lie beside it, and the table of all verdicts in
``docs/studies.md`` is written anew from what lies there. Without a folder, only that table is.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from spp import studies
from spp.studies.publish import markdown

DOCS = Path(__file__).resolve().parent
PAGES = DOCS / "studies"
OVERVIEW = DOCS / "studies.md"
TABLE = re.compile(r"(?<=<!-- verdicts -->\n).*?(?=<!-- end -->)", re.DOTALL)


def adopt(folder: Path) -> None:
    """Take over the page, the figures and the verdicts of one study."""
    from pictures import small_png  # beside this file

    facts = json.loads((folder / "verdicts.json").read_text(encoding="utf-8"))
    name = facts["study"]
    PAGES.mkdir(exist_ok=True)
    page = (folder / "README.md").read_text(encoding="utf-8")
    for figure in sorted(set(re.findall(r"\]\(([^)]+\.png)\)", page))):
        target = f"{name}-{figure}"
        small_png(folder / figure, PAGES / target)
        page = page.replace(f"]({figure})", f"]({target})")
    size = facts["setup"]["size"]
    command = f"    spp study run {name} --size {size}{' --data DIR' * (size == 'full')}"
    title, _, rest = page.partition("\n")
    (PAGES / f"{name}.md").write_text(f"{title}\n\n{command}\n{rest}", encoding="utf-8")
    shutil.copyfile(folder / "verdicts.json", PAGES / f"{name}.json")


def verdicts() -> pd.DataFrame:
    """Every claim of every study that has a page, and what became of it."""
    rows: list[dict[str, Any]] = []
    for name in studies.names():
        if (PAGES / f"{name}.json").is_file():
            facts = json.loads((PAGES / f"{name}.json").read_text(encoding="utf-8"))
            rows += [
                {
                    "study": f"[{name}](studies/{name}.md)",
                    "claim": f"{claim['claim']}: {claim['text']}",
                    "size": facts["setup"]["size"],
                    "verdict": f"**{claim['outcome']}**",
                    "what was found": claim["found"],
                }
                for claim in facts["claims"]
            ]
    return pd.DataFrame(rows)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        adopt(Path(argument))
    text = OVERVIEW.read_text(encoding="utf-8")
    OVERVIEW.write_text(TABLE.sub(lambda _: f"\n{markdown(verdicts())}\n\n", text), encoding="utf-8")
