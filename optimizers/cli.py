"""The command line of the optimisers: what needs torch or the quantisers, without a server."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from optimizers.contract.addresses import resolved_address
from optimizers.contract.data_files import data_sha256
from optimizers.contract.errors import HoneError, OutOfMemory
from optimizers.contract.host import cpu_budget, this_host
from optimizers.contract.job import (
    VARIANT_DIRECTORY,
    JobSpec,
    JobState,
    job_id,
    last_progress,
    write_spec,
)
from optimizers.contract.manifest import MODEL_FILE
from optimizers.contract.named_models import models_sha256, named_models
from optimizers.contract.onnx_file import read_onnx_file
from optimizers.contract.preprocessing import Preprocessing, preprocessing_document
from optimizers.contract.profile import Task, profile_document
from optimizers.contract.runtime import SessionSpec
from optimizers.contract.study import EXPLANATION_FILE, FRONT_FILE, REPORT_FILE
from optimizers.conversion.confinement import confine
from optimizers.process import LOW, die_with_parent, lower_priority
from optimizers.rebuild import rebuild
from optimizers.worker import STAGES, run_stage, supervise

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_LOOK_EVERY_S = 0.2
_SEARCH = "search"
"""A stage of which every hundredth is told: it goes on for long."""
_GATE_USE = (
    "How often this gate data will have been used for this model, this time included. Nothing "
    "counts that here (a server does): it is your word, and the verdict is only as good. "
    "Use K may spend (1 - confidence) / 2^K."
)
_CACHE = (
    "Keep what each step made here and take it from here when the same work comes again; "
    "at most 4 GiB, the least recently used goes first."
)
_STUDY = (
    "The search's artefacts, where one search goes on, or one study below it "
    "(ARTEFACTS/studies/NAME); a path, a URL or env:NAME."
)
_STORAGE = (
    "The search's database, with its password, or env:NAME, which keeps that out of the list of "
    "processes. Left out: the one that the study names, with PGPASSWORD."
)
_HOME = "Where model, data and builds go; workers of one machine share it to measure in turn."
_SHARED = "Address of a shared database, or env:NAME, in place of --state."
_ARTEFACTS = "The store that its machines share, or env:NAME: a study is removed from there too."
_DEFAULT_HOME = Path("~/.cache/hone/search-worker")
DataFile = Annotated[Path | None, typer.Option(exists=True)]


def main() -> NoReturn:
    """Run the command line; a refusal is one line on stderr and exit code 1."""
    try:
        cli()
    except HoneError as error:
        print(f"hone: {error}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


@cli.callback()
def _optimizers() -> None:
    """Build variants and demo repositories without a server."""


@cli.command()
def worker(
    directory: Annotated[Path, typer.Argument(exists=True, file_okay=False)],
    stage: Annotated[str, typer.Option(help="Only this part of the work.")] = "",
) -> None:
    """Build and judge the job in a directory; the server starts this."""
    for known in STAGES:
        if stage == known:
            run_stage(directory, known)
            return
    if stage:
        raise typer.BadParameter(f"expected one of {', '.join(STAGES)}, got '{stage}'")
    die_with_parent()
    supervise(directory)


@cli.command("search-worker")
def search_worker(
    study: Annotated[str, typer.Option(metavar="ADDRESS", help=_STUDY)],
    storage: Annotated[str, typer.Option(metavar="ADDRESS", help=_STORAGE)] = "",
    home: Annotated[Path, typer.Option(file_okay=False, help=_HOME)] = _DEFAULT_HOME,
    minutes: Annotated[float, typer.Option(min=0, help="Leave after these; 0: stay.")] = 0.0,
) -> None:
    """Try recipes for a search that another machine runs, until it ends or SIGTERM comes."""
    from optimizers.remote import Invitation, take_part  # takes seconds

    take_part(
        Invitation(
            study=study,
            storage=storage,
            home=home.expanduser().absolute(),
            minutes=minutes,
        ),
        os.environ,
        lambda text: print(text, flush=True),
    )


@cli.command()
def studies(
    action: Annotated[str, typer.Argument(help="`rm`; nothing lists.")] = "",
    name: Annotated[str, typer.Argument(help="After `rm`: of a study.")] = "",
    state: Annotated[Path | None, typer.Option(help="A server's state directory.")] = None,
    storage: Annotated[str, typer.Option(metavar="ADDRESS", help=_SHARED)] = "",
    artefacts: Annotated[str, typer.Option(metavar="ADDRESS", help=_ARTEFACTS)] = "",
) -> None:
    """Show what searches have learned and keep; or `studies rm NAME`."""
    from optimizers.search.kept import databases, forget, kept_studies  # takes seconds
    from optimizers.search.store import Store

    places = databases(state, storage, os.environ)
    if not action:
        for one in kept_studies(places):
            working = ", worked on now" if one.is_worked_on else ""
            print(f"{one.name}: {one.trials} trials, {one.seconds / 60:.0f} min{working}")
        return
    if action != "rm" or not name:
        raise typer.BadParameter("expected `studies rm NAME`")
    store = Store(resolved_address(artefacts, os.environ, "--artefacts")) if artefacts else None
    forget(places, name, store)
    print(f"removed study {name}")


@cli.command()
def build(
    model: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="An ONNX file.")],
    profile_file: Annotated[Path, typer.Option(exists=True, dir_okay=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The variant's directory.")],
    task: Annotated[Task, typer.Option(help="How answers are compared.")] = Task.OTHER,
    calibration: DataFile = None,
    train: DataFile = None,
    search: DataFile = None,
    gate: DataFile = None,
    preprocess_file: Annotated[Path | None, typer.Option(exists=True, dir_okay=False)] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="Rows joined into one run.")] = 32,
    build_seconds: Annotated[float, typer.Option(min=0, help="Limit; 0: any time.")] = 0.0,
    measure_seconds: Annotated[float, typer.Option(min=1)] = 120.0,
    gate_use: Annotated[int, typer.Option(min=1, metavar="K", help=_GATE_USE)] = 1,
    cache: Annotated[Path | None, typer.Option(file_okay=False, help=_CACHE)] = None,
) -> None:
    """Build one profile of a model and judge it on this machine. Exit code 3: not proved.

    What a search finds, and its report, go to a directory OUTPUT.search beside the variant's; one
    that was ended goes on there when it is started again.
    """
    _require_absent(output)
    declared = {"calibration": calibration, "train": train, "search": search, "gate": gate}
    data = {name: path.resolve() for name, path in declared.items() if path is not None}
    preprocess = _preprocessing(preprocess_file)
    digests = {name: data_sha256(path, preprocess) for name, path in data.items()}
    profile = profile_document(
        profile_file.read_text(encoding="utf-8"), profile_file.name, profile_file.stem
    )
    models = named_models(profile.recipe, profile_file.parent, profile_file.name)
    digests_of_models = models_sha256(models)
    host = this_host(max(1, int(cpu_budget())))
    original_session = SessionSpec(lanes=host.cpus, max_batch=max_batch)
    original_sha256 = read_onnx_file(model).sha256()
    found = output.resolve().with_name(f"{output.name}.search")
    spec = JobSpec(
        id=job_id(
            model=model.stem,
            version=1,
            profile=profile,
            task=task,
            original_sha256=original_sha256,
            original_session=original_session,
            data_sha256=digests,
            models_sha256=digests_of_models,
            host=host,
        ),
        model=model.stem,
        version=1,
        profile=profile,
        task=task,
        original_file=model.resolve(),
        original_name=model.name,
        original_sha256=original_sha256,
        original_session=original_session,
        data=data,
        data_sha256=digests,
        preprocess=preprocess,
        models=models,
        models_sha256=digests_of_models,
        gate_use=gate_use,
        cpus=host.cpus,
        build_timeout_s=build_seconds,
        measure_timeout_s=measure_seconds,
        cache=None if cache is None else cache.resolve(),
        studies=None if profile.search is None else found,
        submitted_unix_s=time.time(),
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".hone-build-") as name:
        directory = Path(name)
        write_spec(directory, spec)
        # A worker dies with whoever started it, so that Ctrl-C and SIGTERM both end it at once.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with _progress_printed(directory):
            result = supervise(directory)
        if profile.search is not None:
            _keep_what_was_found(directory, found)
        variant = directory / VARIANT_DIRECTORY
        if variant.is_dir():
            shutil.move(variant, output)
            print(f"variant {result.variant} lies in {output}")
    print(f"{result.state}: {result.reason}" if result.reason else str(result.state))
    if result.state is JobState.FAILED:
        raise typer.Exit(1)
    if result.state is not JobState.SUCCEEDED or result.reason:
        raise typer.Exit(3)


@cli.command("rebuild")
def rebuild_command(
    variant: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Its directory.")],
    model: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The original.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where its files go.")],
    calibration: DataFile = None,
    train: DataFile = None,
    search: DataFile = None,
    preprocess_file: Annotated[Path | None, typer.Option(exists=True, dir_okay=False)] = None,
) -> None:
    """Build a variant again from its manifest, unjudged. Exit code 3: other bytes came out.

    Models that its recipe names are looked for beside MODEL.
    """
    _require_absent(output)
    declared = {"calibration": calibration, "train": train, "search": search}
    is_same = rebuild(
        variant,
        model,
        {name: path.resolve() for name, path in declared.items() if path is not None},
        output,
        preprocess=_preprocessing(preprocess_file),
        home=model.parent,
        say=print,
    )
    if not is_same:
        raise typer.Exit(3)


def _require_absent(output: Path) -> None:
    if output.exists():
        raise typer.BadParameter(f"{output} exists already; choose a new directory")


def _preprocessing(file: Path | None) -> Preprocessing:
    if file is None:
        return Preprocessing()
    return preprocessing_document(file.read_text(encoding="utf-8"), file.name)


@cli.command()
def convert(
    source: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A model.pt2.")],
    directory: Annotated[Path, typer.Argument(help="Folder that gets model.onnx.")],
    output_name: Annotated[
        list[str] | None, typer.Option(help="Of each output, in order. Repeatable.")
    ] = None,
    memory_bytes: Annotated[int, typer.Option(min=0, help="Most private memory; 0: any.")] = 0,
    file_bytes: Annotated[int, typer.Option(min=0, help="Largest file written; 0: any.")] = 0,
) -> None:
    """Convert a PyTorch program (torch.export) to ONNX. CODE IN THE FILE MAY RUN, as your user."""
    die_with_parent()
    lower_priority(os.getpid(), LOW)
    confine(memory_bytes=memory_bytes, file_bytes=file_bytes)
    from optimizers.conversion.convert import convert as convert_program  # takes seconds: torch

    directory.mkdir(parents=True, exist_ok=True)
    try:
        convert_program(source, directory, output_name or ())
    except MemoryError as error:
        raise OutOfMemory(f"more than the {memory_bytes >> 20} MiB allowed were needed") from error
    print(f"{directory / MODEL_FILE} answers as {source} does")


@cli.command()
def demo(
    directory: Annotated[Path, typer.Argument(help="Where the repository goes.")],
    dataset: Annotated[
        str, typer.Option(help="auto | mnist5k | fashion (Debian's dataset-fashion-mnist).")
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Decides splits and training.")] = 0,
) -> None:
    """Write a repository with two models trained on real images, here and now."""
    # torch takes seconds to import; the other commands do without it.
    from optimizers.demo.data import Dataset
    from optimizers.demo.write import DemoSettings, write_demo

    if dataset not in list(Dataset):
        raise typer.BadParameter(f"expected one of {', '.join(Dataset)}, got '{dataset}'")
    report = write_demo(directory, DemoSettings(dataset=Dataset(dataset), seed=seed), print)
    if report.written:
        print(f"{directory} was written in {report.seconds:.0f} s")
    else:
        print(f"{directory} holds this demo already; nothing was trained")
    print(f"serve it: hone serve {directory} --story")


def _keep_what_was_found(directory: Path, found: Path) -> None:
    """Move what a search wrote from its job's directory to where it stays."""
    found.mkdir(exist_ok=True)
    for name in (EXPLANATION_FILE, REPORT_FILE, FRONT_FILE):
        if (directory / name).exists():
            shutil.move(directory / name, found / name)
    print(f"what was found lies in {found}")


@contextmanager
def _progress_printed(directory: Path) -> Iterator[None]:
    """Print a line for each stage of a job while something else waits for its end."""
    ended = threading.Event()
    printer = threading.Thread(target=_print_progress, args=(directory, ended))
    printer.start()
    try:
        yield
    finally:
        ended.set()
        printer.join()


def _print_progress(directory: Path, ended: threading.Event) -> None:
    shown, is_last = "", False
    while not is_last:
        is_last = ended.wait(_LOOK_EVERY_S)
        progress = last_progress(directory)
        if progress is None:
            continue
        said = f"{progress.fraction:4.0%} {progress.stage}"
        now = said if progress.stage == _SEARCH else progress.stage
        if now != shown:
            print(f"{said} {progress.text}".rstrip(), flush=True)
            shown = now
