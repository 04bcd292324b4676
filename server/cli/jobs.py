"""Commands on jobs: submitted, followed, listed, ended."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from optimizers.contract.errors import HoneError
from server.cli.exchange import call, console, print_json
from server.cli.options import DEFAULT_ADMIN, AdminAddress, AsJson, Version
from server.cli.searches import print_account
from server.client import CallFailed, Client
from server.live import show_job
from server.pb import management_pb2 as pb
from server.terminal import job_line, jobs_table

_INTERRUPTED: Final = 130
"""The exit code of what Ctrl-C ended, as shells have it."""


def jobs_command(
    action: Annotated[str | None, typer.Argument(help="`rm` or `cancel`; nothing lists.")] = None,
    job: Annotated[str | None, typer.Argument(help="Id of the job.")] = None,
    admin: AdminAddress = DEFAULT_ADMIN,
    as_json: AsJson = False,
) -> None:
    """Show every job; `jobs cancel ID` ends one, `jobs rm ID` deletes what an ended one left."""
    if action is None:
        answer = call(admin, "ListJobs", pb.ListJobsRequest(), pb.ListJobsResponse)
        if as_json:
            print_json(answer)
        else:
            console.print(jobs_table(answer.jobs), markup=False)
        return
    if action not in ("rm", "cancel") or job is None:
        raise typer.BadParameter("expected `hone jobs`, `hone jobs cancel ID` or `hone jobs rm ID`")
    if action == "cancel":
        cancelled = call(admin, "CancelJob", pb.CancelJobRequest(id=job), pb.Job)
        console.print(job_line(cancelled), markup=False)
    else:
        call(admin, "RemoveJob", pb.RemoveJobRequest(id=job), pb.RemoveJobResponse)
        console.print(f"deleted job {job}")


def optimize(
    model: Annotated[str, typer.Argument(help="Its name.")],
    profile: Annotated[str | None, typer.Option(help="A profile of its hone.yaml.")] = None,
    profile_file: Annotated[
        Path | None, typer.Option(help="A file with `recipe` and `goal`.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until the verdict.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a search; another budget if it has ended.")
    ] = False,
    version: Version = 0,
    admin: AdminAddress = DEFAULT_ADMIN,
    as_json: AsJson = False,
) -> None:
    """Build and judge a profile in the background. Exit code 3: it did not succeed."""
    if (profile is None) == (profile_file is None):
        raise typer.BadParameter("give either --profile NAME or --profile-file FILE")
    request = pb.SubmitJobRequest(
        model=model, version=version, profile=profile or "", resume=resume
    )
    if profile_file is not None:
        try:
            request.profile_text = profile_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise typer.BadParameter(f"{profile_file} cannot be read: {error}") from error
        request.profile = profile_file.stem
    answer = call(admin, "SubmitJob", request, pb.SubmitJobResponse)
    job = answer.job
    if not as_json:
        what = "is the same job" if answer.existed else "submitted"
        console.print(
            f"job {job.id} {what}: {job_line(job)}", markup=False, highlight=False, soft_wrap=True
        )
    if wait:
        job = _followed(admin, job, quiet=as_json)
    if as_json:
        print_json(job)
    elif wait:
        console.print(job_line(job), markup=False, highlight=False, soft_wrap=True)
        if job.HasField("search"):
            _tell_what_was_found(admin, job)
    if wait and job.state != "succeeded":
        raise typer.Exit(3)


def _followed(address: str, job: pb.Job, *, quiet: bool) -> pb.Job:
    """Show a job until it ends; it goes on where nobody looks any more.

    Raises:
        CallFailed: The server went away; the text says what becomes of the job.
    """

    async def follow() -> pb.Job:
        async with Client(address) as client:
            return await show_job(console, client, job.id, quiet=quiet)

    try:
        return asyncio.run(follow())
    except CallFailed as error:
        raise CallFailed(
            error.code,
            f"{error}; if the server has stopped, job {job.id} was cut short, and the same command "
            "goes on with it once a server runs again",
        ) from error
    except KeyboardInterrupt:
        _say_it_goes_on(job)
        raise typer.Exit(_INTERRUPTED) from None
    except SystemExit:  # so the console leaves when nobody reads what it prints
        _say_it_goes_on(job)
        raise


def _tell_what_was_found(address: str, job: pb.Job) -> None:
    """Print the account of a job's search; how the job ended counts, whatever becomes of that."""
    try:
        print_account(call(address, "Explain", pb.ExplainRequest(job=job.id), pb.ExplainResponse))
    except HoneError as error:
        print(f"what the search found cannot be told: {error}", file=sys.stderr)


def _say_it_goes_on(job: pb.Job) -> None:
    print(
        f"job {job.id} goes on: the same command shows it again, "
        f"`hone jobs cancel {job.id}` ends it",
        file=sys.stderr,
    )
