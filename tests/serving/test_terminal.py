"""What people read of a figure."""

from __future__ import annotations

from optimizers.contract.evaluation import Estimate, Figure
from optimizers.contract.goal import FigureName
from server.rpc.messages import figure_message
from server.terminal import figure_line


def figure(of_items: int) -> Figure:
    return Figure(
        name=FigureName.AGREEMENT,
        unit="",
        samples=24,
        value=Estimate(value=0.99, lower=0.97),
        of_items=of_items,
    )


def test_a_figure_of_clusters_says_so_and_as_evaluations_do() -> None:
    for of_items, said in ((480, "24 clusters of 480 items"), (0, "24 samples")):
        one = figure(of_items)
        assert one.counted == said
        assert figure_line(figure_message(one)).endswith(f"; {said}")
