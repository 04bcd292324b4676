"""A server whose jobs are worked on by `tests.support.searching`.

Started as `python -m tests.support.searching_server COMMAND`, where COMMAND starts a server.
"""

from __future__ import annotations

import sys
from functools import partial

from server.app import App
from server.cli import main, serving

WORKER = (sys.executable, "-m", "tests.support.searching")
COMMAND = (sys.executable, "-m", "tests.support.searching_server")

if __name__ == "__main__":
    serving.App = partial(App, worker=WORKER)  # type: ignore[assignment, attr-defined]
    sys.argv = ["hone", *sys.argv[sys.argv.index("serve") :]]
    main()
