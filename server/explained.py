"""How an account of a search, or of a single job, reads on a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from optimizers.contract.described import recipe_text
from optimizers.contract.study import Explanation, Trial, TrialState, explanation_from_json
from server.pb import management_pb2 as pb
from server.rpc.messages import figure_message
from server.terminal import figure_line, has_ended, job_line

_SHOWN_OPERATORS: Final = 5
_LEAST_SHOWN: Final = 0.005
_OF_A_WINNER: Final = "  "


def account_lines(answer: pb.ExplainResponse) -> Iterator[str]:
    """Everything there is to say, as plain lines.

    Raises:
        InvalidData: What the search wrote cannot be read.
    """
    if answer.explanation:
        explanation = explanation_from_json(answer.explanation, "the explanation")
        yield from _search_lines(explanation, answer)
        return
    if answer.HasField("job"):
        yield f"job {answer.job.id}: {job_line(answer.job)}"
    if answer.HasField("variant"):
        yield from _variant_lines(answer.variant)
    elif answer.HasField("job"):
        ended = has_ended(answer.job)
        yield "no variant is left of it" if ended else "it has nothing to tell yet"


def trial_line(trial: pb.Trial, aims: int = 2) -> str:
    """One trial as one plain line: what it is, how far it came, and its first figures."""
    figures = "; ".join(figure_line(figure) for figure in trial.figures[:aims])
    level = f" at level {trial.level} of {trial.levels}" if trial.level < trial.levels else ""
    found = f": {figures}" if figures else ""
    why = f" ({trial.reason})" if trial.reason else ""
    return f"trial {trial.number} {trial.state}{level}: {trial.recipe}{found}{why}"


def time_left(seconds: float) -> str:
    """A remaining time that people read."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _search_lines(explanation: Explanation, answer: pb.ExplainResponse) -> Iterator[str]:
    goal = explanation.profile.goal
    yield (
        f"{explanation.model} version {explanation.version}, profile {explanation.profile.name}, "
        f"study {explanation.study}"
    )
    if answer.HasField("job"):
        yield f"job {answer.job.id}, submitted {_date(answer.job.submitted_unix_s)}"
    yield f"wanted: {', '.join(goal.optimize)}"
    for title, requirements in (("required", goal.require), ("good enough", goal.stop_when)):
        if requirements:
            yield f"{title}: {'; '.join(one.text for one in requirements)}"
    if explanation.data:
        counts = ", ".join(f"{name} {items}" for name, items in explanation.data.items())
        yield f"data: {counts} items; no item that judges (search, gate) is in another part"
    yield from _evidence_lines(explanation)
    yield from (f"cannot be met: {text}" for text in explanation.unsatisfiable)
    yield _count_line(explanation)
    was_cut = not explanation.ended_because and answer.HasField("job") and has_ended(answer.job)
    yield _end_line(explanation, answer.job if was_cut else None)
    yield ""
    yield from _winner_lines(explanation, answer)
    others = [one for one in explanation.trials if one.number != explanation.winner]
    if others:
        has_lost = explanation.winner is not None and explanation.ended_because
        yield ""
        yield "Why each of the others lost:" if has_lost else "Trials:"
        yield from (_loser_line(one, was_cut=was_cut) for one in others)


def _evidence_lines(explanation: Explanation) -> Iterator[str]:
    evidence = explanation.evidence
    if evidence is not None:
        shares = ", ".join(
            f"{one.operator} {one.share:.0%}"
            for one in evidence.operators[:_SHOWN_OPERATORS]
            if one.share >= _LEAST_SHOWN
        )
        yield f"evidence: one item takes {1e3 * evidence.item_s:.3g} ms; {shares}"
    for proposal in explanation.proposals:
        yield f"proposed: {recipe_text(proposal.recipe)}: {proposal.reason}"


def _count_line(explanation: Explanation) -> str:
    counts = dict.fromkeys(TrialState, 0)
    for trial in explanation.trials:
        counts[trial.state] += 1
    states = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    tried = f"tried {len(explanation.trials)} recipes in {time_left(explanation.seconds)}"
    return f"{tried}: {states}" if states else tried


