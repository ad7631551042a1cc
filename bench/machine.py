"""What the numbers were measured on."""

from __future__ import annotations

import os
import platform
from typing import Any

from bench import peers


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            fields = dict(line.split(":", 1) for line in lines if ":" in line)
        names = {key.strip(): value.strip() for key, value in fields.items()}
        return names.get("model name") or platform.processor() or platform.machine()
    except OSError:
        return platform.processor() or platform.machine()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe() -> dict[str, Any]:
    info = peers.load("onepass").info()
    names = ("numpy", "scipy", *peers.PEERS)
    return {
        "cpu": _cpu(),
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": _cores(),
        "threads": peers.threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "onepass": info["version"],
        "isa": info["isa"],
        "isa_built": list(info["isa_built"]),
        "versions": {name: peers.version(name) for name in names},
    }
