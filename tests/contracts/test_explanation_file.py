"""`explanation.json` is read by others: its keys stay, and an older file still loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from optimizers.contract.study import (
    EXPLANATION_FILE,
    explanation_from_json,
    read_explanation,
    write_explanation,
)
from tests.support.explanations import example_explanation

KEYS = {
    *("study", "model", "version", "profile", "evidence", "proposals", "data", "trials", "front"),
    *("winner", "nearest_miss", "ended_because", "seconds", "seconds_left", "unsatisfiable"),
}
TRIAL_KEYS = {
    *("number", "recipe", "origin", "state", "level", "levels", "figures", "missing"),
    *("violation", "reason", "seconds", "worker", "differs", "started_unix_s"),
}
FIGURE_KEYS = {
    *("name", "unit", "samples", "value", "original", "difference", "ratio", "method"),
    *("condition", "under", "of_items"),
}
EVIDENCE_KEYS = {
    *("operators", "layers", "weight_bytes", "embedding_bytes", "activation_bytes", "item_s"),
    *("batch_item_s", "batch", "outside_share", "attention_heads", "residual_blocks"),
    *("has_batch_norm", "task", "host", "provider", "data", "has_labels", "weight_bits"),
}


def stored(directory: Path) -> dict[str, Any]:
    write_explanation(directory, example_explanation())
    found: dict[str, Any] = json.loads(
        (directory / EXPLANATION_FILE).read_text(), parse_constant=_not_a_number
    )
    return found


def _not_a_number(text: str) -> None:
    raise AssertionError(f"{text} is no JSON")


def test_its_keys_are_these(tmp_path: Path) -> None:
    found = stored(tmp_path)

    assert found.keys() == KEYS
    assert found["evidence"].keys() == EVIDENCE_KEYS
    assert all(trial.keys() == TRIAL_KEYS for trial in found["trials"])
    figures = [figure for trial in found["trials"] for figure in trial["figures"]]
    assert all(figure.keys() == FIGURE_KEYS for figure in figures)


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    stored(tmp_path)

    assert read_explanation(tmp_path) == example_explanation()


def test_one_that_was_written_before_some_keys_were_there_still_loads(tmp_path: Path) -> None:
    older = stored(tmp_path)
    del older["evidence"]["weight_bits"]
    for trial in older["trials"]:
        del trial["missing"]

    assert explanation_from_json(json.dumps(older), "an older one") == example_explanation()
