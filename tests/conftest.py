"""How every test's processes are started, whoever runs the tests."""

from __future__ import annotations

import signal

# Whatever a shell starts in the background ignores SIGINT, and so would all that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
