"""`python -m server` is `hone`."""

from server.cli import main

main()
