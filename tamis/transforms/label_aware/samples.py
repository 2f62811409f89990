"""Where image and label stand in a sample: a dict, a tuple or a list."""

from __future__ import annotations

from typing import Any, TypeAlias

__all__ = ["Sample", "replace_image", "sample_keys"]

#: An image and its label: a dict with both, or a tuple or list that begins with them.
Sample: TypeAlias = dict[str, Any] | tuple[Any, ...] | list[Any]

_IMAGE_KEYS = ("image", "img")
_LABEL_KEYS = ("label", "labels", "fine_label")


def sample_keys(sample: object) -> tuple[Any, Any]:
    """Where image and label are in a sample: keys of a dict, places in a tuple or list.

    Raises:
        TypeError: no such structure.
        ValueError: a dict without them, or with several that could be meant.
    """
    if isinstance(sample, dict):
        found = [[name for name in names if name in sample] for names in (_IMAGE_KEYS, _LABEL_KEYS)]
        if any(len(names) != 1 for names in found):
            raise ValueError(
                f"sample: keys {', '.join(map(repr, sample))}: must have one of {', '.join(_IMAGE_KEYS)} and one of "
                f"{', '.join(_LABEL_KEYS)}; call augment(image, label), or name the columns in for_datasets"
            )
        return found[0][0], found[1][0]
    if not isinstance(sample, (tuple, list)) or len(sample) < 2:
        raise TypeError(
            f"sample: got {type(sample).__name__}; must hold an image and its label, e.g. augment(image, label); "
            "for data sets whose transform sees no label use LabelAwareDataset(dataset, augment)"
        )
    return 0, 1


def replace_image(sample: Sample, image: object) -> Sample:
    """The sample with another image, in the same structure.

    Args:
        sample: as `sample_keys` takes it.
        image: takes the place of the sample's own.

    Returns:
        A new dict, list or tuple; ``sample`` stays as it was.
    """
    if isinstance(sample, dict):
        return {**sample, sample_keys(sample)[0]: image}
    return [image, *sample[1:]] if isinstance(sample, list) else (image, *sample[1:])
