"""Contact sheets: the chosen frames of a video beside uniform ones, and the selector's score over time."""

from __future__ import annotations

import os

import numpy as np

from tamis.core.figures import blank_figure
from tamis.core.types import Figure, PathOrStr
from tamis.transforms.frames.readers import VideoFrames

__all__ = ["contact_sheet"]

_HEIGHT = 96  # pixels of a picture on the sheet


def contact_sheet(
    clip: VideoFrames,
    chosen: np.ndarray,
    uniform: np.ndarray,
    candidates: np.ndarray,
    scores: np.ndarray | None,
    path: PathOrStr | None = None,
) -> Figure:
    """Draw one video.

    Args:
        clip: open.
        chosen: int [n], sorted frame numbers.
        uniform: int [n], what uniform sampling would take.
        candidates: int [m], the frames that were scored.
        scores: [m], or None: then the choice is shown without a curve.
        path: where to write the picture.

    Returns:
        A matplotlib `Figure`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    n = len(chosen)
    figure = blank_figure(max(6.0, 1.4 * n), 5.0)
    grid = figure.add_gridspec(3, n, height_ratios=(1, 1, 1.2))
    for row, (name, frames) in enumerate((("chosen", chosen), ("uniform", uniform))):
        pictures = clip.frames(frames, _thumbnail(clip)).permute(0, 2, 3, 1).numpy()
        for column, (frame, picture) in enumerate(zip(frames, pictures, strict=True)):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(picture)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(f"frame {frame}", fontsize=8)
            if column == 0:
                axes.set_ylabel(name)
    axes = figure.add_subplot(grid[2, :])
    if scores is not None:
        axes.plot(candidates, scores, color="black", linewidth=1)
        axes.set_ylabel("score")
    else:
        axes.set_yticks([])
    for frames, style, name in ((chosen, "-", "chosen"), (uniform, ":", "uniform")):
        for i, frame in enumerate(np.unique(frames)):
            label = name if i == 0 else None
            axes.axvline(frame, linestyle=style, color="C0" if style == "-" else "C1", label=label)
    axes.set(xlabel="frame", xlim=(0, max(1, clip.num_frames - 1)), title=f"video {os.path.basename(clip.name)}")
    axes.legend(loc="upper right")
    if path is not None:
        figure.savefig(path)
    return figure


def _thumbnail(clip: VideoFrames) -> tuple[int, int]:
    height, width = clip.frames(np.zeros(1, dtype=np.int64)).shape[-2:]
    return min(_HEIGHT, height), max(1, round(width * min(_HEIGHT, height) / height))
