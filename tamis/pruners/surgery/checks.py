"""Everything that could go wrong in a cut, looked at before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tamis.pruners.gates import GatedEmbedding, GatedEmbeddingBag
from tamis.pruners.selection import Selection
from tamis.pruners.surgery.narrow import embedding_modules
from tamis.pruners.surgery.plan import BUFFER
from tamis.pruners.surgery.transplant import check_state, narrow_columns

__all__ = ["check_model", "check_optimizers", "group_tables"]


def check_model(model: nn.Module) -> None:
    """Refuse a model that is wrapped, sharded or cut already.

    Raises:
        ValueError: names the part and the cure.
    """
    for path, module in model.named_modules():
        if isinstance(module, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            raise ValueError(
                f"model: {path or 'it'} is wrapped in {type(module).__name__}, which would go on training the old "
                "tensors while the processes drift apart; cut the module inside (model.module) on every process "
                "and wrap it again"
            )
        if type(module).__name__.startswith(("FullySharded", "FSDP")):
            raise ValueError(f"model: {path or 'it'} is sharded ({type(module).__name__}); cut before sharding")
        if BUFFER in module._buffers:
            raise ValueError(f"model: {path or 'it'} is cut already; cut the unpruned model, or read its tamis_plan")


def group_tables(
    model: nn.Module, selections: Mapping[str, Selection]
) -> tuple[dict[str, list[Any]], dict[str, Selection]]:
    """The modules of each table; tables that are named twice, once.

    Args:
        model: holds them.
        selections: module path -> what remains.

    Returns:
        path -> the modules that share that table, and path -> what remains.

    Raises:
        TypeError: a path is not a table that can be cut.
        ValueError: a selection does not fit, or two paths of one table have different ones.
    """
    embeddings = embedding_modules(model)
    if not selections:
        raise ValueError(f"kept={{}}: must name at least one table; the model has {', '.join(embeddings) or 'none'}")
    groups: dict[str, list[Any]] = {}
    left: dict[str, Selection] = {}
    owners: dict[int, str] = {}
    for path, selection in selections.items():
        _check_table(path, embeddings)
        if selection.mask is None and not selection.parts:
            raise ValueError(
                f"kept[{path!r}]=Selection(): names nothing that remains; to remove the whole table say so with "
                "Selection.columns(torch.zeros(0, dtype=torch.int64))"
            )
        weight = embeddings[path].weight
        _check_fit(f"kept[{path!r}]", selection, weight)
        owner = owners.setdefault(id(weight), path)
        if owner != path:
            if not _same(left[owner], selection):
                raise ValueError(f"kept[{path!r}]: shares its table with {owner!r}; both must keep the same columns")
            continue
        left[path] = selection
        distinct = {id(module): module for module in embeddings.values() if module.weight is weight}
        groups[path] = sorted(distinct.values(), key=lambda module: module is not embeddings[path])
        for module in groups[path]:
            _check_forward(path, module, selection)
    return groups, left


def check_optimizers(
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    groups: Mapping[str, list[Any]],
    selections: Mapping[str, Selection],
) -> None:
    """Refuse optimizer state that cannot be cut with the weights.

    Args:
        model: whose linear layers may lose columns too.
        optimizers: to be changed.
        groups: path -> the modules that share that table.
        selections: path -> what remains.

    Raises:
        ValueError: names the optimizer and the state.
    """
    tables = {form: [m[0].weight for path, m in groups.items() if selections[path].form == form] for form in _FORMS}
    linears = [module.weight for module in model.modules() if type(module) is nn.Linear]
    check_state(optimizers, tables["columns"] + tables["blocks"] + linears)
    check_state(optimizers, tables["values"], full=True)
    for path, modules in groups.items():
        if selections[path].form == "values" and modules[0].sparse:
            raise ValueError(
                f"kept[{path!r}]: single values of a table with sparse=True have dense gradients, which SparseAdam "
                "refuses; build the table with sparse=False, or keep blocks"
            )


_FORMS = ("columns", "blocks", "values")


def _check_table(path: str, embeddings: Mapping[str, nn.Module]) -> None:
    if path not in embeddings or not path:
        raise TypeError(
            f"kept[{path!r}]: must be the path of an nn.Embedding or nn.EmbeddingBag inside the model; "
            f"it has {', '.join(embeddings) or 'none'}"
        )
    if isinstance(embeddings[path], (GatedEmbedding, GatedEmbeddingBag)):
        raise ValueError(
            f"model: its table {path!r} is still gated by a pruner; take a fresh model, or cut with pruner.prune()"
        )
    if nn.utils.parametrize.is_parametrized(embeddings[path]):
        raise TypeError(
            f"kept[{path!r}]: is parametrised; call torch.nn.utils.parametrize.remove_parametrizations first"
        )


def _check_fit(name: str, selection: Selection, weight: Tensor) -> None:
    """`Selection.check`, in the words of the columns where only columns were given."""
    try:
        selection.check(name, *weight.shape)
    except (TypeError, ValueError) as error:
        if selection.form != "columns":
            raise
        raise type(error)(str(error).replace(".parts[0].columns", "")) from None


def _same(one: Selection, other: Selection) -> bool:
    if one.mask is not None or other.mask is not None:
        return one.mask is not None and other.mask is not None and torch.equal(one.mask, other.mask)
    return len(one.parts) == len(other.parts) and all(
        torch.equal(a.columns, b.columns) and _equal(a.rows, b.rows)
        for a, b in zip(one.parts, other.parts, strict=True)
    )


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other if one is None or other is None else torch.equal(one, other)


def _check_forward(path: str, module: Any, selection: Selection) -> None:
    """A subclass with a forward of its own must give the kept columns of its rows when its table is narrow.

    Raises:
        TypeError: it does not, or it cannot be tried, or more than columns is to be cut.
    """
    if type(module).forward in (nn.Embedding.forward, nn.EmbeddingBag.forward):
        return
    if selection.form != "columns":
        raise TypeError(
            f"kept[{path!r}]: a {type(module).__name__}, which has a forward of its own; only whole columns can be cut"
        )
    kept = selection.parts[0].columns
    cause: Exception | None = None
    ids = torch.arange(min(len(module.weight), 64), device=module.weight.device)
    ids = ids[:, None] if isinstance(module, nn.EmbeddingBag) else ids
    weight, flag = module.weight, module.training
    try:
        with torch.no_grad():
            wide = module.eval()(ids)
            module.weight, module.embedding_dim = nn.Parameter(narrow_columns(weight, kept)), len(kept)
            if torch.equal(module(ids), narrow_columns(wide, kept)):
                return
    except Exception as error:  # somebody else's forward
        cause = error
    finally:
        module.weight, module.embedding_dim = weight, weight.shape[1]
        module.train(flag)
    raise TypeError(
        f"kept[{path!r}]: a {type(module).__name__}, which has a forward of its own that gives other numbers on a "
        "narrow table; fold it into the weight first"
    ) from cause
