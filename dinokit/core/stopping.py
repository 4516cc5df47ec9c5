"""Signals that ask a run to stop; its main process answers them, the processes that serve it ignore them."""

import signal

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)  # SIGUSR1: SLURM, before the time is up
