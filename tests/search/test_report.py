"""A report is one page and one picture, true to the explanation and harmless whatever it says."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
import time
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from optimizers.contract.declaration import Choice, Real
from optimizers.contract.evaluation import Check, Evaluation, Gate, Verdict
from optimizers.contract.evidence import Layer, OperatorShare, Proposal
from optimizers.contract.goal import FigureName, Goal, parse_requirement
from optimizers.contract.job import JobSpec
from optimizers.contract.manifest import StepRecord
from optimizers.contract.profile import Task
from optimizers.contract.quantization import DynamicInt8, StaticInt8
from optimizers.contract.recipe import Recipe
from optimizers.contract.runtime import SessionSpec
from optimizers.contract.search import Search
from optimizers.contract.study import Explanation, read_explanation, write_explanation
from optimizers.report.graphs import summarize
from optimizers.report.headline import progress_text
from optimizers.report.labels import Canvas, place_labels
from optimizers.report.marks import Kind
from optimizers.report.picture import HEIGHT, WIDTH
from optimizers.report.plots import plots
from optimizers.report.rows import trial_table
from optimizers.report.write import write_report
from optimizers.reporting import report_search
from optimizers.search.wording import amount
from tests.support import models
from tests.support.explanations import (
    example_evaluation,
    example_evidence,
    example_explanation,
    relative,
    trial,
    unfinished,
    with_two_aims,
)

VOID = frozenset({"meta", "br", "link", "img", "hr", "input"})


class Page(HTMLParser):
    """A page's elements; an element that is closed in the wrong place is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def report(
    directory: Path, explanation: Explanation, evaluation: Evaluation | None = None
) -> tuple[str, bytes]:
    """Write a report of a linear model before and a smaller one after."""
    winner = explanation.winner
    records: tuple[StepRecord, ...] = ()
    if winner is not None:
        steps = explanation.trial(winner).recipe.steps
        records = tuple(
            StepRecord(step=f"step {index}", modified=True, notes=(f"noted {index} & <b>bold</b>",))
            for index, _ in enumerate(steps)
        )
    write_report(
        directory,
        explanation,
        original=models.linear(directory / "before.onnx", inputs=64, outputs=10),
        variant=models.linear(directory / "after.onnx", inputs=64, outputs=3) if winner else None,
        evaluation=evaluation,
        records=records,
        evidence_after=example_evidence(),
    )
    return (directory / "report.html").read_text(), (directory / "front.png").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    return report(tmp_path_factory.mktemp("whole"), example_explanation(), example_evaluation())


def test_the_page_is_well_formed_and_says_its_language(whole: tuple[str, bytes]) -> None:
    page = Page(whole[0])
    assert whole[0].startswith("<!doctype html>")
    assert ("html", {"lang": "en"}) in page.elements
    names = [found["id"] for _, found in page.elements if found.get("id")]
    assert len(names) == len(set(names))
    named = [found["aria-labelledby"] for _, found in page.elements if "aria-labelledby" in found]
    assert {one for group in named for one in (group or "").split()} <= set(names)


