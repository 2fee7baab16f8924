"""Check what a wheel holds: both packages with their type markers, the licence, the command, and nothing else."""

import sys
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

EXPECTED = ("spp/__init__.py", "spp/py.typed", "spp_cli/main.py", "spp_cli/py.typed")


def main(path: Path) -> None:
    """Raise SystemExit with the reason if the wheel at ``path`` is not as it should be."""
    with ZipFile(path) as wheel:
        names = set(wheel.namelist())
        (info,) = {name.split("/")[0] for name in names if name.split("/")[0].endswith(".dist-info")}
        metadata = Parser().parsestr(wheel.read(f"{info}/METADATA").decode())
        commands = wheel.read(f"{info}/entry_points.txt").decode()
    source = {
        str(file.relative_to(root))
        for root, package in ((Path(), "spp"), (Path("cli"), "spp_cli"))
        for file in (root / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    problems = [
        f"missing: {name}" for name in sorted({*EXPECTED, f"{info}/licenses/LICENSE"} | source) if name not in names
    ]
    problems += [f"should not be there: {name}" for name in sorted(names - source) if not name.startswith(info)]
    if "spp = spp_cli.main:cli" not in commands:
        problems.append("missing: the command spp")
    if metadata["Name"] != "torch-spp" or metadata["License-Expression"] != "MIT":
        problems.append(f"metadata: {metadata['Name']}, {metadata['License-Expression']}")
    if problems:
        sys.exit("\n".join(problems))
    print(f"{path.name}: {len(names)} files, as they should be")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
