"""Searches as operators see them: submitted, watched, explained later, gone on with."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from optimizers.contract.errors import InvalidData
from optimizers.contract.job import read_spec
from optimizers.contract.profile import profile_document
from optimizers.contract.study import EXPLANATION_FILE, explanation_from_json, trials_since
from server.client import CallFailed, Client
from server.errors import FailedPrecondition
from server.explained import account_lines
from server.job_preparation import require_optimisers
from server.live import show_job
from server.pb import management_pb2 as management
from tests.support import models
from tests.support.calls import ended, events, jobs, refusal, variants
from tests.support.data import write_data
from tests.support.searching import LOST, MISS, PAGE, PICTURE, SIZES
from tests.support.searching_server import COMMAND
from tests.support.servers import Server, hone, running

POLICY = """\
task: classification
data: {calibration: data/calibration.npz, search: data/train.npz, gate: data/gate.npz}
profiles:
  edge: {search: {trials: 2}, goal: {require: ["agreement >= 0.97"]}}
  barren: {search: {trials: 2}, goal: {require: ["agreement >= 0.99"]}}
  fast: {recipe: [{dynamic_int8: {}}], goal: {optimize: [size]}}
"""


def repository(directory: Path, policy: str = POLICY) -> Path:
    original = models.perceptron(directory / "net/1/model.onnx", sizes=SIZES)
    write_data(directory / "net/data", original, gate_items=8, calibration_items=8, train_items=8)
    (directory / "net/hone.yaml").write_text(policy)
    return directory


def serving(tmp_path: Path, policy: str = POLICY) -> AbstractContextManager[Server]:
    return running(repository(tmp_path / "models", policy), tmp_path / "state", under=COMMAND)


async def submit(server: Server, profile: str, *, resume: bool = False) -> management.Job:
    request = management.SubmitJobRequest(model="net", profile=profile, resume=resume)
    async with Client(server.admin) as client:
        answer = await client.call("SubmitJob", request, management.SubmitJobResponse)
    return answer.job


async def call(server: Server, method: str, request: Any, response: Any) -> Any:
    async with Client(server.admin) as client:
        return await client.call(method, request, response)


async def explained(server: Server, **what: Any) -> list[str]:
    """What `hone explain` prints."""
    request = management.ExplainRequest(**what)
    return list(account_lines(await call(server, "Explain", request, management.ExplainResponse)))


async def trials_told(server: Server, job: str, done: int) -> None:
    """Wait until so many trials of a search have ended and the next one was told of."""
    async with asyncio.timeout(30), Client(server.admin) as client:
        async for now in client.watch_job(job):
            if now.search.trials_done == done < len(now.search.newest):
                return


def go(tmp_path: Path) -> None:
    (tmp_path / "models/net/go").touch()


async def test_a_search_is_watched_trial_by_trial(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        job = await submit(server, "edge")
        spec = read_spec(tmp_path / "state/jobs" / job.id)
        assert (spec.studies, spec.resume) == ((tmp_path / "state/studies").absolute(), False)
        seen = []
        async with Client(server.admin) as client:
            async for now in client.watch_job(job.id):
                seen.append(now.search)
                running_now = [one.number for one in now.search.newest if one.state == "running"]
                if now.search.trials_done == 1 and running_now == [1]:
                    go(tmp_path)
        between = next(one for one in seen if one.trials_done == 1 and len(one.newest) == 2)
        assert between.trials_total == 2
        assert 80 < between.seconds_left <= 100
        abandoned, second = between.newest
        assert abandoned.recipe == "prune_channels (ratio 0.25)"
        assert (abandoned.state, abandoned.level, abandoned.levels) == ("abandoned", 1, 3)
        assert (abandoned.reason, abandoned.seconds) == (LOST, 1.5)
        assert abandoned.figures[0].ratio.upper == pytest.approx(0.91)
        assert (second.state, second.origin) == ("running", "MatMul is 90 % of the time")
        assert not between.HasField("winner")
        last = seen[-1]
        assert (last.trials_done, last.seconds_left, last.winner) == (2, 0, 1)
        assert [one.number for one in last.front] == [1]
        assert last.ended_because == "its 2 trials are spent"
        listed = await jobs(server.admin)
        assert not listed[0].HasField("search")


async def test_the_command_tells_trials_the_winner_and_why_others_lost_and_does_so_again_later(
    tmp_path: Path,
) -> None:
    with serving(tmp_path) as server:
        go(tmp_path)
        done = hone("optimize", "net", "--profile", "edge", "--wait", admin=server.admin)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert "2 of 2 trials; front so far: trial 1 (latency_p50 0.5 ms (x0.5))" in lines
        assert any(one.startswith("trial 1 complete: dynamic_int8: latency_p50") for one in lines)
        assert "winner: trial 1: dynamic_int8" in lines
        assert f"  trial 0 (prune_channels (ratio 0.25)) abandoned: {LOST}" in lines
        assert any(one.startswith("  certificate of 2") for one in lines)
        told = hone("explain", "net", admin=server.admin).stdout.splitlines()
        assert told == lines[lines.index(told[0]) :]
        assert told[0].startswith("net version 1, profile edge, study ")
        raw = hone("explain", "net", "--json", admin=server.admin).stdout
        assert explanation_from_json(raw, "what was printed").winner == 1


async def test_what_a_search_wrote_outlives_its_job_and_goes_with_its_variant(
    tmp_path: Path,
) -> None:
    with serving(tmp_path) as server:
        go(tmp_path)
        done = await ended(server.admin, (await submit(server, "edge")).id)
        told = await explained(server, model="net")
        assert told[1].startswith(f"job {done.id}, submitted 2")
        del told[1]
        request = management.RemoveJobRequest(id=done.id)
        await call(server, "RemoveJob", request, management.RemoveJobResponse)
        for what in ("", done.variant, "edge"):
            assert await explained(server, model="net", variant=what) == told
        page, picture = tmp_path / "page.html", tmp_path / "front.png"
        files = ("-o", str(page), "--png", str(picture))
        written = hone("report", "net", *files, admin=server.admin)
        assert written.returncode == 0, written.stderr
        assert page.read_text() == PAGE
        assert picture.read_bytes() == PICTURE
        for place, why in ((tmp_path, "Is a directory"), (tmp_path / "no/page", "No such file")):
            unwritten = hone("report", "net", "-o", str(place), admin=server.admin)
            assert unwritten.returncode == 2
            assert f"{place} cannot be written: {why}" in unwritten.stderr
        kept = tmp_path / "state/explanations/net/1" / done.variant
        assert (kept / EXPLANATION_FILE).exists()
        remove = management.RemoveVariantRequest(model="net", variant=done.variant)
        await call(server, "RemoveVariant", remove, management.RemoveVariantResponse)
        assert not kept.exists()
        gone = management.ExplainRequest(model="net", variant=done.variant)
        code, text = await refusal(server.admin, gone, "Explain")
        assert (code, "has no variant" in text) == ("NOT_FOUND", True)


async def test_a_search_without_a_winner_tells_what_it_missed(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        go(tmp_path)
        done = hone("optimize", "net", "--profile", "barren", "--wait", admin=server.admin)
        assert done.returncode == 3
        assert f"nearest miss: {MISS}" in done.stdout
        assert f"refused: no recipe holds the goal: {MISS}" in done.stdout
        [job] = await jobs(server.admin)
        report = tmp_path / "report.html"
        written = hone(*("report", "net", "--job", job.id, "-o", str(report)), admin=server.admin)
        assert written.returncode == 0, written.stderr
        assert report.read_text() == PAGE


async def test_a_single_job_is_explained_by_its_verdict_and_has_no_report(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        nothing = management.ExplainRequest(model="net")
        code, text = await refusal(server.admin, nothing, "Explain")
        assert (code, "nothing was built of 'net'" in text) == ("FAILED_PRECONDITION", True)
        job = await submit(server, "fast")
        done = await ended(server.admin, job.id)
        told = await explained(server, model="net")
        assert told[0].startswith(f"job {job.id}: net/fast: succeeded")
        assert told[1] == f"variant {done.variant} is proved"
        refused = hone("report", "net", "-o", str(tmp_path / "r.html"), admin=server.admin)
        assert refused.returncode == 1
        assert "there is a report of searches only" in refused.stderr
        wrong: tuple[tuple[dict[str, Any], str, str], ...] = (
            ({"model": "nothere"}, "NOT_FOUND", "unknown model: 'nothere'"),
            ({"model": "net", "variant": "0123456789ab"}, "NOT_FOUND", "no variant '0123456789ab'"),
            ({"model": "net", "variant": "original"}, "INVALID_ARGUMENT", "nothing to explain"),
            ({"job": "0123456789ab"}, "NOT_FOUND", "there is no job '0123456789ab'"),
            ({"job": job.id, "variant": "fast"}, "INVALID_ARGUMENT", "not both"),
            ({"job": job.id, "model": "other"}, "INVALID_ARGUMENT", "is about model net, not"),
            ({"job": job.id, "version": 2}, "INVALID_ARGUMENT", "is about version 1, not 2"),
            ({"job": "a" * 100_000}, "NOT_FOUND", "there is no job"),
            ({"job": "../models"}, "NOT_FOUND", "there is no job '../models'"),
            ({"model": "../models/net"}, "NOT_FOUND", "unknown model: '../models/net'"),
            ({"model": "net", "variant": "../../net"}, "NOT_FOUND", "no variant '../../net'"),
        )
        for what, code, part in wrong:
            request = management.ExplainRequest(**what)
            found, text = await refusal(server.admin, request, "Explain")
            assert (found, part in text) == (code, True), text


async def test_a_search_that_was_cut_short_says_so_and_goes_on_with_its_own_budget(
    tmp_path: Path,
) -> None:
    with serving(tmp_path) as server:
        job = await submit(server, "edge")
        await trials_told(server, job.id, 1)
        told = await explained(server, model="net")
        assert "goes on for 1 min 40 s" in told
        assert "no winner yet" in told
        request = management.CancelJobRequest(id=job.id)
        await call(server, "CancelJob", request, management.Job)
        assert (await ended(server.admin, job.id)).search.seconds_left == 0
        again = "submitted again, it goes on where it was"
        told = await explained(server, job=job.id)
        assert f"cut short, as its job was cancelled; {again}" in told
        assert not any("goes on for" in line for line in told)
        refused = hone("report", "net", "-o", str(tmp_path / "page.html"), admin=server.admin)
        assert f"job {job.id} has ended as cancelled and left no report.html" in refused.stderr
        # What is left of its budget comes first; another one is for what has come to its end.
        assert (await submit(server, "edge", resume=True)).id == job.id
        assert not read_spec(tmp_path / "state/jobs" / job.id).resume
        await trials_told(server, job.id, 1)
        server.process.kill()
    with serving(tmp_path) as server:
        [found] = await jobs(server.admin)
        assert (found.id, found.state) == (job.id, "interrupted")
        assert "submit it again: its search goes on where it was" in found.reason
        assert f"cut short, as its job was interrupted; {again}" in await explained(
            server, model="net"
        )
        go(tmp_path)
        assert (await submit(server, "edge")).id == job.id
        assert (await ended(server.admin, job.id)).state == "succeeded"


async def test_only_a_search_that_was_begun_is_resumed(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        for profile, code, part in (
            ("edge", "FAILED_PRECONDITION", "there is no search of net for profile 'edge' that"),
            ("fast", "INVALID_ARGUMENT", "profile 'fast' has a recipe; only a search"),
        ):
            early = management.SubmitJobRequest(model="net", profile=profile, resume=True)
            found, text = await refusal(server.admin, early, "SubmitJob")
            assert (found, part in text) == (code, True), text
        job = await submit(server, "edge")
        assert (await submit(server, "edge", resume=True)).id == job.id
        assert not read_spec(tmp_path / "state/jobs" / job.id).resume
        await call(server, "CancelJob", management.CancelJobRequest(id=job.id), management.Job)
        # What was cut short goes on without a word, what has ended only when it is asked for.
        go(tmp_path)
        await submit(server, "edge")
        assert (await ended(server.admin, job.id)).state == "succeeded"
        first = read_spec(tmp_path / "state/jobs" / job.id)
        assert (await submit(server, "edge")).state == "succeeded"
        again = hone("optimize", "net", "--profile", "edge", "--resume", admin=server.admin)
        assert f"job {job.id} submitted" in again.stdout, again.stderr
        await ended(server.admin, job.id)
        spec = read_spec(tmp_path / "state/jobs" / job.id)
        assert (first.resume, spec.resume) == (False, True)
        kinds = [event.kind for event in await events(server.admin)]
        assert kinds.count("job_submitted") == 3


async def test_a_search_is_resumed_with_another_number_of_trials(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        go(tmp_path)
        first = await ended(server.admin, (await submit(server, "edge")).id)
        for more, code in (("trials: 5", ""), ("trials: 5, steps: [fp16]", "FAILED_PRECONDITION")):
            text = f"{{search: {{{more}}}, goal: {{require: ['agreement >= 0.97']}}}}"
            request = management.SubmitJobRequest(
                model="net", profile="edge", profile_text=text, resume=True
            )
            if code:
                assert (await refusal(server.admin, request, "SubmitJob"))[0] == code
                continue
            answer = await call(server, "SubmitJob", request, management.SubmitJobResponse)
            assert answer.job.id != first.id
            assert read_spec(tmp_path / "state/jobs" / answer.job.id).resume
            assert (await ended(server.admin, answer.job.id)).state == "succeeded"


async def test_a_password_in_hone_yaml_stands_in_no_answer_no_log_and_no_file_that_others_may_read(
    tmp_path: Path,
) -> None:
    secret = "s3cr3t-w0rd"
    address = f"postgresql://hone:{secret}@nowhere.invalid/hone"
    shared = f"storage: '{address}', artefacts: '{tmp_path}/shared'"
    policy = POLICY.replace(
        "edge: {search: {trials: 2}", f"edge: {{search: {{trials: 2, {shared}}}"
    )
    folder = repository(tmp_path / "models", policy)
    models.perceptron(folder / "wrong/1/model.onnx", sizes=SIZES)
    (folder / "wrong/hone.yaml").write_text(
        f"profiles: {{edge: {{search: {{storage: ['{address}']}}}}}}\n"
    )
    flags = ("--log-level", "debug")
    with running(folder, tmp_path / "state", *flags, under=COMMAND) as server:
        job = await submit(server, "edge")
        told: list[object] = []
        async with Client(server.admin) as client:
            async for now in client.watch_job(job.id):
                told.append(now)
                go(tmp_path)
            of = management.ExplainRequest(model="net")
            told.append(await client.report(of))
        assert now.state == "succeeded"
        asked: tuple[tuple[str, Any, Any], ...] = (
            ("ListModels", management.ListModelsRequest(), management.ListModelsResponse),
            ("ListJobs", management.ListJobsRequest(), management.ListJobsResponse),
            ("ListEvents", management.ListEventsRequest(), management.ListEventsResponse),
            ("Explain", of, management.ExplainResponse),
        )
        for method, request, response in asked:
            told.append(await call(server, method, request, response))
        told.append(await variants(server.admin, "net"))
        wrong = management.SubmitJobRequest(
            model="net", profile="p", profile_text=f"search: {{storage: [{address}]}}"
        )
        told.append(await refusal(server.admin, wrong, "SubmitJob"))
        told += [hone("explain", "net", "--json", admin=server.admin), server.log]
        assert "nowhere.invalid" in str(told)
        assert secret not in str(told)
    holders = [
        file
        for file in (tmp_path / "state").rglob("*")
        if file.is_file() and secret.encode() in file.read_bytes()
    ]
    assert [file.name for file in holders] == ["spec.json"]
    assert stat.S_IMODE(holders[0].stat().st_mode) == 0o600


async def test_a_search_needs_data_of_its_own(tmp_path: Path) -> None:
    with serving(tmp_path, POLICY.replace("search: data/train.npz, ", "")) as server:
        request = management.SubmitJobRequest(model="net", profile="edge")
        code, text = await refusal(server.admin, request, "SubmitJob")
        assert code == "FAILED_PRECONDITION"
        assert "net/hone.yaml: data.search is missing: profile 'edge' searches" in text


async def test_a_terminal_shows_the_newest_trials_the_front_and_the_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    with serving(tmp_path) as server:
        job = await submit(server, "edge")
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=True, width=160, height=40)
        async with Client(server.admin) as client:
            showing = asyncio.create_task(show_job(console, client, job.id, quiet=False))
            async with asyncio.timeout(30):
                while "1 of 2 trials, 1 min" not in screen.getvalue():
                    await asyncio.sleep(0.05)
            assert "newest trials" in screen.getvalue()
            assert "front so far" not in screen.getvalue()
            go(tmp_path)
            assert (await showing).state == "succeeded"
        with pytest.raises(CallFailed):
            async with Client(server.admin) as client:
                await show_job(console, client, "0" * 12, quiet=True)


@pytest.mark.parametrize("width", [5, 20, 60])
async def test_a_narrow_terminal_shows_what_it_has_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width, height=8)
    with serving(tmp_path) as server:
        go(tmp_path)
        job = await submit(server, "edge")
        async with Client(server.admin) as client:
            done = await show_job(console, client, job.id, quiet=False)
    assert done.state == "succeeded"
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert max(map(len, re.split(r"[\r\n]+", plain))) <= width


async def test_a_terminal_that_can_do_nothing_gets_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    screen = io.StringIO()
    with serving(tmp_path) as server:
        go(tmp_path)
        job = await submit(server, "edge")
        console = Console(file=screen, force_terminal=True, width=80)
        async with Client(server.admin) as client:
            await show_job(console, client, job.id, quiet=False)
    assert "\x1b" not in screen.getvalue()
    assert "front so far: trial 1" in screen.getvalue()


@contextmanager
def followed(server: Server) -> Iterator[subprocess.Popen[str]]:
    """`hone optimize --wait`, once it has told of the first trial and of the time left."""
    command = [sys.executable, "-m", "server", "optimize", "net", "--profile", "edge", "--wait"]
    process = subprocess.Popen(
        [*command, "--admin", server.admin],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    with process:
        try:
            assert process.stdout is not None
            while not re.match("1 of 2 trials, .* s left$", process.stdout.readline()):
                assert process.poll() is None
            yield process
        finally:
            process.kill()


async def test_a_job_goes_on_when_nobody_looks_any_more_and_that_is_said(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        with followed(server) as waiting:
            waiting.send_signal(signal.SIGINT)
            _, told = waiting.communicate(timeout=30)
            assert waiting.returncode == 130
        [job] = await jobs(server.admin)
        goes_on = (
            f"job {job.id} goes on: the same command shows it again, `hone jobs cancel {job.id}"
        )
        assert told.startswith(goes_on)
        assert told.count("\n") == 1
        with followed(server) as waiting:
            assert waiting.stdout is not None
            assert waiting.stderr is not None
            waiting.stdout.close()
            go(tmp_path)
            assert waiting.stderr.read().startswith(goes_on)
            assert waiting.wait(30) == 1
        assert (await ended(server.admin, job.id)).state == "succeeded"


async def test_who_waits_for_a_job_is_told_that_it_was_cancelled_or_the_server_went_away(
    tmp_path: Path,
) -> None:
    with serving(tmp_path) as server:
        with followed(server) as waiting:
            [job] = await jobs(server.admin)
            await call(server, "CancelJob", management.CancelJobRequest(id=job.id), management.Job)
            told, _ = waiting.communicate(timeout=30)
            assert waiting.returncode == 3
            assert "net/edge: cancelled 100% cancelled" in told
            assert "cut short, as its job was cancelled" in told
        with followed(server) as waiting:
            server.process.kill()
            _, told = waiting.communicate(timeout=30)
            assert waiting.returncode == 1
            assert told.startswith("hone: ")
            assert f"job {job.id} was cut short, and the same command goes on with it" in told
            assert told.count("\n") == 1


def test_trials_are_read_from_where_reading_stopped_and_only_whole_lines(tmp_path: Path) -> None:
    line = (
        '{"number": 3, "recipe": ["dynamic_int8"], "origin": "tpe", "state": "running", '
        '"level": 1, "levels": 1}\n'
    )
    file = tmp_path / "trials.jsonl"
    assert trials_since(tmp_path) == ((), 0)
    file.write_text(line + "no trial\n" + line[:20])
    [trial], offset = trials_since(tmp_path)
    assert (trial.number, offset) == (3, len(line + "no trial\n"))
    assert trials_since(tmp_path, offset) == ((), offset)
    file.write_text(line + "no trial\n" + line)
    assert [one.number for one in trials_since(tmp_path, offset)[0]] == [3]
    with pytest.raises(InvalidData, match="what came cannot be read"):
        explanation_from_json('{"study": 1}', "what came")


def test_what_only_searches_need_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    require_optimisers()
    with pytest.raises(FailedPrecondition, match=r"not installed here \(optuna missing\)"):
        require_optimisers(searches=True)


def test_a_profile_file_may_search() -> None:
    profile = profile_document("search: {trials: 3}\n", "wish.yaml", "wish")
    assert profile.search is not None
