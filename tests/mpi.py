"""Real MPI jobs for tests: started by psdp.launch, and never left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from session import run_session

ROOT = Path(__file__).parents[1]
CODE = "psdp_test_job"


def run_job(
    n: int, code_or_module: str, *args: str, timeout_s: float = 60, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script, a module, or the code of one (any text of several lines), on ``n`` ranks of
    this Python's MPI, in the folder ``cwd``; return its exit status and output, stderr included.

    The job has its own session. Whatever of it is alive after ``timeout_s`` is killed, and the
    test fails with what it printed.
    """
    with tempfile.TemporaryDirectory(prefix="psdp-mpi-") as folder:
        module = code_or_module
        if "\n" in code_or_module:
            module = CODE
            (Path(folder) / f"{CODE}.py").write_text(code_or_module)
        paths = [folder, str(ROOT), os.environ.get("PYTHONPATH", "")]
        program = [module] if module.endswith(".py") else ["--module", module]
        command = [sys.executable, "-m", "psdp.launch", "-n", str(n), *program, *args]
        # Ranks that compute on several threads each would only slow one another.
        variables = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
        ended = run_session(command, timeout_s=timeout_s, env=os.environ | variables, cwd=cwd)
    if ended.status is None:
        pytest.fail(
            f"{module} on {n} ranks was still running after {timeout_s} s; it said:\n{ended.output}"
        )
    return subprocess.CompletedProcess(command, ended.status, ended.output)
