"""Whether a caller who is alone is answered sooner by a run that takes all threads."""

from __future__ import annotations

import time
from typing import Final

from optimizers.contract.processors import everywhere
from optimizers.contract.runtime import Feeds, Session

_HEAVY_S: Final = 0.002
"""Below that, waking other threads costs what they could save."""

FASTER_BELOW: Final = 0.9
"""Of a narrow run's time; two sessions of one file differ by a few per cent."""


def widen_if_faster(session: Session, feeds: Feeds, threads: int, rounds: int = 2) -> float:
    """Open the wide session of `session`, and keep it if its runs are faster. Blocks.

    Args:
        session: Open, and run before; narrow runs of it are timed here too.
        feeds: What to run.
        threads: What this process may use.
        rounds: Runs of each kind, in turn.

    Returns:
        Seconds of a wide run over seconds of a narrow one; 1.0 where there is no wide session.

    Raises:
        RunFailed: The runtime refuses `feeds`.
    """
    ratio = widen(session, feeds, threads, rounds)
    if ratio is None or ratio >= FASTER_BELOW:
        session.widen(0)
        return 1.0
    return ratio


def widen(session: Session, feeds: Feeds, threads: int, rounds: int = 1) -> float | None:
    """Open the wide session of `session` if its runs can be faster, and see whether they are.

    Args:
        session: As for `widen_if_faster`.
        feeds: What to run.
        threads: What this process may use.
        rounds: Runs of each kind, in turn.

    Returns:
        Seconds of a wide run over seconds of a narrow one; None where there is no wide session.

    Raises:
        RunFailed: The runtime refuses `feeds`.
    """
    spec = session.spec
    if spec.provider != "cpu" or spec.lanes == 1 or threads <= spec.intra_op_threads:
        return None
    narrow_s = _seconds(session, feeds, wide=False)
    if narrow_s < _HEAVY_S:
        return None
    session.widen(threads)
    with everywhere():
        session.run(feeds, wide=True)
        wide_s = _seconds(session, feeds, wide=True)
        for _ in range(rounds - 1):
            narrow_s = min(narrow_s, _seconds(session, feeds, wide=False))
            wide_s = min(wide_s, _seconds(session, feeds, wide=True))
    return wide_s / narrow_s


def _seconds(session: Session, feeds: Feeds, *, wide: bool) -> float:
    start = time.perf_counter()
    session.run(feeds, wide=wide)
    return time.perf_counter() - start