def test_the_page_asks_the_network_for_nothing(whole: tuple[str, bytes]) -> None:
    text = whole[0].replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?:|url\(|@import|\bsrc=|\bhref=|//[a-z]", text)


def test_only_the_pages_own_style_and_script_are_allowed(whole: tuple[str, bytes]) -> None:
    page = Page(whole[0])
    [policy] = [
        found["content"]
        for tag, found in page.elements
        if tag == "meta" and found.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        [content] = re.findall(rf"<{tag}>(.*?)</{tag}>", whole[0], re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not [found for _, found in page.elements if "style" in found or "onclick" in found]


def test_every_table_has_real_headers_and_every_picture_a_text(whole: tuple[str, bytes]) -> None:
    page = Page(whole[0])
    heads = [found for tag, found in page.elements if tag == "th"]
    assert heads
    assert all(found.get("scope") in ("col", "row") for found in heads)
    pictures = [found for tag, found in page.elements if tag == "svg"]
    assert pictures
    assert all(
        found.get("aria-hidden") == "true" or found.get("role") == "img" for found in pictures
    )


def test_every_drawing_is_valid_xml_and_marks_every_trial_that_was_measured(
    whole: tuple[str, bytes],
) -> None:
    drawings = [
        ElementTree.fromstring(found) for found in re.findall(r"<svg.*?</svg>", whole[0], re.DOTALL)
    ]
    [plot] = [one for one in drawings if one.get("role") == "img"]
    titles = ["".join(found.itertext()) for found in plot.iter("{http://www.w3.org/2000/svg}title")]
    both = [
        one
        for one in example_explanation().trials
        if one.figure(FigureName.LATENCY_P50) and one.figure(FigureName.AGREEMENT)
    ]
    for one in both:
        assert any(f"trial {one.number}," in title for title in titles), one.number
    assert any(title.startswith("original") for title in titles)
    assert any(title == "agreement >= 0.97" for title in titles)


def test_the_numbers_of_the_page_are_those_of_the_explanation(whole: tuple[str, bytes]) -> None:
    text = Page(whole[0]).text
    for one in example_explanation().trials:
        for figure in one.figures:
            assert amount(figure.name, figure.value.value) in text
        assert one.reason in text
    for figure in example_evaluation().figures:
        assert amount(figure.name, figure.value.value) in text
        assert figure.method in text
    for items in example_explanation().data.values():
        assert f"{items:,}" in text
    assert "No item of search is in calibration or train, and none of gate in any other" in text


def test_the_page_says_which_trial_was_measured_on_another_kind_of_machine(tmp_path: Path) -> None:
    explanation = example_explanation()
    first, *others = explanation.trials
    other = replace(first, differs="CPU features differ: avx512_vnni")
    text, _ = report(tmp_path, replace(explanation, trials=(other, *others)), None)
    said = "Measured on another machine: CPU features differ: avx512_vnni"
    assert unescape(text).count(said) == 1


def test_the_page_shows_both_graphs(whole: tuple[str, bytes]) -> None:
    text = Page(whole[0]).text
    assert "Stored numbers (parameters) 650 195" in text, "64 x 10 + 10, and 64 x 3 + 3"
    assert "Multiply-accumulates of one item 640 192" in text
    assert "Gemm 1 1" in text


def test_the_page_holds_the_certificate(whole: tuple[str, bytes]) -> None:
    text = Page(whole[0]).text
    assert "Proved by the gate" in text
    for words in ("Example processor", "onnxruntime 1.31.0", "number 2", "ab" * 32, "0.95,"):
        assert words in text
    assert "2026-" in text


def test_the_table_sorts_by_what_was_measured(whole: tuple[str, bytes]) -> None:
    figure = example_explanation().trials[0].figures[0]
    assert f'data-value="{figure.value.value}"' in whole[0]


def test_what_draws_is_loaded_only_when_something_is_written() -> None:
    code = (
        "import sys, optimizers.report.write; "
        "assert not {'jinja2', 'matplotlib', 'onnx'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


HOSTILE = "<script>alert('x')</script>\"&{{ 7 * 7 }}"


def test_what_others_wrote_is_shown_and_never_run(tmp_path: Path) -> None:
    example = example_explanation()
    hostile = replace(
        example,
        model=HOSTILE,
        study=HOSTILE,
        ended_because=HOSTILE,
        evidence=replace(
            example_evidence(),
            operators=(OperatorShare(operator=HOSTILE, share=1.0, nodes=1, weight_bytes=1),),
            layers=(Layer(name=HOSTILE, operator=HOSTILE, weight_shape=(1,), groups=1, share=1.0),),
            provider=HOSTILE,
        ),
        profile=replace(example.profile, name="$\\frac{1}{0}$ 模型"),
        data={HOSTILE: 3},
        proposals=(
            Proposal(recipe=Recipe(steps=(DynamicInt8(exclude=(HOSTILE,)),)), reason=HOSTILE),
        ),
        trials=tuple(
            replace(
                one,
                origin=HOSTILE,
                reason=HOSTILE,
                differs=HOSTILE,
                figures=tuple(replace(figure, condition=HOSTILE) for figure in one.figures),
                recipe=Recipe(steps=(StaticInt8(exclude=(HOSTILE,)),)),
            )
            for one in example.trials
        ),
    )
    refused = example_evaluation(Verdict.REFUSED)
    host = replace(
        refused.certificate.host, processor=HOSTILE, cpu_features=(HOSTILE,), gpus=(HOSTILE,)
    )
    refused = replace(
        refused,
        reasons=(HOSTILE,),
        checks=(Check(gate=Gate.LINT, passed=None, text=HOSTILE),),
        figures=tuple(
            replace(one, condition=HOSTILE, under=HOSTILE, method=HOSTILE)
            for one in refused.figures
        ),
        certificate=replace(refused.certificate, host=host, provider=HOSTILE, gate_sha256=HOSTILE),
    )
    text, _ = report(tmp_path, hostile, refused)
    page = Page(text)
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    assert "<b>" not in text
    assert page.text.count(HOSTILE) >= 3 * len(example.trials)
    assert not any(HOSTILE in name for _, found in page.elements for name in found)
    assert "49" not in unescape(re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)).split()
    for found in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(found)


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (Verdict.REFUSED, "Refused by the gate"),
        (Verdict.AWAITING_MEASUREMENT, "Found, awaiting measurement"),
    ],
)
def test_a_verdict_that_is_not_good_comes_first(
    tmp_path: Path, verdict: Verdict, words: str
) -> None:
    text = Page(report(tmp_path, example_explanation(), example_evaluation(verdict))[0]).text
    assert words in text.split("The recipe of trial")[0]
    assert "wanted 0.97" in text


def test_an_explanation_that_was_stored_gives_the_same_report(tmp_path: Path) -> None:
    write_explanation(tmp_path, example_explanation())
    stored = read_explanation(tmp_path)
    assert stored is not None
    text, picture = report(tmp_path, stored, example_evaluation())
    assert (text, picture) == report(tmp_path, example_explanation(), example_evaluation())


def test_an_unfinished_search_is_reported_with_what_is_left(tmp_path: Path) -> None:
    text = Page(report(tmp_path, unfinished())[0]).text
    assert "No trial holds what is required so far" in text
    assert "the search goes on, 14 min 19 s left" in text
    assert "trial 0 misses 'agreement >= 0.97' by 1.9 %" in text
    assert "nothing is certified" in text


def test_a_search_without_any_trial_is_reported(tmp_path: Path) -> None:
    nothing = replace(
        unfinished(),
        trials=(),
        evidence=None,
        proposals=(),
        data={},
        nearest_miss="",
        ended_because="no recipe can meet the goal",
        unsatisfiable=("'latency_p50 <= 0.01 ms': starting a run alone takes 0.05 ms",),
    )
    text, picture = report(tmp_path, nothing)
    assert "No recipe can meet the goal" in text
    assert "starting a run alone takes 0.05 ms" in text
    assert Image.open(BytesIO(picture)).size == (WIDTH, HEIGHT)


def test_the_picture_has_its_size_and_all_colours_of_its_marks(whole: tuple[str, bytes]) -> None:
    image = Image.open(BytesIO(whole[1]))
    assert image.size == (WIDTH, HEIGHT)
    pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for colour in ("D55E00", "0072B2", "E69F00", "CC79A7", "56B4E9", "009E73"):
        wanted = np.frombuffer(bytes.fromhex(colour), np.uint8)
        assert (pixels == wanted).all(axis=1).sum() > 20, colour


def test_one_aim_is_drawn_against_the_fidelity_that_is_required() -> None:
    [plot] = plots(example_explanation())
    assert plot.title == "agreement against latency_p50"
    assert (plot.x.name, plot.y.name) == ("latency_p50, ms", "agreement, %")
    [winner] = [mark for mark in plot.marks if mark.kind is Kind.WINNER]
    assert winner.at == pytest.approx((plot.x.fraction(0.348), plot.y.fraction(98.4)))
    assert winner.across == pytest.approx(
        tuple(plot.x.fraction(0.348 * factor) for factor in (0.97, 1.03))
    )
    [original] = [mark for mark in plot.marks if mark.kind is Kind.ORIGINAL]
    assert original.at == pytest.approx((plot.x.fraction(1.2), plot.y.fraction(100)))
    [limit] = plot.limits
    assert limit.at == pytest.approx(plot.y.fraction(97))
    assert not limit.is_upright


def test_several_aims_are_drawn_in_pairs_with_the_searchs_own_front() -> None:
    first, second = plots(with_two_aims())
    assert first.title == "size against latency_p50"
    assert second.title == "agreement against latency_p50"
    at = {mark.label: mark.at for mark in first.marks}
    assert first.front[0] == pytest.approx(at["7"])
    assert first.front[-1] == pytest.approx(at["8"])
    assert first.front[1] == pytest.approx((at["8"][0], at["7"][1])), "worse in both than neither"


def test_three_aims_give_three_pairs() -> None:
    example = with_two_aims()
    aims = (FigureName.LATENCY_P50, FigureName.SIZE, FigureName.AGREEMENT)
    goal = replace(example.profile.goal, optimize=aims)
    found = plots(replace(example, profile=replace(example.profile, goal=goal)))
    assert len(found) == 3


def test_without_any_fidelity_trials_are_drawn_in_their_order() -> None:
    example = example_explanation()
    goal = Goal(optimize=(FigureName.SIZE,))
    bare = replace(
        example,
        profile=replace(example.profile, goal=goal),
        trials=tuple(
            replace(one, figures=tuple(f for f in one.figures if f.name is FigureName.SIZE))
            for one in example.trials
        ),
    )
    [plot] = plots(bare)
    assert plot.title == "size against the order of trials"
    assert [limit.text for limit in plot.limits] == ["the original"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("latency_p50 <= 0.6 ms", 0.6),
        ("latency_p50 >= 0.2 ms better", 1.0),
        ("latency_p50 >= 50 % better", 0.6),
        ("latency_p50 <= 0.1 ms worse", 1.3),
        ("latency_p50 <= 10 % worse", 1.32),
    ],
)
def test_a_limit_lies_where_its_sentence_says(text: str, place: float) -> None:
    example = example_explanation()
    goal = replace(
        example.profile.goal,
        require=(parse_requirement(text), parse_requirement("agreement >= 0.97")),
    )
    [plot] = plots(replace(example, profile=replace(example.profile, goal=goal)))
    [at] = [limit.at for limit in plot.limits if limit.is_upright]
    assert at == pytest.approx(plot.x.fraction(place))


