"""Read a cut model back: build the unpruned model, cut it by the plan in the file, put the weights in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tamis.core.errors import PolicyError
from tamis.core.extras import needs
from tamis.core.types import PathOrStr
from tamis.pruners.surgery.packing import check_stored
from tamis.pruners.surgery.plan import BUFFER, PruningPlan
from tamis.pruners.surgery.quantize import quantize_embeddings

__all__ = ["load_pruned"]

_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".ckpt"}
_NEVER = (
    "which is never loaded, since loading one can run any code; save the cut model as safetensors: "
    "trainer.save_model(path), or safetensors.torch.save_model(model, path)"
)
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


def load_pruned(model: nn.Module | type, path: PathOrStr, *, quantize: str | None = None) -> Any:
    """A model that `cut` made smaller, from where ``trainer.save_model``, ``save_pretrained`` or `save_file` put it.

    A model that was saved quantised (`quantize_embeddings`) comes back quantised, never cut or not.

    Args:
        model: an UNPRUNED instance of the architecture (its weights are overwritten; it is changed in place), or a
            `transformers` class (``BertForSequenceClassification``, ``AutoModel``), which is built from the saved
            config and returned in evaluation mode.
        path: a folder with ``model.safetensors`` (or shards with their index), or one such file.
        quantize: store the tables of the model, which was saved in float, as ``int8``, ``int4`` or ``int2``.

    Returns:
        The cut model; every weight is the saved one, bit for bit, if the dtypes are the same.

    Raises:
        TypeError: ``model`` is neither, or ``path`` is no path.
        ValueError: ``quantize`` is none of the types, or the model was saved quantised.
        PolicyError: no weights or no plan there, a plan of another model (with both shapes), or weights that do not
            match the model exactly.
    """
    _check_model(model)
    if quantize is not None:
        check_stored("quantize", quantize)
    folder = _as_path(path)
    files = _weight_files(folder)
    network = _build(model, folder) if isinstance(model, type) else model
    found = []
    for name, buffer in _read(files, only=BUFFER):
        prefix = name.removesuffix(BUFFER).rstrip(".")
        try:
            part = network.get_submodule(prefix)
        except AttributeError as error:
            raise PolicyError(f"{folder}: holds a plan for {prefix!r}, which the model does not have") from error
        plan = PruningPlan.read_from(buffer)
        if quantize is not None and plan.stored:
            kinds = ", ".join(sorted(set(plan.stored.values())))
            raise ValueError(f"quantize={quantize!r}: the model was saved as {kinds} already; leave quantize out")
        plan.apply(part)
        found.append(part)
    if not found:
        if gated := [name.rpartition(".")[0] for name, _ in _read(files, only="counts")]:
            raise PolicyError(
                f"{folder}: the weights were saved before the cut, with the table {gated[0]!r} still gated; build the "
                "model and its pruner as for the training, load the weights and the pruner's state, prune(), and save"
            )
        then = "" if quantize is None else f", then quantize_embeddings(model, {quantize!r})"
        raise PolicyError(
            f"{folder}: the weights hold no pruning plan ({BUFFER}); was this model cut with tamis? An unpruned one "
            f"is loaded as usual{then}"
        )
    _fill(network, files)
    if quantize is not None:
        for part in found:
            quantize_embeddings(part, quantize)
    return network


def _as_path(path: object) -> Path:
    if isinstance(path, Mapping):
        raise TypeError(
            f"path={type(path).__name__} of {len(path)} entries: must be a path, not a state dict; save it first, "
            "safetensors.torch.save_file(state_dict, path)"
        )
    if not isinstance(path, (str, PathLike)):
        raise TypeError(f"path={type(path).__name__}: must be a path, of a folder or a safetensors file")
    return Path(path)


def _check_model(model: nn.Module | type) -> None:
    if isinstance(model, type):
        if hasattr(model, "from_config") or hasattr(model, "config_class"):
            return
        raise TypeError(
            f"model={model.__name__}: is a class that says nothing of its sizes; build the unpruned model first, "
            f"load_pruned({model.__name__}(...), path)"
        )
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model={type(model).__name__}: must be an unpruned model, an nn.Module; load_pruned(model, path)"
        )


def _build(cls: type, folder: Path) -> nn.Module:
    with needs("hf", "load_pruned of a transformers model"):
        from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    built = cls.from_config(config) if hasattr(cls, "from_config") else cls(config)
    network: nn.Module = built.eval()
    return network if config.dtype is None else network.to(config.dtype)


def _weight_files(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix in _PICKLES:
            raise PolicyError(f"{path}: is a pickle, {_NEVER}")
        return [path]
    if (path / _SINGLE).is_file():
        return [path / _SINGLE]
    if not (path / _INDEX).is_file():
        if pickles := [file.name for file in sorted(path.glob("*")) if file.suffix in _PICKLES]:
            raise PolicyError(f"{path}: holds no safetensors but {', '.join(pickles)}: a pickle, {_NEVER}")
        raise PolicyError(f"{path}: must be a folder with {_SINGLE} or {_INDEX}, or such a file")
    try:
        names = sorted(set(json.loads((path / _INDEX).read_text())["weight_map"].values()))
        if not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise ValueError("a shard must be a bare file name")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PolicyError(f"{path / _INDEX}: not an index of shards ({error})") from error
    return [path / name for name in names]


def _read(files: list[Path], *, only: str | None = None) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor, one at a time; all of them, or those whose name's last part is ``only``."""
    for file in files:
        try:
            with safe_open(file, framework="pt") as reader:
                for name in reader.keys():  # noqa: SIM118  (not a dict)
                    if only is None or name.rpartition(".")[2] == only:
                        yield name, reader.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise PolicyError(f"{file}: cannot be read as safetensors ({error})") from error


def _fill(model: nn.Module, files: list[Path]) -> None:
    """Copy every tensor of the files into the model: all of the file's, and all of the model's (tied ones once)."""
    own = model.state_dict(keep_vars=True)
    filled: set[int] = set()
    for name, tensor in _read(files):
        target = own.get(name)
        if target is not None and name.rpartition(".")[2] == BUFFER:  # the plan was read and written anew
            filled.add(id(target))
            continue
        if target is None:
            raise PolicyError(f"{files[0].parent}: holds {name!r}, which the model (cut by its plan) does not have")
        if target.shape != tensor.shape:
            raise PolicyError(
                f"{files[0].parent}: {name!r} has shape {list(tensor.shape)}, in the model (cut by its plan) "
                f"{list(target.shape)}"
            )
        with torch.no_grad():
            target.copy_(tensor)
        filled.add(id(target))
    missing = [name for name, target in own.items() if id(target) not in filled]
    if missing:
        raise PolicyError(f"{files[0].parent}: lacks {missing[0]!r} ({len(missing)} of the model's tensors in all)")
