"""Checkpoints that claim gigabytes: one line, or the weights, before the memory is taken."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from spp.errors import InputError
from spp.models.sources.checkpoint import load_checkpoint

MANY = 3 << 28
"""Numbers of a tensor of 3 GiB."""

LOAD = """
import resource, sys
from torch import nn
from spp.errors import InputError
from spp.models.sources.checkpoint import load_checkpoint
model = nn.Linear(4, 2)
if sys.argv[1:]:
    # of the address space one GiB more than there is
    with open("/proc/self/statm") as file:
        here = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (here + 2**30,) * 2)
for line in sys.stdin:
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        load_checkpoint(model, line.strip())
        said = f"loaded {model.weight.sum().item()}"
    except InputError as error:
        said = str(error)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used) // 1024, said, flush=True)
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs limits of memory and sparse files")


class Loader:
    """A process that loads checkpoints into ``nn.Linear(4, 2)``; each must take less than 256 MiB of memory."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-c", LOAD, *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, path: Path) -> str:
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        taken, _, said = self.process.stdout.readline().partition(" ")
        assert int(taken) < 256
        return said.strip()


@pytest.fixture(scope="module", params=["limited", "free"])
def load(request):
    loader = Loader(*["limited"] * (request.param == "limited"))
    yield loader
    loader.process.communicate()


@pytest.fixture(scope="module")
def load_freely():
    loader = Loader()
    yield loader
    loader.process.communicate()


def save(path: Path, state: object) -> Path:
    """Save tensors without their numbers: a sparse file, which takes next to nothing and reads as zeros."""
    with torch.serialization.skip_data():
        torch.save(state, path)
    return path


def huge(*shape: int) -> Tensor:
    return torch.empty(shape or (MANY,))


def fitting() -> dict[str, Tensor]:
    return {"weight": huge(2, 4), "bias": huge(2)}


@linux
@pytest.mark.parametrize(
    ("state", "said"),
    [
        (lambda: {"elsewhere": huge()}, "2 missing: weight, bias; 1 unexpected: elsewhere"),
        (lambda: {"weight": huge(MANY, 1), "bias": huge(2)}, f"1 of another shape: weight {MANY}x1 instead of 2x4"),
        (lambda: {"model": fitting() | {"more": huge()}, "step": 3}, "1 unexpected: more"),
        (
            lambda: {f"layer{i}.weight": huge(MANY // 64) for i in range(64)},
            "64 unexpected: layer0.weight, layer1.weight",
        ),
        (lambda: [huge()], "a checkpoint is a mapping of names to tensors; got list"),
    ],
)
def test_keys_and_shapes_are_compared_first(load, tmp_path, state, said):
    path = save(tmp_path / "huge.pt", state())
    facts = path.stat()
    assert facts.st_size > 4 * MANY > 1000 * facts.st_blocks * 512
    assert said in load(path)


@linux
@pytest.mark.parametrize(
    "state",
    [
        lambda: {"model": fitting(), "optimizer": [huge()]},
        # a few numbers of many
        lambda: {"weight": huge()[:8].view(2, 4), "bias": huge(2)},
        lambda: fitting() | {"weight": huge()[-8:].view(4, 2).T},
    ],
)
def test_what_is_beside_the_weights_is_not_read(load_freely, tmp_path, state):
    assert load_freely(save(tmp_path / "huge.pt", state())) == "loaded 0.0"


@linux
@pytest.mark.parametrize("entry", ["data.pkl", "byteorder", "more/notes"])
def test_all_else_that_an_archive_holds_is_small(load, tmp_path, entry):
    path, bomb = tmp_path / "plain.pt", tmp_path / "bomb.pt"
    torch.save(nn.Linear(4, 2).state_dict(), path)
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(bomb, "w") as file:
        for one in plain.infolist():
            if not one.filename.endswith(entry):
                file.writestr(one, plain.read(one))
        out = file.open(f"plain/{entry}", "w", force_zip64=True)
        # a hole instead of zeros, since nobody has come to their checksum
        file.fp.seek(4 * MANY, os.SEEK_CUR)
        out._file_size = out._compress_size = 4 * MANY
        out.close()
    assert bomb.stat().st_size > 4 * MANY > 1000 * bomb.stat().st_blocks * 512
    assert "got 3,221,22" in (said := load(bomb)) and "bytes beside the numbers, 268,435,456 at most" in said


@linux
def test_a_pickle_that_promises_what_the_archive_lacks(load, tmp_path):
    path, short = tmp_path / "plain.pt", tmp_path / "short.pt"
    torch.save({"weight": torch.ones(8), "bias": torch.ones(2)}, path)
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(short, "w") as file:
        for one in plain.infolist():
            contents = plain.read(one)
            if one.filename.endswith("data.pkl"):
                # eight numbers, of a tensor of eight: 2^29 of 2 x 4
                assert contents.count(b"K\x08") == 2
                contents = contents.replace(b"K\x08tq", b"J\x00\x00\x00\x20tq").replace(b"K\x08", b"K\x02")
            file.writestr(one, contents)
    assert "got " in load(short)


@pytest.mark.parametrize("weight", [torch.ones(2, 4).to_sparse(), torch.empty(2, 4, device="meta")])
def test_tensors_without_plain_numbers_are_named(tmp_path, weight):
    path = tmp_path / "odd.pt"
    torch.save({"weight": weight, "bias": torch.ones(2)}, path)
    with pytest.raises(InputError, match=r"holds tensors of plain numbers; got 1 that are sparse or .*: weight"):
        load_checkpoint(nn.Linear(4, 2), path)


def test_complex_numbers_are_no_weights_of_real_layers(tmp_path):
    path = tmp_path / "complex.pt"
    torch.save({key: value.to(torch.complex64) for key, value in nn.Linear(4, 2).state_dict().items()}, path)
    with pytest.raises(InputError, match="2 complex: weight, bias"):
        load_checkpoint(nn.Linear(4, 2), path)
    load_checkpoint(nn.Linear(4, 2, dtype=torch.complex64), path)


@pytest.mark.parametrize("archive", [True, False])
def test_both_formats_are_read(tmp_path, archive):
    source, model = nn.Linear(4, 2), nn.Linear(4, 2)
    torch.save(source.state_dict(), tmp_path / "plain.pt", _use_new_zipfile_serialization=archive)
    load_checkpoint(model, tmp_path / "plain.pt")
    assert torch.equal(model.weight, source.weight) and model.weight.untyped_storage().nbytes() == 32
    with pytest.raises(InputError, match="got 2 of another shape: weight 2x4 instead of 4x3, bias 2 instead of 4"):
        load_checkpoint(nn.Linear(3, 4), tmp_path / "plain.pt")
