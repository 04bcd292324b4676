"""What candidates hold in memory beside the original, which is weighed once for all of them."""

from __future__ import annotations

from pathlib import Path

from optimizers.contract.evaluation import Figure
from optimizers.contract.runtime import Feeds, SessionSpec
from optimizers.evaluation.footprint import Footprint, measure_footprint
from optimizers.evaluation.memory import memory_figures, repeats_for


class Scales:
    """Weighs candidates in processes of their own, fed what the original was fed."""

    def __init__(self, original: Path, session: SessionSpec, feeds: Feeds, alpha: float) -> None:
        """Nothing is weighed yet.

        Args:
            original: The original's model file.
            session: How the server opens it.
            feeds: One run's inputs, as large as it is served.
            alpha: Error probability of each bound.
        """
        self._original, self._session = original, session
        self._feeds, self._alpha = feeds, alpha
        self._weighed: list[Footprint] = []

    def weigh(self, model: Path, session: SessionSpec) -> tuple[Figure, Figure]:
        """Memory that is held after running, and at the peak.

        Args:
            model: The candidate's model file.
            session: How it would be served.

        Raises:
            InvalidModel: The process that opens it failed.
            OutOfMemory: The process got too little.
        """
        if not self._weighed:
            self._weighed = self._repeatedly(self._original, self._session)
        return memory_figures(self._weighed, self._repeatedly(model, session), self._alpha)

    def _repeatedly(self, model: Path, session: SessionSpec) -> list[Footprint]:
        repeats = repeats_for(self._alpha)
        return [measure_footprint(model, session, self._feeds) for _ in range(repeats)]
