"""`hone.yaml`: what is read, and what an operator is told about mistakes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as some
from pydantic import TypeAdapter

from optimizers.contract.errors import InvalidDocument
from optimizers.contract.goal import FigureName
from optimizers.contract.padding import PaddedInput, PaddingPolicy, TrimmedOutput
from optimizers.contract.profile import HoldVersion, Profile, StoredProfile, Task, model_policy
from optimizers.contract.quantization import DynamicInt8

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


def test_a_processor_second_has_a_price() -> None:
    assert model_policy("price: 0.00002\n", "m/hone.yaml").price == 2e-5
    assert model_policy("price: 3\n", "m/hone.yaml").price == 3.0
    assert model_policy("", "m/hone.yaml").price == 1.0


def test_an_empty_file_means_all_defaults() -> None:
    assert model_policy("", "m/hone.yaml").profiles == {}


def test_labels_name_versions() -> None:
    policy = model_policy("labels: {stable: 1, canary: 2, blue-green_2.1: 12}\n", "m/hone.yaml")
    assert policy.labels == {"stable": 1, "canary": 2, "blue-green_2.1": 12}
    assert model_policy("labels:\n", "m/hone.yaml").labels == {}
    assert model_policy(DESIGNED, "m/hone.yaml").labels == {}


def test_an_alias_may_repeat_what_was_written_before() -> None:
    text = (
        "profiles:\n  one: {recipe: [dynamic_int8], goal: &goal {optimize: size}}\n"
        "  two: {recipe: [tune_session], goal: *goal}\n"
    )
    profiles = model_policy(text, "m/hone.yaml").profiles
    assert profiles["one"].goal == profiles["two"].goal
    assert profiles["two"].goal.optimize == (FigureName.SIZE,)


def test_a_stored_profile_is_read_back_whatever_characters_it_holds() -> None:
    text = profile(
        body='recipe: [{dynamic_int8: {exclude: ["\N{GRINNING FACE}", "\\x7f", "1e-5"]}}]'
    )
    stored = TypeAdapter[Profile](StoredProfile)
    written = model_policy(text, "m/hone.yaml").profiles["fast"]
    assert stored.validate_json(stored.dump_json(written)) == written


PADDED = """\
padding:
  tokens: {axis: 1, edges: [16, 32, 64], mask: attention_mask}
  types: {axis: 1, value: 7, edges: [16, 32, 64]}
  picture: {axis: 2, value: -0.5, edges: [224]}
trim:
  hidden: {axis: 1, like: types}
