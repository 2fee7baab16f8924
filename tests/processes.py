"""Python processes that begin in no time: each is forked from one that has torch and pandas loaded, and ends as any other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from subprocess import CompletedProcess

ROOT = Path(__file__).resolve().parents[1]

SERVER = """
import gc, json, os, signal, sys
import matplotlib.figure, pandas, pyarrow.parquet, torch
torch.optim.SGD([torch.ones(1)])  # the first optimizer takes a second to load what it may need
gc.freeze()  # else each child's last collection copies the memory of all that is loaded
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if not child:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
# the rest of this is the child's main program, so that Python ends it as it ends every program
signal.alarm(300)
for number, name in enumerate((os.devnull, job["stdout"], job["stderr"])):
    os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY), number)
os.chdir(job["cwd"])
sys.argv = ["-c", *job["arguments"]]
exec(compile(job["code"], "<string>", "exec"), {"__name__": "__main__"})
"""


class Forked:
    """Runs code as ``python -c`` does, in a child of one process whose libraries are loaded; of ours it has none.

    Args:
        folder: For what the children print.
    """

    def __init__(self, folder: Path) -> None:
        environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'cli'}", "OMP_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        command = [sys.executable, "-c", SERVER]
        self._server = subprocess.Popen(command, env=environment, cwd=ROOT, text=True, **pipes)
        self._printed = {name: folder / name for name in ("stdout", "stderr")}

    def __call__(self, code: str, *arguments: object, cwd: Path = ROOT) -> CompletedProcess[str]:
        """Run it with these arguments in a folder, and return what ``subprocess.run`` does."""
        for file in self._printed.values():
            file.unlink(missing_ok=True)
        job = {"code": textwrap.dedent(code), "arguments": [str(one) for one in arguments], "cwd": str(cwd)}
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(job | {name: str(file) for name, file in self._printed.items()}) + "\n")
        self._server.stdin.flush()
        status = int(self._server.stdout.readline())
        texts = {name: file.read_text(errors="surrogateescape") for name, file in self._printed.items()}
        return CompletedProcess(arguments, status, **texts)

    def close(self) -> None:
        """End the process that the others are forked from."""
        self._server.communicate()
