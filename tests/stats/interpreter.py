"""Runs the Triton kernels in Triton's interpreter, in a process of its own: the interpreter is chosen when triton is imported.

Started with ``python -m``, it reads pickled ``(tensor, axis, ends, options)`` from its standard input and writes the table, or
the error as text, to its standard output.
"""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]


class Interpreter:
    """The other process; ``reduce`` has the interface of every kernel, with the launch's options."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.stats.interpreter"],
            env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def reduce(
        self, tensor: torch.Tensor, axis: int | None, ends: tuple[float, float] | None = None, **options: int
    ) -> torch.Tensor | None:
        assert self._process.stdin is not None and self._process.stdout is not None
        pickle.dump((tensor, axis, ends, options), self._process.stdin)
        self._process.stdin.flush()
        answer = pickle.load(self._process.stdout)
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def main() -> None:
    import numpy as np

    from spp.stats.backends import cuda, triton_sweep

    np.seterr(all="ignore")  # a GPU does not warn of an overflow either, and the kernels mean theirs
    while True:
        try:
            tensor, axis, ends, options = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        answer: Any
        try:
            answer = cuda.launch(triton_sweep, tensor, axis, ends, **options)
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        pickle.dump(answer, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
