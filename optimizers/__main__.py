"""`python -m optimizers build|demo|worker`: works without a server."""

import sys
from importlib.util import find_spec


def _main() -> None:
    missing = [name for name in ("onnx", "scipy", "typer") if find_spec(name) is None]
    if missing:
        sys.exit(
            f"hone: the optimisers are not installed here ({', '.join(missing)} missing); "
            "run: pip install 'hone-server[cpu,optimize]'"
        )
    # Only what is installed can be imported.
    from optimizers.cli import main

    main()


_main()
