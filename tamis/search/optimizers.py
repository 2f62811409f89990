"""Where the optimizers stood in release 0.1; they are in `tamis.optimizers` and `tamis.search` now."""

from tamis.core.moved import moved

__getattr__ = moved(
    __name__,
    {
        "AgentConfig": "tamis.search",
        "Predictor": "tamis.optimizers",
        "PredictorConfig": "tamis.search",
        "guided_local_search": "tamis.optimizers",
        "multisets": "tamis.optimizers",
        "propose": "tamis.optimizers",
        "select": "tamis.optimizers",
    },
)
