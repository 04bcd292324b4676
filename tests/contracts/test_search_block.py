"""Mistakes in the goal and the search of a profile: each is refused with what was expected."""

from __future__ import annotations

import pytest

from optimizers.contract.errors import InvalidDocument
from optimizers.contract.profile import model_policy

SECRET = "pa:ss/w0rd"


def search(text: str) -> str:
    return f"profiles:\n  edge:\n    search:\n      {text}\n"


def goal(text: str) -> str:
    return f"profiles:\n  edge:\n    search: {{}}\n    goal:\n      {text}\n"


def values(text: str) -> str:
    return search(f"values: {{prune_channels.ratio: {text}}}")


IN_SEARCH = {
    search("trails: 3"): r"trails: unknown key; did you mean 'trials'\? Expected one of sampler,",
    search("trials: 0"): r"trials: trials must be in \[1, 10000\], got 0",
    search("trials: 10001"): r"trials: trials must be in \[1, 10000\], got 10001",
    search("trials: many"): "trials: expected a whole number, got 'many'",
    search("trials: 2.5"): "trials: expected a whole number, got 2.5",
    search("trials: true"): "trials: expected a whole number, got True",
    search("trials:"): "trials: expected a whole number, got None",
    search("minutes: -1"): "minutes: minutes must be above 0.*, got -1",
    search("minutes: 0"): "minutes: minutes must be above 0.*, got 0",
    search("minutes: 20 min"): "minutes: expected a number, got '20 min'",
    search("workers: 99"): r"workers: workers must be in \[1, 64\], got 99",
    search("workers: 0"): r"workers: workers must be in \[1, 64\], got 0",
    search("seed: lucky"): "seed: expected a whole number, got 'lucky'",
    search("planner: 1"): "planner: expected true or false",
    search("sampler: tpee"): "sampler: expected one of grid, random, tpe, nsga2, got 'tpee'",
    search("sampler: [tpe]"): "sampler: expected one of grid, random, tpe, nsga2, got",
    search("steps: dynamic_int8"): "steps: expected a list of steps, got 'dynamic_int8'",
    search("steps: [dynamic_int9]"): r"steps.0: unknown key; did you mean 'dynamic_int8'\?",
    search("values: {prune_chanels.ratio: 0.5}"): r"did you mean 'prune_channels'\?",
    search("values: {prune_channels.ratoi: 0.5}"): r"did you mean 'ratio'\?",
    values("[0.5, 1.5]"): r"values.prune_channels.ratio: cannot be 1.5: .*ratio",
    values("[]"): r"values.prune_channels.ratio: expected a list of values, got \[\]",
    values("{low: 0.1}"): "values.prune_channels.ratio: a range needs high",
    values("{low: 0.1, hgih: 0.5}"): r"hgih: unknown key; did you mean 'high'\?",
    values("{low: 0.5, high: 0.1}"): "expected low below high, got 0.5 and 0.1",
    values("{low: 0.1, high: 2}"): "values.prune_channels.ratio: cannot be 2.0: .*ratio",
    values("{low: 0, high: 0.5, log: true}"): "expected low below high, got 0 and 0.5",
    search("storage: postgresql://h/n"): "artefacts must name a place that all machines reach",
    search("storage: nowhere"): "search: storage must be the address of a database such as",
    search("storage: 5"): "storage: expected an address, got 5",
    search(f"storage: ['postgresql://u:{SECRET}@h/n']"): (
        r"storage: expected an address, got \['postgresql://u:\*\*\*@h/n'\]"
    ),
    search(f"storage: ['postgresql://u:{SECRET}@{'x' * 200}']"): "storage: expected an address",
    search("storage: sqlite:////s.db\n      artefacts: [a]"): "artefacts: expected an address",
    search(f"storage: 'postgresql://u:{SECRET}@tail@h/n'\n      artefacts: /a"): (
        "search: storage: expected one '@' between user and machine; write one in a password as"
    ),
}

IN_GOAL = {
    goal("stop_wen: []"): r"stop_wen: unknown key; did you mean 'stop_when'\?",
    goal("optimize: [latency]"): "optimize.0: unknown figure 'latency'.*did you mean 'latency_p",
    goal("optimize: []"): "goal.optimize: expected at least one figure",
    goal("optimize: 5"): "optimize: expected a list of texts, got 5",
    goal("require: ['latency_p50 <= 2 minutes']"): "require.0: .*has no unit 'minutes'; expected",
    goal("require: ['latency_p50 >= 2 ms']"): "require.0: .*asks for the wrong direction",
    goal("require: ['agreement >= 0.9 better']"): "already compares with the original",
    goal("require: ['size <= -5 % worse']"): "a gain or loss must not be negative",
    goal("stop_when: ['fast enough']"): "stop_when.0: requirement 'fast enough' was not understood",
    goal("confidence: 95"): r"goal.confidence must be in \[0.5, 1\), got 95",
}


@pytest.mark.parametrize("text", IN_SEARCH, ids=lambda text: text[34:90])
def test_a_mistake_in_a_search_is_refused_and_shows_no_password(text: str) -> None:
    with pytest.raises(InvalidDocument, match=IN_SEARCH[text]) as caught:
        model_policy(text, "m/hone.yaml")
    said = str(caught.value)
    assert said.startswith("m/hone.yaml:")
    assert not any(part in said for part in (SECRET, "w0rd", "tail"))


@pytest.mark.parametrize("text", IN_GOAL, ids=lambda text: text[53:100])
def test_a_mistake_in_a_goal_names_its_own_line(text: str) -> None:
    with pytest.raises(InvalidDocument, match=IN_GOAL[text]) as caught:
        model_policy(text, "m/hone.yaml")
    assert str(caught.value).startswith("m/hone.yaml:5: profiles.edge.goal.")


def test_numbers_out_of_bounds_are_told_where_they_stand() -> None:
    text = search("sampler: tpe\n      trials: 40\n      workers: 99")
    with pytest.raises(InvalidDocument, match=r"m/hone.yaml:6: profiles\.edge\.search\.workers: "):
        model_policy(text, "m/hone.yaml")


def test_a_typing_mistake_of_the_block_itself_is_found() -> None:
    for text, near in (("serach: {}", "search"), ("gaol: {}", "goal"), ("recipes: []", "recipe")):
        with pytest.raises(InvalidDocument, match=f"did you mean '{near}'"):
            model_policy(f"profiles:\n  edge:\n    {text}\n", "m/hone.yaml")
