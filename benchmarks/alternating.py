"""Processes of a benchmark's variants, one each, whose rounds alternate; time and highest resident size per round."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


def resident(field: str) -> float:
    """Read this process's resident size (VmRSS) or its highest (VmHWM), in MiB, from Linux's /proc."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) / 1024


def serve(work: Callable[[], object], loaded: float) -> None:
    """Do the work once per line on stdin; print seconds and the peak above ``loaded`` MiB."""
    print("ready", flush=True)
    for _line in sys.stdin:
        Path("/proc/self/clear_refs").write_text("5")  # forget the highest resident size so far
        started = time.perf_counter()
        work()
        seconds = time.perf_counter() - started
        print(json.dumps({"seconds": seconds, "mib": resident("VmHWM") - loaded}), flush=True)


def start(script: str, variant: str, arguments: list[str]) -> subprocess.Popen:
    command = [sys.executable, script, *arguments, f"--variant={variant}"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while process.stdout.readline().strip() != "ready":
        if process.poll() is not None:
            raise SystemExit(f"{variant}: the process ended with {process.returncode}")
    return process


def ask(process: subprocess.Popen) -> dict:
    process.stdin.write("go\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def finish(process: subprocess.Popen) -> None:
    process.stdin.close()
    process.wait()
