"""What each step gains on real models: `python -m benchmarks.gains --output docs/gains.md`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gains.measure import NotMeasured, measure
from benchmarks.gains.page import page
from benchmarks.gains.recipes import ROWS, Row
from benchmarks.gains.records import current, read_records, unmeasured, write_records
from benchmarks.gains.subjects import subject
from benchmarks.gains.targets import TARGETS
from optimizers.contract.errors import InvalidData


def main() -> None:
    """Measure the rows that are asked for, keep their records, and print the page of all records.

    Raises:
        SystemExit: The data is not installed, or records are damaged.
    """
    options = _options()
    try:
        for name in options.only:
            _measure(name, _asked_for(name, options), options)
        written = _write(options)
    except InvalidData as error:
        sys.exit(str(error))
    print(written)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gains", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), help="models")
    parser.add_argument("--rows", nargs="+", default=[""], help="rows whose titles hold a text")
    parser.add_argument("--missing", action="store_true", help="rows that have no record")
    parser.add_argument("--render", action="store_true", help="measure nothing: write the page")
    parser.add_argument("--work", type=Path, default=Path(".gains"), help="where models are kept")
    parser.add_argument(
        "--results",
        type=Path,
        default=Path(__file__).with_name("results"),
        help="where records are kept; a row that is measured replaces its own",
    )
    parser.add_argument("--output", type=Path, help="also write the page to this file")
    return parser.parse_args()


def _asked_for(name: str, options: argparse.Namespace) -> list[Row]:
    if options.render:
        return []
    rows: Sequence[Row] = ROWS[name]
    if options.missing:
        rows = unmeasured(read_records(options.results, name), rows)
    return [row for row in rows if any(text in row.title for text in options.rows)]


def _measure(name: str, rows: Sequence[Row], options: argparse.Namespace) -> None:
    """Measure rows of one model; each is kept at once, as the rest may take hours."""
    if not rows:
        return
    work = options.work.resolve()
    model = subject(name, work, lambda text: print(text, flush=True))
    for row in rows:
        try:
            record = measure(model, row, work / "cache")
        except NotMeasured as error:
            print(f"{name}: {row.title}: not measured: {error}", flush=True)
            continue
        print(f"{name}: {row.title}: {record.ending}", flush=True)
        known = read_records(options.results, name)
        write_records(options.results, name, current([*known, record], ROWS[name]))
        _write(options)


def _write(options: argparse.Namespace) -> str:
    """The page of all records, written where it was asked for."""
    written = page({name: read_records(options.results, name) for name in ROWS}, ROWS, TARGETS)
    if options.output:
        options.output.write_text(written, encoding="utf-8")
    return written


if __name__ == "__main__":
    main()
