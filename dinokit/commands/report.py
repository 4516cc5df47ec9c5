"""`dinokit report`: write RUN/report.html"""

from pathlib import Path

from dinokit.core.messages import info
from dinokit.visuals.report import write_report


def report(run: Path) -> Path:
    """Write RUN/report.html: what ran, the curves, the numbers beside their baselines, and what the features see.

    Results of `dinokit evaluate` that lie in the run's folder are shown too. Every figure can be saved as SVG and PNG.

    Args:
        run: the run's folder.
    """
    page = write_report(Path(run))
    info(f"report {page}")
    return page
