"""The program; `app.cli` is loaded when it runs."""

import atexit
import gc
import signal
import time

STARTED = time.perf_counter()
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # While modules are loaded, Ctrl-C ends the program without a traceback of what was being loaded.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def main() -> None:
    """Run the command line; the entry point of the package."""
    from roireg.app.cli import main as run

    # Else Python looks for unused objects once more at the end, a second in which nothing seems to happen.
    atexit.register(gc.freeze)
    run(STARTED)


if __name__ == "__main__":
    main()
