"""Building and finding the compiled kernel, by real compilers in processes of their own; with a library that compiles fast."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import spp
from spp import _cbuild

pytestmark = pytest.mark.skipif(_cbuild.find_compiler() is None or os.name != "posix", reason="no C compiler here")

USE = """
import os
os.umask(int(os.environ.get("MASK", "022"), 8))
from spp._cbuild import Library, Source
def bind(loaded):
    # a page in the middle, which a file that was cut short does not have
    return "" if loaded.answer() == 42 else "a wrong answer"
library = Library(Source("small", "small.c", ("answer.h",)), bind)
"""
ASK = USE + "status = library.status(60); print(status.native, status.reason)"


class Place:
    """A package with a C source, and a cache for what is built of it."""

    def __init__(self, root: Path) -> None:
        self.root, self.cache = root, root / "cache"
        package = root / "code" / "small"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "answer.h").write_text("#define ANSWER 42\nstatic const char room[1 << 16] = {1};\n")
        (package / "small.c").write_text('#include "answer.h"\nint answer(void) { return ANSWER + room[1 << 15]; }\n')
        log = root / "compiled"
        self.compiler(f'case "$*" in *" -c "*) echo once >> {log};; esac; exec {_cbuild.find_compiler()} "$@"')

    def compiler(self, script: str) -> None:
        """Stand a shell script before the compiler."""
        cc = self.root / "cc"
        cc.write_text(f"#!/bin/sh\n{script}\n")
        cc.chmod(0o755)

    def begin(self, script: str = ASK, *before: str, **environment: str | None) -> subprocess.Popen[str]:
        """Run a script with our code and the package on its path."""
        code = [str(self.root / "code"), str(Path(spp.__file__).parents[1])]
        added = {"SPP_CACHE": str(self.cache), "CC": str(self.root / "cc"), "PYTHONPATH": os.pathsep.join(code)}
        found = {**os.environ, **added, **environment}
        return subprocess.Popen(
            [*before, sys.executable, "-c", script],
            env={name: value for name, value in found.items() if value is not None},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.root,
        )

    def ask(self, *before: str, **environment: str | None) -> str:
        """Whether a process has the library, and why; it says nothing else."""
        process = self.begin(ASK, *before, **environment)
        out, err = process.communicate()
        assert (process.returncode, err, out.count("\n")) == (0, "", 1)
        return out

    @property
    def builds(self) -> int:
        """How often the compiler has been called to compile."""
        log = self.root / "compiled"
        return len(log.read_text().splitlines()) if log.exists() else 0

    @property
    def libraries(self) -> list[Path]:
        return list(self.cache.glob("*.so"))


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@pytest.mark.parametrize("mask", ["000", "002", "007", "022", "077"])
def test_the_umask_does_not_matter(place, mask):
    place.cache = place.root / "home" / ".cache" / "spp"
    for _ in range(2):
        assert place.ask(MASK=mask).startswith("True compiled by")
    assert place.builds == 1
    (library,) = place.libraries
    assert all(path.stat().st_mode & 0o077 == 0 for path in (library, *library.parents[:3]))


@pytest.mark.parametrize("size", [0, 64, 4096, 20_000, -1])
def test_a_library_that_was_cut_short_is_built_again(place, size):
    place.ask()
    (library,) = place.libraries
    os.truncate(library, size if size >= 0 else library.stat().st_size - 1)
    assert place.ask().startswith("True") and place.ask().startswith("True")
    assert place.builds == 2 and place.libraries == [library]


def test_a_library_whose_contents_have_changed_is_built_again(place):
    place.ask()
    (library,) = place.libraries
    contents = bytearray(library.read_bytes())
    contents[len(contents) // 2] ^= 1
    library.write_bytes(contents)
    assert place.ask().startswith("True") and place.builds == 2
    # and one that somebody put in its place under its name
    other = library.with_name(re.sub(r"-\w+\.so$", "-" + 20 * "0" + ".so", library.name))
    library.rename(other)
    assert place.ask().startswith("True") and place.builds == 3 and not other.exists()


def test_every_folder_above_is_looked_at(place):
    above = place.root / "above"
    place.cache = above / "mine" / "cache"
    (above / "mine").mkdir(parents=True)
    above.chmod(0o777)
    assert place.ask() == f"False {above} can be written by others\n"
    # in such a folder nobody replaces what is another's
    above.chmod(0o1777)
    assert place.ask().startswith("True")
    place.cache.chmod(0o1777)
    assert place.ask() == f"False {place.cache} can be written by others\n"
    place.cache.chmod(0o700)
    place.libraries[0].chmod(0o722)
    assert place.ask().startswith("True") and place.builds == 2
    assert place.libraries[0].stat().st_mode & 0o077 == 0
    # through a link it is the folders that it leads to
    link = place.root / "link"
    link.symlink_to(above)
    above.chmod(0o777)
    assert place.ask(SPP_CACHE=str(link / "mine" / "cache")) == f"False {above} can be written by others\n"
    above.chmod(0o755)
    assert place.ask().startswith("True") and place.builds == 2


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can give a folder away")
def test_folders_of_others_and_their_groups(place):
    above = place.root / "above"
    above.mkdir()
    place.cache = above / "cache"
    os.chown(above, 54321, -1)
    assert place.ask() == f"False {above} belongs to another user\n"
    os.chown(above, 0, 54321)
    above.chmod(0o775)
    assert place.ask() == f"False {above} can be written by others\n"
    # with a umask of 002 goes a group of the user's own
    os.chown(above, 0, 0)
    assert place.ask().startswith("True")


def _without_a_name() -> list[str]:
    """What stands before a command that is to run as a user whom nobody knows."""
    command = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]
    try:
        done = subprocess.run([*command, sys.executable, "-c", "pass"], check=False, capture_output=True)
    except OSError:
        pytest.skip("no unshare here")
    if done.returncode:
        pytest.skip("no user namespaces here")
    return command


def test_a_user_without_a_home_or_a_name(place):
    before, temporary = _without_a_name(), place.root / "temporary"
    temporary.mkdir()
    temporary.chmod(0o1777)
    nowhere = {"SPP_CACHE": None, "XDG_CACHE_HOME": None, "HOME": None, "TMPDIR": str(temporary)}
    for home in (None, "/proc", "relative"):
        assert place.ask(*before, **nowhere | {"HOME": home}).startswith("True")
    place.cache = temporary / "spp-54321"
    assert place.builds == 1 and len(place.libraries) == 1 and place.cache.stat().st_mode & 0o077 == 0
    # where somebody else has put a folder of that name nothing is loaded from it
    place.cache.chmod(0o777)
    assert place.ask(*before, **nowhere) == f"False {place.cache} can be written by others\n"
    assert "home" in place.ask(*before, **nowhere | {"SPP_CACHE": "~/cache"})


def test_sources_in_an_archive(tmp_path):
    archive, root = tmp_path / "spp.zip", Path(spp.__file__).parent
    with zipfile.ZipFile(archive, "w") as file:
        for path in root.rglob("*"):
            if "__pycache__" not in path.parts:
                file.write(path, path.relative_to(root.parent))
    script = """
