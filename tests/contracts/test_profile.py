"""`hone.yaml`: what is read, and what an operator is told about mistakes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as some

from optimizers.contract.errors import InvalidDocument
from optimizers.contract.goal import FigureName
from optimizers.contract.profile import HoldVersion, Task, model_policy
from optimizers.contract.steps import DynamicInt8

DESIGNED = """\
task: classification                  # classification | embedding | regression | other
data: {calibration: data/calibration.npz, train: data/train.npz, gate: data/gate.npz}
serve: fast                           # build, prove and promote this profile by itself
profiles:
  fast:
    recipe: [{dynamic_int8: {per_channel: true}}]
    goal:
      optimize: [latency_p50]         # latency_p50 | latency_p99 | ...
      require: ["accuracy <= 1 point worse", "agreement >= 0.97", "memory <= 64 MiB"]
      confidence: 0.95
"""


def test_the_designed_file_is_read() -> None:
    policy = model_policy(DESIGNED, "m/hone.yaml")
    assert policy.task is Task.CLASSIFICATION
    assert policy.data.gate == "data/gate.npz"
    assert policy.serve == "fast"
    assert policy.hold_version is HoldVersion.NEVER
    profile = policy.profiles["fast"]
    assert profile.recipe.steps == (DynamicInt8(per_channel=True),)
    assert profile.goal.optimize == (FigureName.LATENCY_P50,)
    assert [one.text for one in profile.goal.require][2] == "memory <= 64 MiB"


def test_an_empty_file_means_all_defaults() -> None:
    assert model_policy("", "m/hone.yaml").profiles == {}


def profile(name: str = "fast", body: str = "recipe: [dynamic_int8]") -> str:
    return f"profiles:\n  {name}:\n    {body}\n"


MISTAKES = {
    "task: classifier\n": r"m/hone.yaml:1: task: expected one of classification",
    "profile: {}\n": r"m/hone.yaml:1: profile: unknown key; did you mean 'profiles'\?",
    "serve: fast\n": r"m/hone.yaml:1: serve: there is no profile 'fast'",
    "data:\n  gates: a.npz\n": r"m/hone.yaml:2: data.gates: unknown key; did you mean 'gate'\?",
    "data: {gate: /etc/passwd}\n": "expected a path below the model's directory",
    "data: {gate: ../other/gate.npz}\n": "expected a path below the model's directory",
    "data: {gate: 3}\n": "expected the path of an .npz file",
    "hold_version: soon\n": "expected one of never, until_proven",
    "- a\n- b\n": "expected a mapping, got list",
    "task: a: b\n": "m/hone.yaml:1:",
    "task: other\ntask: other\n": "m/hone.yaml:2: task: this key stands twice",
    profile("original"): "cannot name a profile",
    profile("canary"): "cannot name a profile",
    profile("'123'"): "cannot name a profile",
    profile("deadbeefdead"): "cannot name a profile",
    profile(body="goal: {}"): "a profile needs a recipe",
    profile(body="recipe: []"): "expected at least one step",
    profile(body="recipe: dynamic_int8"): "expected a list of steps",
    profile(body="recipe: [dynamic_int9]"): r"did you mean 'dynamic_int8'\?",
    profile(body="recipe: [{dynamic_int8: {per_chanel: 1}}]"): r"did you mean 'per_channel'\?",
    profile(body="recipe: [{static_int8: {percentile: 40}}]"): r"must be in \(50, 100\], got 40",
    profile(body="recipe: [{tune_session: {threads: [0]}}]"): "must each be at least 1",
    profile(body="recipe: [{static_int8: {calibration: guess}}]"): "calibration",
    profile(body="{recipe: [dynamic_int8], goal: {optimise: [size]}}"): (
        r"did you mean 'optimize'\?"
    ),
    profile(body="{recipe: [dynamic_int8], goal: {optimize: [speed]}}"): "unknown figure 'speed'",
    profile(body="{recipe: [dynamic_int8], goal: {confidence: high}}"): "expected a number",
    profile(body="{recipe: [dynamic_int8], goal: {confidence: 2}}"): r"must be in \[0.5, 1\)",
}


@pytest.mark.parametrize("text", MISTAKES, ids=lambda text: text.replace("\n", " ")[:60])
def test_a_mistake_names_the_file_the_line_and_what_fits(text: str) -> None:
    with pytest.raises(InvalidDocument, match=MISTAKES[text]) as caught:
        model_policy(text, "m/hone.yaml")
    assert str(caught.value).startswith("m/hone.yaml:")


@given(text=some.text(max_size=200))
def test_any_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    with contextlib.suppress(InvalidDocument):
        model_policy(text, "m/hone.yaml")
