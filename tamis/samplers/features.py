"""Where the features of samples stood in release 0.1; they are in `tamis.features` now."""

from tamis.core.moved import moved

__getattr__ = moved(
    __name__,
    dict.fromkeys(("SampleFeatures", "feature_columns", "sample_features"), "tamis.features"),
)
