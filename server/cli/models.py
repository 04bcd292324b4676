"""Commands on models and their variants: what there is, who answers, what happened."""

from __future__ import annotations

from typing import Annotated

import typer

from server.cli.exchange import call, console, print_json
from server.cli.options import DEFAULT_ADMIN, AdminAddress, AsJson, Version
from server.pb import management_pb2 as pb
from server.pb import open_inference_pb2 as inference
from server.terminal import events_table, figure_line, models_table, variants_table


def models(admin: AdminAddress = DEFAULT_ADMIN, as_json: AsJson = False) -> None:
    """Show every model: what answers, how it is opened, what is wrong."""
    answer = call(admin, "ListModels", pb.ListModelsRequest(), pb.ListModelsResponse)
    if as_json:
        print_json(answer)
        return
    console.print(models_table(answer.models), markup=False)
    for model in answer.models:
        for warning in model.warnings:
            console.print(f"warning: {warning}", markup=False)


def variants_command(
    model: Annotated[str, typer.Argument(help="Its name; or `rm` to delete a variant.")],
    rest: Annotated[list[str] | None, typer.Argument(help="After `rm`: MODEL VARIANT.")] = None,
    version: Version = 0,
    admin: AdminAddress = DEFAULT_ADMIN,
    as_json: AsJson = False,
) -> None:
    """Show a model's variants with what was measured of them; or `variants rm MODEL VARIANT`."""
    if model == "rm" and rest:
        if len(rest) != 2:
            raise typer.BadParameter("expected `hone variants rm MODEL VARIANT`")
        remove = pb.RemoveVariantRequest(model=rest[0], version=version, variant=rest[1])
        call(admin, "RemoveVariant", remove, pb.RemoveVariantResponse)
        console.print(f"deleted variant {rest[1]} of {rest[0]}")
        return
    if rest:
        raise typer.BadParameter(f"unexpected {' '.join(rest)}; expected one model")
    request = pb.ListVariantsRequest(model=model, version=version)
    answer = call(admin, "ListVariants", request, pb.ListVariantsResponse)
    if as_json:
        print_json(answer)
        return
    console.print(variants_table(answer.variants), markup=False)
    for variant in answer.variants:
        if variant.figures:
            console.print(f"\n{variant.id} ({variant.recipe})")
        for figure in variant.figures:
            console.print(f"  {figure_line(figure)}", highlight=False, markup=False)
        for check in variant.checks:
            passed = (
                {True: "held", False: "broke"}[check.passed] if check.HasField("passed") else "-"
            )
            console.print(f"  {check.gate}: {passed}: {check.text}", highlight=False, markup=False)
        for note in variant.notes:
            console.print(f"  {note}", style="dim", highlight=False, markup=False)


def promote(
    model: Annotated[str, typer.Argument(help="Its name.")],
    variant: Annotated[str, typer.Argument(help="An id, a profile's name, or `original`.")],
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Even if it is not proved here.")
    ] = False,
    version: Version = 0,
    admin: AdminAddress = DEFAULT_ADMIN,
) -> None:
    """Let a variant answer by default."""
    request = pb.SetRouteRequest(
        model=model, version=version, variant=variant, unverified=unverified
    )
    _print_route(call(admin, "SetRoute", request, pb.RouteResponse))


def rollback(
    model: Annotated[str, typer.Argument(help="Its name.")],
    version: Version = 0,
    admin: AdminAddress = DEFAULT_ADMIN,
) -> None:
    """Return to the variant that answered before."""
    request = pb.RollBackRequest(model=model, version=version)
    _print_route(call(admin, "RollBack", request, pb.RouteResponse))


def load(
    model: Annotated[str, typer.Argument(help="Its folder in the repository.")],
    admin: AdminAddress = DEFAULT_ADMIN,
) -> None:
    """Load a model, or bring it up to date after its folder changed."""
    request = inference.RepositoryModelLoadRequest(model_name=model)
    call(admin, "RepositoryModelLoad", request, inference.RepositoryModelLoadResponse)
    print(f"{model} is loaded")


def unload(
    model: Annotated[str, typer.Argument(help="Its name.")],
    admin: AdminAddress = DEFAULT_ADMIN,
) -> None:
    """Finish what was accepted for a model and close it."""
    request = inference.RepositoryModelUnloadRequest(model_name=model)
    call(admin, "RepositoryModelUnload", request, inference.RepositoryModelUnloadResponse)
    print(f"{model} is unloaded")


def events(
    model: Annotated[str, typer.Argument(help="Its name; nothing for all.")] = "",
    limit: Annotated[int, typer.Option(min=1)] = 100,
    admin: AdminAddress = DEFAULT_ADMIN,
    as_json: AsJson = False,
) -> None:
    """Show what happened."""
    request = pb.ListEventsRequest(model=model, limit=limit)
    answer = call(admin, "ListEvents", request, pb.ListEventsResponse)
    if as_json:
        print_json(answer)
    else:
        console.print(events_table(answer.events), markup=False)


def _print_route(route: pb.RouteResponse) -> None:
    console.print(
        f"{route.model} version {route.version}: {route.variant} answers now"
        + (f"; before, {route.previous} did" if route.previous else ""),
        highlight=False,
    )
