"""Optuna's samplers, each seeded by the trial that it proposes for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from optimizers.contract.search import Sampler

POPULATION: Final = 12
"""Of a generation of NSGA-II; small, as a trial is dear."""


class SeededByTrial(BaseSampler):
    """A sampler of Optuna, begun anew for each trial with a seed made of its number.

    So a proposal is a function of the seed, the trial's number and what was told, whichever
    process asks and however often a study was interrupted; two workers that begin at the same
    time draw different numbers.

    Args:
        kind: Which; a grid asks for nothing that is not given, so it gets a random one.
        seed: Of everything random.

    Attributes:
        at_random: Whether chance proposes for the time being, whatever the kind.
    """

    def __init__(self, kind: Sampler, seed: int) -> None:
        self.at_random = False
        self._kind = kind
        self._seed = seed
        self._inner = self._begun(0)

    @property
    def kind(self) -> Sampler:
        """Who proposes."""
        return Sampler.RANDOM if self.at_random else self._kind

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Begin anew."""
        self._inner = self._begun(trial.number)
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """See `BaseSampler`."""
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See `BaseSampler`."""
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """See `BaseSampler`."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """See `BaseSampler`."""
        self._inner.after_trial(study, trial, state, values)

    def _begun(self, number: int) -> BaseSampler:
        entropy = (self._seed % 2**63, number)
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        if self.kind is Sampler.TPE:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
        if self.kind is Sampler.NSGA2:
            return NSGAIISampler(seed=seed, population_size=POPULATION)
        return RandomSampler(seed=seed)
