"""Several devices: JAX takes their number from the environment, once, so another process has them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

jax = pytest.importorskip("jax")

WORKER = Path(__file__).with_name("jax_devices_worker.py")


@pytest.mark.skipif(not hasattr(jax, "shard_map") or not hasattr(jax.lax, "pcast"), reason="needs jax.shard_map")
def test_four_devices():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-W", "error", str(WORKER)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["sharded", "data parallel", "batch norm", "at once"]


def test_import_registers_and_is_silent():
    code = "import onepass.jax, sys; print('optax' in sys.modules)"
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=300)
    assert (run.returncode, run.stdout, run.stderr) == (0, "False\n", "")


def test_an_old_jax_is_named():
    code = "import jax; del jax.ffi; import onepass.jax"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert "onepass.jax needs jax 0.5 or newer, found" in run.stderr
    assert "pip install 'onepass[jax]'" in run.stderr
