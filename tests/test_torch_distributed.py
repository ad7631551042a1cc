"""onepass.torch beside torch.optim in two processes: DDP, ZeroRedundancyOptimizer, FSDP2, distributed checkpoints."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
    pytest.skip("this torch has no gloo", allow_module_level=True)

WORKER = Path(__file__).with_name("torch_worker.py")
TASKS = re.findall(r"^@task\ndef (\w+)", WORKER.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        printed = [worker.communicate(timeout=240)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    files = [folder / f"{rank}.json" for rank in range(2)]
    assert all(file.exists() for file in files), "\n".join(printed)
    return [json.loads(file.read_text()) for file in files]


@pytest.mark.parametrize("task", TASKS)
def test_task(task, results):
    if all(result[task].startswith("skipped: ") for result in results):
        pytest.skip(results[0][task])
    for rank, result in enumerate(results):
        assert result[task] == "ok", f"process {rank}:\n{result[task]}"
