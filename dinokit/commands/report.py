"""`dinokit report`: write RUN/report.html"""

from pathlib import Path

from dinokit.core.messages import info
from dinokit.visuals.report import write_report


def report(run: Path) -> None:
    """Write RUN/report.html: what ran, the curves, the numbers beside their baselines, and what the features see.

    Args:
        run: the run's folder.
    """
    info(f"report {write_report(Path(run))}")
