"""Pictures without a window: one door to matplotlib, which is not always there."""

from __future__ import annotations

from tamis.core.types import Figure

__all__ = ["blank_figure"]


def blank_figure(width: float, height: float) -> Figure:
    """An empty matplotlib `Figure`, outside pyplot: no global state, no window.

    Args:
        width: in inches, > 0.
        height: in inches, > 0.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure
    except ImportError as error:
        raise ImportError("plot: needs matplotlib; pip install 'tamis[plot]'") from error
    return matplotlib.figure.Figure(figsize=(width, height), layout="constrained")