def test_an_outlier_is_drawn_at_the_edge_and_told() -> None:
    example = example_explanation()
    many = tuple(
        trial(number, (), latency=0.3 + number / 100, size=0.2, agrees=0.97 + number / 2000)
        for number in range(12)
    )
    far = trial(12, (), latency=60.0, size=0.2, agrees=0.98)
    [plot] = plots(replace(example, trials=(*many, far)))
    [mark] = [one for one in plot.marks if one.label == "12"]
    assert mark.at[0] == 1.0
    assert any("further out: 1." in note for note in plot.notes)
    assert plot.x.high < 2


def test_labels_of_forty_trials_cover_neither_each_other_nor_a_mark() -> None:
    random = np.random.default_rng(0)
    points = [(float(x), float(y)) for x, y in random.random((40, 2)) ** 2]
    canvas = Canvas(width=340, height=236, character=6.3, line=12, radius=4.5)
    labels = place_labels([(str(index), at) for index, at in enumerate(points)], points, canvas)
    assert len(labels) >= 20
    boxes = [
        (label.at[0] * 340, label.at[1] * 236, len(label.text) * 6.3, 12.0) for label in labels
    ]
    marks = [(x * 340, y * 236, 9.0, 9.0) for x, y in points]
    for index, one in enumerate(boxes):
        for other in (*boxes[:index], *marks):
            apart = [abs(one[axis] - other[axis]) for axis in (0, 1)]
            sizes = [(one[axis] + other[axis]) / 2 for axis in (2, 3)]
            assert apart[0] >= sizes[0] - 1e-9 or apart[1] >= sizes[1] - 1e-9


