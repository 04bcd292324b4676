"""Which nodes must run for some tensors, and when a tensor can be forgotten."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from optimizers.contract.errors import InvalidData, InvalidDocument
from optimizers.trainable.node import Node

Plan = list[tuple[Node, list[str]]]
"""Nodes in the order they run, each with the tensors that nobody needs after it."""


class Plans:
    """Plans of one graph, each made when it is first asked for."""

    def __init__(
        self, nodes: Sequence[Node], inputs: Collection[str], stored: Collection[str]
    ) -> None:
        self._nodes = nodes
        self._inputs = inputs
        self._makers = {name: node for node in nodes for name in node.outputs if name}
        self._known = {*self._makers, *stored, *inputs}
        self._plans: dict[tuple[tuple[str, ...], frozenset[str]], Plan] = {}

    def plan(self, wanted: tuple[str, ...], given: Collection[str]) -> Plan:
        """What to run for the wanted tensors when some are given.

        Raises:
            InvalidData: An input is missing, or something given is not of the graph.
            InvalidDocument: The graph has no tensor of a wanted name.
        """
        key = wanted, frozenset(given)
        if key not in self._plans:
            self._plans[key] = self._new_plan(wanted, given)
        return self._plans[key]

    def _new_plan(self, wanted: tuple[str, ...], given: Collection[str]) -> Plan:
        if unknown := [name for name in wanted if name not in self._known]:
            raise InvalidDocument(f"the model has no tensor {', '.join(unknown)}")
        if unknown := [name for name in given if name not in self._known]:
            raise InvalidData(f"the model has no tensor {', '.join(unknown)} to give it")
        needed = self._needed(wanted, given)
        plan: Plan = []
        kept = set(wanted)
        for node in reversed(self._nodes):
            if node in needed:
                spent = [name for name in {*node.inputs, *node.outputs} - kept if name]
                kept.update(spent)
                plan.append((node, spent))
        return plan[::-1]

    def _needed(self, wanted: Collection[str], given: Collection[str]) -> set[Node]:
        """The nodes without which the wanted tensors cannot be computed."""
        waiting, needed, missing = list(wanted), set[Node](), set[str]()
        while waiting:
            name = waiting.pop()
            if name in given:
                continue
            node = self._makers.get(name)
            if node is not None and node not in needed:
                needed.add(node)
                waiting.extend(node.inputs)
            if name in self._inputs:
                missing.add(name)
        if missing:
            raise InvalidData(f"no value for input {', '.join(sorted(missing))}")
        return needed