"""


def test_inputs_may_be_padded_and_outputs_trimmed() -> None:
    padding = model_policy(PADDED, "m/hone.yaml").padding
    assert padding.inputs == {
        "tokens": PaddedInput(axis=1, edges=(16, 32, 64), mask="attention_mask"),
        "types": PaddedInput(axis=1, edges=(16, 32, 64), value=7),
        "picture": PaddedInput(axis=2, edges=(224,), value=-0.5),
    }
    assert padding.trim == {"hidden": TrimmedOutput(axis=1, like="types")}
    short = model_policy(padded("trim: {hidden: 1}"), "m/hone.yaml").padding
    assert short.trim == {"hidden": TrimmedOutput(axis=1, like="tokens")}
    assert not model_policy(DESIGNED, "m/hone.yaml").padding


@pytest.mark.parametrize("text", [PADDED, "", "padding: {x: {axis: 1, value: true, edges: [8]}}"])
def test_a_stored_padding_policy_is_read_back(text: str) -> None:
    stored = TypeAdapter[PaddingPolicy](PaddingPolicy)
    written = model_policy(text, "m/hone.yaml").padding
    assert stored.validate_json(stored.dump_json(written)) == written


def padded(more: str = "", **changes: str) -> str:
    entries = {"axis": "1", "edges": "[16, 32]", **changes}
    body = ", ".join(f"{key}: {value}" for key, value in entries.items() if value)
    return f"padding:\n  tokens: {{{body}}}\n{more}\n"


def profile(name: str = "fast", body: str = "recipe: [dynamic_int8]") -> str:
    return f"profiles:\n  {name}:\n    {body}\n"


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + former] * 10)}]\n"
    for former, name in zip("abcdefgh", "bcdefghi", strict=True)
)

MISTAKES = {
    "pading: {}\n": r"m/hone.yaml:1: pading: unknown key; did you mean 'padding'\?",
    "padding: [tokens]\n": "m/hone.yaml:1: padding: expected a mapping, got list",
    "padding: {tokens: 16}\n": "m/hone.yaml:1: padding.tokens: expected a mapping, got int",
    padded(edge="[16]"): r"m/hone.yaml:2: padding.tokens.edge: .* did you mean 'edges'\?",
    padded(edges=""): "m/hone.yaml:2: padding.tokens: 'edges' is missing; expected",
    padded(axis=""): "padding.tokens: 'axis' is missing; expected",
    padded(axis="0"): r"padding.tokens.axis: .* from 1 .*axis 0 holds the rows\), got 0",
    padded(axis="true"): "padding.tokens.axis: expected a number from 1 .* got True",
    padded(axis="-1"): "padding.tokens.axis: expected a number from 1 .* got -1",
    padded(edges="16"): "padding.tokens.edges: expected a list of 1 to 32 lengths, got 16",
    padded(edges="[]"): r"padding.tokens.edges: expected a list of 1 to 32 lengths, got \[\]",
    padded(edges=str([*range(1, 34)])): "padding.tokens.edges: expected a list of 1 to 32 lengths",
    padded(edges="[16, 16]"): "padding.tokens.edges.1: expected more than 16, got 16",
    padded(edges="[0, 16]"): "padding.tokens.edges.0: expected a length from 1 to .* got 0",
    padded(edges="[16, 16777217]"): "padding.tokens.edges.1: expected a length from 1 to 16777216",
    padded(edges="[1.5]"): "padding.tokens.edges.0: expected a length .* got 1.5",
    padded(value="zero"): "padding.tokens.value: expected a number, got 'zero'",
    padded(value=".nan"): "padding.tokens.value: expected a number, got nan",
    padded(value=".inf"): "padding.tokens.value: expected a number, got inf",
    padded(mask="3"): "padding.tokens.mask: expected the name of an input, got 3",
    padded(mask="tokens"): r"padding.tokens.mask: 'tokens' is filled with 0 .*\(line 2\)",
    padded("  types: {axis: 1, edges: [8], mask: mask}", mask="mask"): (
        "m/hone.yaml:3: padding.types.mask: 'mask' is also the mask of 'tokens'"
    ),
    "padding: {" + ", ".join(f"i{n}: {{axis: 1, edges: [8]}}" for n in range(33)) + "}\n": (
        "padding: expected at most 32 inputs"
    ),
    "trim: {hidden: 1}\n": "m/hone.yaml:1: trim.hidden: no input is padded",
    padded("trim: {hidden: 0}"): "m/hone.yaml:3: trim.hidden: expected a number from 1",
    padded("trim: {hidden: {axis: 1}}"): "trim.hidden: 'like' is missing",
    padded("trim: {hidden: {axis: 1, like: token}}"): (
        r"trim.hidden.like: unknown padded input; did you mean 'tokens'\? Expected one of tokens"
    ),
    padded("trim: {hidden: {axis: 1, lik: tokens}}"): r"trim.hidden.lik: .*did you mean 'like'\?",
    padded("  types: {axis: 1, edges: [8]}\ntrim: {hidden: 1}"): (
        "m/hone.yaml:4: trim.hidden: the padded inputs have lengths of their own; expected "
        r"\{axis: 1, like: INPUT\} with one of tokens, types"
    ),
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
    profile(body="recipe: [{distill: {temperature: .inf}}]"): "expected finite numbers, got inf",
    profile(body="recipe: [{finetune: {training: {learning_rate: .inf}}}]"): (
        "0.finetune.training: expected finite numbers"
    ),
    profile(body="search: {minutes: .inf}"): "search.minutes: expected a number, got inf",
    profile(body="search: {values: {distill.temperature: [1.0, .inf]}}"): "expected finite numbers",
    profile(body="search: {values: {distill.weight: {low: 0, high: .inf}}}"): "got inf",
    profile(body="{recipe: [dynamic_int8], goal: {optimise: [size]}}"): (
        r"did you mean 'optimize'\?"
    ),
    profile(body="{recipe: [dynamic_int8], goal: {optimize: [speed]}}"): "unknown figure 'speed'",
    profile(body="{recipe: [dynamic_int8], goal: {confidence: high}}"): "expected a number",
    profile(body="{recipe: [dynamic_int8], goal: {confidence: 2}}"): r"must be in \[0.5, 1\)",
    "serve: [fast]\n": r"m/hone.yaml:1: serve: expected the name of a profile, got \['fast'\]",
    "serve: {a: 1}\n": r"m/hone.yaml:1: serve: expected the name of a profile, got \{'a': 1\}",
    "serve: 5\n": "m/hone.yaml:1: serve: expected the name of a profile, got 5",
    "serve: yes\n": "serve: expected the name of a profile, got True",
    "task: 5\n": "task: expected one of classification, .*, got 5",
    "task:\n": "task: expected one of classification, .*, got None",
    "task: [other]\n": r"task: expected one of classification, .*, got \['other'\]",
    "\ntask: 2020-13-45\n": (
        "m/hone.yaml:2: task: expected a text, a number, .* got '2020-13-45', which YAML takes "
        "for a timestamp; quote it"
    ),
    "serve: 2020-01-01\n": "got '2020-01-01', which YAML takes for a timestamp; quote it",
    "serve: !!binary aGk=\n": "got 'aGk=', which YAML takes for a binary",
    "serve: !!binary |\n  aGk=\n  aGk=\n": r"got 'aGk=\\naGk=\\n', which YAML takes for a binary",
    "serve: !shell reboot\n": "got 'reboot', which YAML takes for a !shell",
    "serve: !!int many\n": "serve: expected a value of type int, got 'many'",
    "serve: !!int ''\n": "serve: expected a value of type int, got ''",
    "serve: !!float ''\n": "serve: expected a value of type float, got ''",
    "serve: !!bool many\n": "serve: expected a value of type bool, got 'many'",
    "data: !!set {gate}\n": "data: expected a plain list or mapping, got the tag .*:set",
    "profiles: &a\n  x: *a\n": "m/hone.yaml:2: profiles.x: this alias stands inside what it",
    "profiles: &a\n- [*a]\n": "m/hone.yaml:1: profiles.0.0: this alias stands inside what it",
    LAUGHS: "expected at most 50000 values, aliases written out",
    "serve: " + "[" * 40 + "]" * 40: "m/hone.yaml:1: serve.*: expected at most 32 levels",
    "serve: " + "[" * 9999: "m/hone.yaml:1: exceeded maximum nesting depth",
    f"serve: {'9' * 5000}\n": r"m/hone.yaml:1: serve: expected a number of at most 64 digits, got",
    f"serve: 0x{'f' * 5000}\n": "serve: expected a number of at most 64 digits, got '0xff.*f'",
    f"serve: 1{':1' * 5000}\n": "serve: expected a number of at most 64 digits",
    "serve: 9223372036854775808\n": "expected a number of at most 64 bits, got '9223372036854775",
    f"serve: {'a' * 5000}\n": r"serve: there is no profile 'a+\.\.\.a+'",
    f"{'a' * 900}: 1\n": r"m/hone.yaml:1: a+\.\.\.a+: unknown key",
    "? [a]\n: 1\n": "m/hone.yaml:1: expected a text before ':', got a list or a mapping",
    "a: 1\nb: \x00\n": "m/hone.yaml:2: control characters are not allowed",
    "a: 1\nb: \udc80\n": "m/hone.yaml:2: expected UTF-8 text",
    "#" * (1 << 20) + "\n": "m/hone.yaml: expected at most 1048576 bytes, got 1048577",
    'data: {gate: "a\\0b"}\n': "data.gate: expected a path that can name a file, got 'a.x00b'",
    f"data: {{gate: {'a' * 256}}}\n": "data.gate: expected a path that can name a file",
    f"data: {{gate: {'a/' * 600}b}}\n": "data.gate: expected a path that can name a file",
    profile(body="{recipe: [{static_int8: {samples: 1.5}}]}"): "samples: .*, got 1.5",
    profile(body=f"{{recipe: [dynamic_int8], goal: {{require: ['size{' ' * 5000}x']}}}}"): (
        "goal.require.0: expected at most 200 characters"
    ),
    profile(body="{recipe: [dynamic_int8], goal: {require: {a: 1}}}"): "expected a list of texts",
    "labels: [stable]\n": "m/hone.yaml:1: labels: expected a mapping, got list",
    "labels:\n  stable: 0\n": (
        "m/hone.yaml:2: labels.stable: expected the number of a version, 1 or more, got 0"
    ),
    "labels:\n  stable: -1\n": "m/hone.yaml:2: labels.stable: expected the number of a version",
    "labels: {stable: 1.0}\n": "expected the number of a version, 1 or more, got 1.0",
    "labels: {stable: '1'}\n": "expected the number of a version, 1 or more, got '1'",
    "labels: {stable: yes}\n": "expected the number of a version, 1 or more, got True",
    "labels: {stable: 1000000000000000000}\n": "expected the number of a version",
    "labels: {stable: [1]}\n": r"expected the number of a version, 1 or more, got \[1\]",
    "labels: {stable: 1, stable: 2}\n": "labels.stable: this key stands twice",
    "labels:\n  original: 1\n": "m/hone.yaml:2: labels.original: 'original' cannot name a label",
    "labels: {latest: 1}\n": "'latest' cannot name a label",
    "labels: {1: 1}\n": "'1' cannot name a label",
    "labels: {a b: 1}\n": "'a b' cannot name a label",
    "labels: {deadbeef: 1}\n": "'deadbeef' cannot name a label; expected .* not like a hash",
    f"labels: {{{'a' * 65}: 1}}\n": "cannot name a label",
    profile() + "labels: {fast: 1}\n": (
        r"m/hone.yaml:4: labels.fast: 'fast' is also the name of a profile \(line 2\)"
    ),
    "labels: {fast: 1}\n" + profile(): (
        r"m/hone.yaml:1: labels.fast: 'fast' is also the name of a profile \(line 3\)"
    ),
    profile("stable"): "'stable' cannot name a profile",
    profile("latest"): "'latest' cannot name a profile",
    "price: 0\n": "m/hone.yaml:1: price: expected what a processor second costs, above 0 .*, got 0",
    "price: -1.5\n": "price: expected what a processor second costs",
    "price: .nan\n": "price: expected what a processor second costs",
    "price: yes\n": "price: expected what a processor second costs.*got True",
    "price: cheap\n": "price: expected what a processor second costs.*got 'cheap'",
    f"price: 1{'0' * 18}\n": "price: expected what a processor second costs",
}


@pytest.mark.parametrize("text", MISTAKES, ids=lambda text: text.replace("\n", " ")[:60])
def test_a_mistake_names_the_file_the_line_and_what_fits(text: str) -> None:
    with pytest.raises(InvalidDocument, match=MISTAKES[text]) as caught:
        model_policy(text, "m/hone.yaml")
    assert str(caught.value).startswith("m/hone.yaml:")
    assert len(str(caught.value)) < 1000


@given(text=some.text(max_size=200))
def test_any_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    with contextlib.suppress(InvalidDocument):
        model_policy(text, "m/hone.yaml")