import torch
import spp
from spp.stats.backends import native
native.PATIENCE = 60
print(spp.__file__)
print(spp.trace(torch.nn.Linear(4, 2), torch.ones(3, 4)).info["kernels"], native.status().reason)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(archive), "SPP_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    first, second = done.stdout.splitlines()
    assert first.startswith(str(archive)) and second.startswith("native compiled by")


@pytest.mark.parametrize(
    "end", ["", "raise SystemExit(3)", "raise KeyError", "import threading; threading.Timer(0, print)"]
)
def test_a_short_process_does_not_lose_its_build(place, end):
    place.compiler(f'sleep 0.3; exec {_cbuild.find_compiler()} "$@"')
    place.begin(f"{USE}library.start()\n{end}").communicate()
    assert len(place.libraries) == 1 and place.ask().startswith("True")


def test_processes_that_start_together_build_once(place):
    together = [place.begin() for _ in range(8)]
    found = {process.communicate() for process in together}
    assert len(found) == 1 and found.pop()[0].startswith("True")
    assert place.builds == 1 and len(place.libraries) == 1
    assert {path.name for path in place.cache.iterdir()} <= {place.libraries[0].name, ".lock"}


def test_a_killed_build_holds_nobody_up(place):
    place.compiler('case "$*" in *" -c "*) touch begun; exec sleep 1000;; esac; exec cc "$@"')
    process = place.begin(USE + "library.get(60)")
    while not (place.root / "begun").exists():
        assert process.poll() is None
    process.kill()
    process.communicate()
    place.compiler('exec cc "$@"')
    assert place.ask().startswith("True")


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"CC": "'"}, "No closing quotation"),
        ({"CC": "false"}, "false failed: exit code 1"),
        ({"SPP_CACHE": "/proc/self/cache"}, "/proc"),
        ({"SPP_CACHE": "/dev/null/cache"}, "/dev/null"),
        ({"SPP_CACHE": "~nobody-of-this-name/cache"}, "home"),
    ],
)
def test_what_cannot_be_built_is_one_line(place, environment, reason):
    out = place.ask(**environment)
    assert out.startswith("False ") and reason in out


def test_a_disk_that_takes_no_more_is_one_line(place):
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n" + ASK
    out, err = place.begin(full).communicate()
    assert err == "" and out.startswith("False") and out.count("\n") == 1
    assert place.libraries == [] and list(place.cache.glob("draft-*")) == []
    assert place.ask().startswith("True")


def test_a_folder_that_cannot_be_written_still_serves(place):
    place.ask()
    lines = [f"mount --bind {place.cache} {place.cache}", f"mount -o remount,ro,bind {place.cache}", 'exec "$@"']
    before = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", "\n".join(lines), "sh"]
    if subprocess.run([*before, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no mounts here")
    assert place.ask(*before).startswith("True") and place.builds == 1
    place.libraries[0].unlink()
    out = place.ask(*before)
    assert out.startswith("False") and "Read-only file system" in out
