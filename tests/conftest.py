"""For all tests: what a shell in the background leaves behind must not decide them."""

import signal

# A job that a script starts with `&` ignores Ctrl-C, and hands that on to its children; tests of
# Ctrl-C start programs that must notice it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
