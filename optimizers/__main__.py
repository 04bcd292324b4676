"""`python -m optimizers build|convert|demo|worker`: works without a server."""

import sys

from optimizers.contract.packages import how_to_install_optimisers, missing_packages
from optimizers.contract.processors import keep_aside


def _main() -> None:
    if sys.argv[1:2] in (["worker"], ["convert"]):
        keep_aside()  # what is imported below takes half a second
    missing = missing_packages(("onnx", "scipy", "typer"))
    if missing:
        sys.exit(f"hone: {how_to_install_optimisers(missing)}")
    # Only what is installed can be imported.
    from optimizers.cli import main

    main()


_main()
