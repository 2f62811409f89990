"""A callback that carries a component's state through ``trainer_state.json``.

State travels in ``state.stateful_callbacks``, which Trainer loads whatever ``restore_callback_states_from_checkpoint``
says; so each callback restores its component in place.
"""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from tamis.core.errors import TamisError
from tamis.core.state import from_jsonable, to_jsonable

__all__ = ["ComponentCallback"]


class ComponentCallback(TrainerCallback, ExportableState):
    """Carries one component's state through ``trainer_state.json``.

    With ``restore_callback_states_from_checkpoint`` Trainer replaces each callback by ``type(callback)(**args)``, made
    from JSON, which cannot hold a sampler. So each instance gets a class of its own that remembers its attributes:
    the replacement has the same ones, and the component that was there stays in use.
    """

    _shared: dict[str, Any] | None = None

    def __init__(self, component: Any = None, **attributes: Any) -> None:
        cls = type(self)
        if component is None:
            if cls._shared is None:
                raise TypeError(f"{cls.__name__}: missing its component, e.g. {cls.__name__}(component)")
            self.__dict__ = cls._shared
            return
        self.component = component
        self.__dict__.update(attributes)
        own: Any = type(cls.__name__, (cls,), {"_shared": self.__dict__, "__module__": cls.__module__})
        self.__class__ = own

    def state(self) -> dict[str, Any]:
        """What Trainer writes at every checkpoint."""
        return {"args": {}, "attributes": {"saved": to_jsonable(self.component.state_dict())}}

    def _restore(self, state: Any) -> None:
        """Load what the checkpoint holds for this callback, if training resumes from one."""
        name = type(self).__name__
        entry = state.stateful_callbacks.get(name)
        if isinstance(entry, list):
            raise TamisError(f"{name}: a Trainer takes one of them, got {len(entry)}; combine the components")
        if state.global_step > 0:
            if entry is None:
                raise TamisError(
                    f"the checkpoint at step {state.global_step} holds no state of {name}: it was written without it; "
                    "resume without the callback, or start anew with it"
                )
            self.component.load_state_dict(from_jsonable(entry["attributes"]["saved"]))
        state.stateful_callbacks[name] = self.state()  # Trainer's save expects the key
