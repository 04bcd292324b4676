"""Evidence and a goal → the recipes that are tried first, with reasons.

Pure: the same evidence, goal and search give the same proposals. Proposals lie inside the space
that a search composes: in its order, with no other parameters than those the steps declare.
"""

from __future__ import annotations

from typing import Final

from optimizers.contract.evidence import Evidence, Proposal
from optimizers.contract.goal import Goal
from optimizers.contract.search import Search
from optimizers.planner.fitting import fitted
from optimizers.planner.reading import Reading
from optimizers.planner.rules import ranked

MOST: Final = 8
"""Proposals; what comes after them is the sampler's."""


def propose(evidence: Evidence, goal: Goal, search: Search) -> tuple[Proposal, ...]:
    """What to try first.

    Args:
        evidence: What is known of the model on this machine.
        goal: What its profile is after.
        search: Which steps and values may be tried, and how much time there is.

    Returns:
        At most `MOST`, best guess first, no recipe twice. Empty where the evidence speaks for none
        of the steps that may be tried.
    """
    proposals: dict[str, Proposal] = {}
    for idea in ranked(Reading(evidence, goal, search)):
        recipe = fitted(idea.steps, evidence, search)
        if recipe is not None:
            proposals.setdefault(repr(recipe), Proposal(recipe=recipe, reason=idea.why(recipe)))
    return tuple(proposals.values())[:MOST]