def test_products_that_are_not_counted_are_named(tmp_path: Path) -> None:
    floating = summarize(models.linear(tmp_path / "float.onnx"))
    assert (floating.macs, floating.uncounted) == (12, {})
    integer = models.save(
        tmp_path / "integer.onnx",
        [
            helper.make_node("MatMulInteger", ["x", "weight"], ["a"]),
            helper.make_node("MatMulInteger", ["a8", "weight2"], ["y"]),
            helper.make_node("Cast", ["a"], ["a8"], to=TensorProto.UINT8),
        ],
        [("x", TensorProto.UINT8, ["batch", 4])],
        [("y", TensorProto.INT32, ["batch", 3])],
        {"weight": np.ones((4, 4), np.uint8), "weight2": np.ones((4, 3), np.uint8)},
    )
    found = summarize(integer)
    assert (found.macs, found.uncounted) == (0, {"MatMulInteger": 2})
    assert found.operators == {"MatMulInteger": 2, "Cast": 1}
    assert found.numbers == 28


def test_a_model_with_weights_in_a_file_of_their_own_is_looked_at_without_them(
    tmp_path: Path,
) -> None:
    whole = models.linear(tmp_path / "whole.onnx", inputs=64, outputs=10)
    apart = tmp_path / "apart" / "model.onnx"
    apart.parent.mkdir()
    onnx.save(
        onnx.load(str(whole)),
        str(apart),
        save_as_external_data=True,
        location="weights",
        size_threshold=0,
    )
    found = summarize(apart)
    assert (found.numbers, found.macs) == (650, 640)
    weights = apart.with_name("weights").stat().st_size
    assert found.size_bytes == apart.stat().st_size + weights


