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
from benchmarks.gains.table import page, section, sections_of
from optimizers.contract.errors import InvalidData
from optimizers.contract.host import cpu_budget, this_host

_PACKAGES = ("hone-server", "onnxruntime", "torch", "numpy")


def main() -> None:
    """Measure the rows and print the page; sections of other models stay as they are.

    Raises:
        SystemExit: The data is not installed.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gains", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), help="models")
    parser.add_argument("--rows", nargs="+", default=[""], help="rows whose titles hold a text")
    parser.add_argument("--work", type=Path, default=Path(".gains"), help="where models are kept")
    parser.add_argument("--output", type=Path, help="also write the page to this file")
    options = parser.parse_args()
    work = options.work.resolve()
    output: Path | None = options.output
    sections = sections_of(output.read_text("utf-8")) if output and output.exists() else {}
    for name in options.only:
        try:
            model = subject(name, work, lambda text: print(text, flush=True))
        except InvalidData as error:
            sys.exit(str(error))
        asked_for = [row for row in ROWS[name] if any(text in row.title for text in options.rows)]
        gains = []
        for row in asked_for:
            gains.append(measure(model, row, work / "cache"))
            print(f"{name}: {row.title}: {gains[-1].ending}", flush=True)
        sections[name] = section(
            model,
            gains,
            when=time.strftime("%Y-%m-%d", time.gmtime()),
            machine=_machine(),
            left_out=[row.title for row in ROWS[name] if row not in asked_for],
        )
        if output:  # now, as the rest may take an hour
            output.write_text(page(sections), encoding="utf-8")
    print(page(sections))


def _machine() -> str:
    host = this_host(max(1, int(cpu_budget())))
    vnni = "with" if host.has_vnni else "without"
    machine = f"{host.processor}, {host.cpus} processors, {vnni} VNNI, {platform.platform()}; "
    return machine + ", ".join(f"{package} {version(package)}" for package in _PACKAGES)


if __name__ == "__main__":
    main()
