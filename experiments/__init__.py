"""Programs that train and measure with dann_jax; nothing imports them."""

import signal
import sys

# One of them starts: Ctrl-C ends it while it imports, without a trace.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