def test_thousands_of_trials_are_drawn_in_a_few_seconds(tmp_path: Path) -> None:
    """Ten thousand are the most that a search may try; the planted fault takes a minute."""
    random = np.random.default_rng(0)
    many = tuple(
        trial(number, (), latency=latency, size=0.2, agrees=agrees)
        for number, (latency, agrees) in enumerate(random.uniform(0.3, 0.99, (2_000, 2)))
    )
    explanation = replace(example_explanation(), trials=many, winner=0, front=(0,))
    began = time.process_time()
    text, picture = report(tmp_path, explanation)
    assert time.process_time() - began < 20
    assert Image.open(BytesIO(picture)).size == (WIDTH, HEIGHT)
    assert text.count('class="mark"') > 2_000


def test_one_trial_is_counted_as_one() -> None:
    one = replace(example_explanation(), trials=example_explanation().trials[:1])
    assert progress_text(one).startswith("1 trial in 12 min 22 s")


def test_what_the_planner_went_by_is_told_with_its_numbers(whole: tuple[str, bytes]) -> None:
    text = Page(whole[0]).text
    for words in (
        "1.2 ms alone, 0.9 ms in a run of 8; 4 % of a run is outside of nodes",
        "4.34 MiB, mostly numbers of 32 bits",
        "1.14 MiB an item",
        "1 Conv of 64 to 64 channels",
        "3 could be left out",
    ):
        assert words in text


def test_what_the_search_was_kept_to_is_told(tmp_path: Path) -> None:
    example = example_explanation()
    search = Search(
        steps=("prune_channels", "distill"),
        values={
            "prune_channels.ratio": Choice((0.25, 0.5)),
            "distill.training.learning_rate": Real(1e-4, 1e-2, log=True),
        },
    )
    profile = replace(example.profile, search=search)
    text = Page(report(tmp_path, replace(example, profile=profile))[0]).text
    assert "prune_channels, distill; prune_channels.ratio 0.25 or 0.5" in text
    assert "distill.training.learning_rate 0.0001 to 0.01" in text


def runs_only_seven_at_once(path: Path) -> Path:
    return models.save(
        path,
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [("x", TensorProto.FLOAT, ["batch", 3])],
        [("y", TensorProto.FLOAT, ["rows", 7])],
        {"shape": np.array([-1, 7], np.int64)},
    )


def test_a_winner_that_cannot_be_looked_at_costs_the_report_nothing_else(tmp_path: Path) -> None:
    example = example_explanation()
    write_explanation(tmp_path, example)
    original = models.linear(tmp_path / "before.onnx")
    spec = JobSpec(
        id="job",
        model="net",
        version=1,
        profile=example.profile,
        task=Task.CLASSIFICATION,
        original_file=original,
        original_name="model.onnx",
        original_sha256="",
        original_session=SessionSpec(),
        data={},
        data_sha256={},
        cpus=1,
    )
    report_search(
        tmp_path,
        spec,
        variant=runs_only_seven_at_once(tmp_path / "after.onnx"),
        session=SessionSpec(),
        evaluation=example_evaluation(),
    )
    assert "Proved by the gate" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "front.png").exists()


def test_circumstances_that_differ_from_trial_to_trial_share_a_column(tmp_path: Path) -> None:
    example = example_explanation()
    rate = relative(FigureName.THROUGHPUT, 1.2)
    conditions = ("8 rows a run", "1 rows a run, the original's 8")
    trials = tuple(
        replace(one, figures=(*one.figures, replace(rate, condition=condition)))
        for one, condition in zip(example.trials[:2], conditions, strict=True)
    )
    columns, rows = trial_table(replace(example, trials=(*trials, *example.trials[2:])))
    assert columns == ("latency_p50", "agreement", "size", "throughput")
    assert [row.cells[3].condition for row in rows[:3]] == [*conditions, ""]
    alone, _ = trial_table(replace(example, trials=trials[:1]))
    assert alone[-1] == "throughput, 8 rows a run"


def test_two_figures_of_one_name_have_two_columns() -> None:
    example = example_explanation()
    held = relative(FigureName.MEMORY, 0.8)
    figures = (held, replace(held, condition="at the peak"))
    columns, rows = trial_table(
        replace(example, trials=(replace(example.trials[0], figures=figures),))
    )
    assert columns == ("memory", "memory, at the peak")
    assert [cell.condition for cell in rows[0].cells] == ["", ""]
