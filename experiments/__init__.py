"""Programs that train and measure with dann_jax; nothing imports them."""

import signal
import sys

if sys.argv[:1] == ["-m"]:  # one of them starts: Ctrl-C ends it while it imports, without a trace
    signal.signal(signal.SIGINT, signal.SIG_DFL)
