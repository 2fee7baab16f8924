"""Run folders: claimed before the work, never overwritten silently, not left behind empty."""

from pathlib import Path

import pytest

from spp.errors import InputError, SppError
from spp_cli.folders import claim


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_names_are_numbered_where_they_are_taken():
    found = []
    for _ in range(3):
        with claim("net-batch", None) as folder:
            found.append(str(folder))
    assert found == ["runs/net-batch", "runs/net-batch-2", "runs/net-batch-3"]


def test_two_at_once_get_two_folders():
    with claim("net", None) as first, claim("net", None) as second:
        assert {first.name, second.name} == {"net", "net-2"}


def test_failing_work_leaves_no_empty_folder():
    with pytest.raises(RuntimeError, match="the work"), claim("net", None):
        raise RuntimeError("the work")
    assert not Path("runs").exists()


def test_an_interrupt_keeps_what_was_written():
    with pytest.raises(KeyboardInterrupt), claim("net", None) as folder:
        (folder / "frame.csv").write_text("1")
        raise KeyboardInterrupt
    assert (folder / "frame.csv").read_text() == "1"


def test_a_folder_that_was_there_stays_there():
    Path("mine").mkdir()
    with pytest.raises(RuntimeError, match="the work"), claim("net", "mine"):
        raise RuntimeError("the work")
    assert Path("mine").is_dir()


def test_a_folder_with_something_in_it_is_refused():
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    with pytest.raises(InputError) as error, claim("net", "mine"):
        pass
    assert str(error.value) == (
        "--out: a run folder is new or empty; got mine. Choose another folder, or add --overwrite."
    )


def test_only_a_run_is_overwritten():
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    with pytest.raises(SppError, match="only a run folder is overwritten"), claim("net", "mine", overwrite=True):
        pass
    Path("mine/run.json").write_text('{"format": 2, "manifest": {}}')
    with claim("net", "mine", overwrite=True) as folder:
        assert folder == Path("mine")


def test_a_file_in_the_way_is_named():
    Path("mine").write_text("a file")
    with pytest.raises(InputError) as error, claim("net", "mine"):
        pass
    assert str(error.value) == (
        "--out: a run needs a folder that can be written; got mine (a file of that name). Choose another folder with --out."
    )
    with pytest.raises(InputError, match=r"got mine/deeper \(Not a directory\)"), claim("net", "mine/deeper"):
        pass
    Path("runs").write_text("a file")
    with pytest.raises(InputError, match=r"got runs/net \(Not a directory\)"), claim("net", None):
        pass


def test_a_file_system_that_takes_no_files_is_found_before_the_work():
    """Being root does not help in /proc, so this holds for every user."""
    if not Path("/proc/self").is_dir():
        pytest.skip("no /proc on this system")
    worked = False
    with (
        pytest.raises(InputError, match=r"a run needs a folder that can be written; got /proc/"),
        claim("net", "/proc/self/fd/run"),
    ):
        worked = True
    assert not worked


@pytest.mark.parametrize("out", [".", "", "deeper/.."])
def test_the_current_folder_is_refused(out):
    """It would be replaced under the user's shell, which would then stand in a folder that is gone."""
    Path("deeper").mkdir()
    with (
        pytest.raises(InputError, match=r"so it is not the current folder; got .* Name a folder inside it\."),
        claim("net", out),
    ):
        pass
