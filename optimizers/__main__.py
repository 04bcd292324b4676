"""`python -m optimizers build|demo|worker`: works without a server."""

from optimizers.cli import main

main()
