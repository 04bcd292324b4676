"""Hours of trouble in minutes: every kind of call at once, attacks, killed clients.

It ends with a table, and fails on a wrong or lost answer, a crash, or growth.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Final

from benchmarks.soak import attacked, trouble
from benchmarks.soak.questions import LIMIT_BYTES, write_repository
from benchmarks.soak.watch import Sample, growth, sample, watch
from tests.support.servers import Server, running

_QUIET_S: Final = 5.0
_MOST_SHOWN: Final = 50
_MB: Final = 1e6
_FLAGS: Final = ("--model-control", "explicit", "--load-model", "*")


def main() -> None:
    """Soak a server, and attack it in earnest.

    Raises:
        SystemExit: Something was wrong, lost or leaked, or the server crashed.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--transport", choices=("native", "grpcio"), default="native")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--no-attacks", action="store_true", help="only what clients may do")
    parser.add_argument("--log", type=Path, help="write what the server said to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_repository(directory / "models")
        flags = (*_FLAGS, "--transport", options.transport)
        limit = ("--max-message-bytes", str(LIMIT_BYTES))
        with running(directory / "models", directory / "state", *flags, *limit) as server:
            soak = _soaked(
                server, directory / "models", 60 * options.minutes, hostile=not options.no_attacks
            )
            faults = asyncio.run(soak)
            if not options.no_attacks and server.process.poll() is None:
                faults += asyncio.run(attacked.in_earnest(server))
            if server.process.poll() is None and (status := server.stop(signal.SIGTERM)):
                faults.append(f"the server ended with status {status}")
    faults += [f"in the log: {line.rstrip()}" for line in server.log if "panick" in line]
    if options.log:
        options.log.write_text("".join(server.log), encoding="utf-8")
    print("\n".join(faults[:_MOST_SHOWN]) or "no fault was found")
    sys.exit(1 if faults else 0)


async def _soaked(server: Server, repository: Path, seconds: float, *, hostile: bool) -> list[str]:
    """Load and trouble for so long; what was wrong."""
    samples: list[Sample] = []
    done: Counter[str] = Counter()
    complaints: list[str] = []
    start = time.monotonic()
    beside = [
        asyncio.create_task(trouble.swaps(server.admin, repository, done)),
        asyncio.create_task(trouble.kills(server.public, done, complaints)),
        asyncio.create_task(watch(server.process.pid, samples)),
    ]
    if hostile:
        beside.append(asyncio.create_task(trouble.attacks(server.public, done)))
    callers = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.soak.callers", server.public, "0", str(seconds)),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await callers.communicate()
    faults = [f"beside the load: {task.exception()!r}" for task in beside if task.done()]
    for task in beside:
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task
    lines = output.decode().splitlines()
    ledger: Counter[str] = Counter(json.loads(lines.pop())) if lines else Counter()
    complaints += lines
    _print_ledger(ledger, done, time.monotonic() - start)
    if callers.returncode or not ledger:
        faults.append("the callers did not come to their end")
    if server.process.poll() is not None:
        return [*faults, *complaints, f"the server died with status {server.process.returncode}"]
    for one in growth(samples):
        print(f"{one.name}: {one.early:.0f} after warm-up, {one.late:.0f} at the end")
        if one.is_a_leak:
            faults.append(f"{one.name} grew from {one.early:.0f} to {one.late:.0f}")
    await asyncio.sleep(_QUIET_S)
    last = sample(server.process.pid)
    print(
        f"{_QUIET_S:g} s after: {last.resident / _MB:.0f} MB, {last.descriptors} descriptors "
        f"({samples[0].descriptors} at the start), {last.threads} threads "
        f"({samples[0].threads} at the start)",
        flush=True,
    )
    return [*faults, *complaints]


def _print_ledger(ledger: Counter[str], done: Counter[str], seconds: float) -> None:
    kinds = dict.fromkeys(key.partition("|")[0] for key in sorted(ledger))
    print(f"{ledger.total():,} calls in {seconds / 60:.1f} minutes; {dict(done)}")
    for kind in kinds:
        outcomes = {
            key.partition("|")[2]: count
            for key, count in sorted(ledger.items())
            if key.startswith(f"{kind}|")
        }
        print(f"  {kind:16} " + ", ".join(f"{name} {count:,}" for name, count in outcomes.items()))
    for outcome in ("WRONG", "LOST"):
        count = sum(n for key, n in ledger.items() if key.endswith(f"|{outcome}"))
        print(f"  {outcome.lower()}: {count}", flush=True)


if __name__ == "__main__":
    main()
