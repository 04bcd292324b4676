"""`python -m optimizers build|demo|worker`: works without a server."""

import sys

from optimizers.contract.packages import how_to_install_optimisers, missing_packages


def _main() -> None:
    missing = missing_packages(("onnx", "scipy", "typer"))
    if missing:
        sys.exit(f"hone: {how_to_install_optimisers(missing)}")
    # Only what is installed can be imported.
    from optimizers.cli import main

    main()


_main()