def _end_line(explanation: Explanation, cut: pb.Job | None) -> str:
    """Why a search has ended, or for how long it goes on; `cut` is the job that it ended with."""
    if cut is not None:
        return f"cut short, as its job was {cut.state}; submitted again, it goes on where it was"
    if explanation.ended_because:
        return f"ended because {explanation.ended_because}"
    left = f" for {time_left(explanation.seconds_left)}" if explanation.seconds_left else ""
    return f"goes on{left}"


def _winner_lines(explanation: Explanation, answer: pb.ExplainResponse) -> Iterator[str]:
    if explanation.winner is None:
        if explanation.ended_because:
            yield "no winner: no recipe that was tried holds the goal"
        else:
            yield "no winner yet"
        if explanation.nearest_miss:
            yield f"nearest miss: {explanation.nearest_miss}"
    else:
        winner = explanation.trial(explanation.winner)
        what = "winner" if explanation.ended_because else "best so far"
        yield f"{what}: trial {winner.number}: {recipe_text(winner.recipe)}"
        yield f"{_OF_A_WINNER}proposed by {winner.origin}"
        yield f"{_OF_A_WINNER}on the search's data:"
        for figure in winner.figures:
            yield f"{_OF_A_WINNER}  {figure_line(figure_message(figure))}"
    if answer.HasField("variant"):
        yield from _variant_lines(answer.variant)
    elif answer.HasField("job") and answer.job.reason:
        yield f"{answer.job.state}: {answer.job.reason}"
    front = [number for number in explanation.front if number != explanation.winner]
    if front:
        yield "also on the front: " + ", ".join(
            f"trial {number} ({recipe_text(explanation.trial(number).recipe)})" for number in front
        )


def _loser_line(trial: Trial, *, was_cut: bool) -> str:
    if was_cut and trial.state is TrialState.RUNNING:
        trial = replace(trial, reason=f"{trial.state} when the search was cut short")
    what = f"  trial {trial.number} ({recipe_text(trial.recipe)})"
    where = f"; measured on another machine: {trial.differs}" if trial.differs else ""
    if trial.reason.startswith(trial.state):
        return f"{what} {trial.reason}{where}"
    why = f": {trial.reason}" if trial.reason else ""
    return f"{what} {trial.state}{why}{where}"


def _variant_lines(variant: pb.Variant) -> Iterator[str]:
    """Verdict, checks, figures and certificate of a variant."""
    verdict = variant.verdict or "never measured"
    reasons = f": {'; '.join(variant.reasons)}" if variant.reasons else ""
    active = ", which answers by default," if variant.active else ""
    yield f"variant {variant.id}{active} is {verdict}{reasons}"
    yield f"  recipe: {variant.recipe}"
    for figure in variant.figures:
        yield f"  {figure_line(figure)}"
    for check in variant.checks:
        passed = {True: "held", False: "broke"}[check.passed] if check.HasField("passed") else "-"
        yield f"  {check.gate}: {passed}: {check.text}"
    if variant.HasField("certificate"):
        yield from _certificate_lines(variant.certificate, variant.certificate_void)


def _certificate_lines(certificate: pb.Certificate, void: str) -> Iterator[str]:
    issued = _date(certificate.issued_unix_s)
    gpus = f", GPUs {', '.join(certificate.gpus)}" if certificate.gpus else ""
    gate = f"use {certificate.gate_use} of gate data {certificate.gate_sha256[:12]}"
    yield (
        f"  certificate of {issued}: {certificate.host}{gpus}, onnxruntime "
        f"{certificate.onnxruntime}, provider {certificate.provider}; all bounds hold together "
        f"with {certificate.confidence:.0%}; {gate if certificate.gate_sha256 else 'no gate data'}"
    )
    if void:
        yield f"  it is not valid here: {void}"


def _date(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_s))
