"""`python -m optimizers build|demo|worker`: works without a server."""

import sys

try:
    from optimizers.cli import main
except ModuleNotFoundError as missing:
    sys.exit(
        f"hone: the optimisers are not installed here ({missing.name} is missing); "
        "run: pip install 'hone-server[cpu,optimize]'"
    )

main()
