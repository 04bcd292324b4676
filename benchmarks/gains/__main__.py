"""What each step gains on real models: `python -m benchmarks.gains --output docs/gains.md`."""

from __future__ import annotations

import argparse
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks.gains.measure import measure
from benchmarks.gains.recipes import ROWS
from benchmarks.gains.subjects import subject
from benchmarks.gains.table import page
from optimizers.contract.errors import InvalidData
from optimizers.contract.host import cpu_budget, this_host

_PACKAGES = ("hone-server", "onnxruntime", "torch", "numpy")


def main() -> None:
    """Measure every row and print the page.

    Raises:
        SystemExit: The data is not installed.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gains", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), help="models")
    parser.add_argument("--work", type=Path, default=Path(".gains"), help="where models are kept")
    parser.add_argument("--output", type=Path, help="also write the page to this file")
    options = parser.parse_args()
    gains = []
    for name in options.only:
        try:
            model = subject(name, options.work.resolve(), lambda text: print(text, flush=True))
        except InvalidData as error:
            sys.exit(str(error))
        rows = []
        for row in ROWS[name]:
            rows.append(measure(model, row, options.work / "cache"))
            print(f"{name}: {row.title}: {rows[-1].ending}", flush=True)
        gains.append((model, rows))
    host = this_host(max(1, int(cpu_budget())))
    vnni = "with" if host.has_vnni else "without"
    machine = f"{host.processor}, {host.cpus} processors, {vnni} VNNI, {platform.platform()}; "
    machine += ", ".join(f"{package} {version(package)}" for package in _PACKAGES)
    text = page(gains, when=time.strftime("%Y-%m-%d", time.gmtime()), machine=machine)
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
