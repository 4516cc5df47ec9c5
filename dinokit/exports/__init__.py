"""Networks as files of other runtimes, compared with our own when they are written."""
