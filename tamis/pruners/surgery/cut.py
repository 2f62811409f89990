"""The physical cut: tables lose columns, and the model computes what it computed with zeros in their place.

Three forms, of which `cut` chooses per table:

* ``columns``: the table becomes narrow, and the linear layers behind it lose the matching inputs. Smaller and faster.
* ``scatter``: the table becomes a `NarrowEmbedding`, which puts zeros back on the way out. Exact
  wherever the model needs equal widths (FM, dot interaction, a transformer's hidden size). Smaller, not faster.
* ``project``: as ``scatter``, but by a trainable matrix per table that starts as the same map (the paper's form).

``columns`` is chosen only where the user names the layers or where they are found with ``example_inputs`` and a run
shows that the outputs stay the same (`trace`); everything else gets ``scatter``.

Tables are what an embedding's weight is: modules that share one (tied embeddings) are cut together. Any other module
that shares it (a tied output head) keeps the full tensor; `transformers` configs are then told that the head is no
longer tied.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tamis.core.distributed import is_distributed
from tamis.core.errors import NoEffectWarning
from tamis.pruners.gates import GatedEmbedding, GatedEmbeddingBag
from tamis.pruners.surgery.narrow import embedding_modules, narrow_table, slice_linear, used_elsewhere
from tamis.pruners.surgery.plan import BUFFER, PruningPlan, TableCut, check_index, finish_form
from tamis.pruners.surgery.trace import Sources, choose_columns, left_columns, named_sources, trace_sources
from tamis.pruners.surgery.transplant import check_state, narrow_columns, unwrap_optimizers

__all__ = ["cut"]


def cut(
    model: nn.Module,
    kept: Mapping[str, Tensor],
    *,
    consumers: Mapping[str, list[str | int]] | None = None,
    example_inputs: Any = None,
    optimizer: Any = None,
    project: bool = False,
) -> PruningPlan:
    """Make ``model`` physically smaller, in place.

    Afterwards it computes what it computed before with the cut columns set to zero. The plan is also stored inside
    the model (a small buffer, ``tamis_plan``), so that `load_pruned` can read back whatever saved its weights.

    Args:
        model: any module with `nn.Embedding` or `nn.EmbeddingBag` tables. Not wrapped for data-parallel training:
            cut on every process with the same ``kept``, then wrap.
        kept: module path of a table -> [k] int64, sorted: the columns to keep; k = 0 is allowed.
        consumers: path of an `nn.Linear` -> what it reads, in order: a table's path, or an int for that many other
            columns. For example ``{"mlp.0": ["embeddings.user", "embeddings.item", 13]}``. Without it the layers
            are found with ``example_inputs``.
        example_inputs: a batch to run the model on (a dict of keywords, a tuple of arguments or one tensor), used to
            find the layers and to check the result. With neither, every table gets the ``scatter`` form.
        optimizer: a torch optimizer, a list of them, or a wrapper with ``.optimizer``. Its groups get the new
            parameters and its state is cut the same way.
        project: use the ``project`` form in place of ``scatter``. Its matrices join the table's parameter group,
            unless the table has sparse gradients: then give ``table.projection`` to a dense optimizer yourself.

    Returns:
        The plan: what was kept, in which form.

    Raises:
        TypeError: a path is not a table, or a table's own forward cannot work on fewer columns.
        ValueError: an index out of range or order, a wrapped or already cut model, an optimizer state of unknown
            shape, ``consumers`` that do not add up. Nothing is changed.

    Warns:
        NoEffectWarning: every column of every table was kept.
        UserWarning: ``example_inputs`` do not run, or contradict ``consumers``; those tables got ``scatter``.
    """
    config: Any = getattr(model, "config", None) if hasattr(model, "save_pretrained") else None
    optimizers = unwrap_optimizers(optimizer)
    groups, kept = _check(model, kept)
    _check_optimizers(model, optimizers, groups, linears=consumers is not None or example_inputs is not None)
    named = None if consumers is None else _named(model, groups, consumers)
    tables = _describe(model, groups, kept, "project" if project else "scatter")
    narrow = {path: groups[path] for path, table in tables.items() if table.form != "whole"}
    for path, modules in narrow.items():
        if used_elsewhere(model, modules) and getattr(config, "tie_word_embeddings", False):
            config.tie_word_embeddings = False
        narrow_table(model, modules, kept[path], optimizers)
    if not narrow:
        warnings.warn("cut: every column of every table is kept; nothing was cut", NoEffectWarning, stacklevel=2)

    chosen, sources = _choose(model, narrow, named, kept, example_inputs)
    left = {name: left_columns(source, kept, chosen) for name, source in sources.items()}
    columns = {name: index for name, index in left.items() if len(index) < len(sources[name])}
    for name, index in columns.items():
        slice_linear(model.get_submodule(name), index, optimizers)
    for path, modules in narrow.items():
        if path in chosen:
            tables[path] = replace(tables[path], form="columns")
        finish_form(modules, tables[path].form)
        if tables[path].form == "project" and not modules[0].sparse:
            _add_projection(optimizers, modules[0])

    widths = {name: len(sources[name]) for name in columns}
    plan = PruningPlan(tables=tables, kept=kept, consumers=widths, columns=columns)
    plan.write_into(model)
    if is_distributed():
        model.register_forward_pre_hook(_refuse_stale_wrapper)
    if config is not None:
        config.tamis = {path: {"kept": len(kept[path]), "of": t.dim, "form": t.form} for path, t in tables.items()}
    return plan


def _refuse_stale_wrapper(model: nn.Module, args: Any) -> None:
    """Stop a `DistributedDataParallel` that was made before the cut: it would reduce tensors that are gone.

    Raises:
        RuntimeError: the wrapper that calls ``model`` does not know its present parameters.
    """
    wrapper: Any = nn.parallel.DistributedDataParallel._get_active_ddp_module()  # type: ignore[no-untyped-call]
    if wrapper is None or wrapper.module is not model:
        return
    known = {id(parameter) for parameter in wrapper._module_parameters}
    if any(parameter.requires_grad and id(parameter) not in known for parameter in model.parameters()):
        raise RuntimeError(
            f"{type(model).__name__} was cut after DistributedDataParallel wrapped it, so the processes would drift "
            "apart; wrap the cut model again (in a Trainer: tamis.callbacks.attach(trainer, pruner) does it)"
        )


def _check(model: nn.Module, kept: Mapping[str, Tensor]) -> tuple[dict[str, list[Any]], dict[str, Tensor]]:
    """Everything that could go wrong, before anything is changed.

    Returns:
        path -> the modules that share that table, and path -> kept columns on the CPU; tables named twice, once.
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
    embeddings = embedding_modules(model)
    if not kept:
        raise ValueError(f"kept={{}}: must name at least one table; the model has {', '.join(embeddings) or 'none'}")
    groups: dict[str, list[Any]] = {}
    indices: dict[str, Tensor] = {}
    owners: dict[int, str] = {}
    for path, index in kept.items():
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
        weight = embeddings[path].weight
        check_index(f"kept[{path!r}]", index, weight.shape[1])
        owner = owners.setdefault(id(weight), path)
        if owner != path:
            if not torch.equal(indices[owner], index.detach().cpu()):
                raise ValueError(f"kept[{path!r}]: shares its table with {owner!r}; both must keep the same columns")
            continue
        indices[path] = index.detach().cpu().clone()
        distinct = {id(module): module for module in embeddings.values() if module.weight is weight}
        groups[path] = sorted(distinct.values(), key=lambda module: module is not embeddings[path])
        for module in groups[path]:
            _check_forward(path, module, indices[path])
    return groups, indices


def _check_optimizers(
    model: nn.Module, optimizers: list[torch.optim.Optimizer], groups: dict[str, list[Any]], *, linears: bool
) -> None:
    """`check_state` for every weight that may lose columns."""
    weights = [modules[0].weight for modules in groups.values()]
    if linears:
        weights += [module.weight for module in model.modules() if type(module) is nn.Linear]
    check_state(optimizers, weights)


def _named(model: nn.Module, groups: dict[str, list[Any]], consumers: Mapping[str, list[str | int]]) -> Sources:
    """`named_sources`, with every table under the path that ``groups`` has it under."""
    embeddings = embedding_modules(model)
    owners = {id(modules[0].weight): path for path, modules in groups.items()}
    names = {path: owners.get(id(module.weight), path) for path, module in embeddings.items()}
    widths = {path: module.weight.shape[1] for path, module in embeddings.items()}
    sources = named_sources(model, consumers, widths)
    return {
        linear: [origin and (names[origin[0]], origin[1]) for origin in source] for linear, source in sources.items()
    }


def _describe(
    model: nn.Module, groups: dict[str, list[Any]], kept: Mapping[str, Tensor], form: str
) -> dict[str, TableCut]:
    """The tables as they are; ``form`` for those that lose columns."""
    paths = {id(module): path for path, module in reversed(embedding_modules(model).items())}
    tables = {}
    for path, modules in groups.items():
        rows, dim = modules[0].weight.shape
        tables[path] = TableCut(
            rows=rows,
            dim=dim,
            itemsize=modules[0].weight.element_size(),
            form="whole" if len(kept[path]) == dim else form,
            tied=tuple(paths[id(module)] for module in modules[1:]),
        )
    return tables


def _check_forward(path: str, module: Any, kept: Tensor) -> None:
    """A subclass with a forward of its own must give the kept columns of its rows when its table is narrow.

    Raises:
        TypeError: it does not, or it cannot be tried.
    """
    if type(module).forward in (nn.Embedding.forward, nn.EmbeddingBag.forward):
        return
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


def _choose(
    model: nn.Module,
    narrow: dict[str, list[Any]],
    named: Sources | None,
    kept: Mapping[str, Tensor],
    example_inputs: Any,
) -> tuple[set[str], Sources]:
    """The tables to cut by columns, and the linear layers that read them."""
    if example_inputs is None or not narrow:
        readable = {origin[0] for source in (named or {}).values() for origin in source if origin}
        return readable & narrow.keys(), named or {}
    try:
        sources = trace_sources(model, narrow, example_inputs) if named is None else named
        chosen = choose_columns(model, narrow, sources, kept, example_inputs)
    except Exception as error:  # the user's model on the user's inputs
        warnings.warn(
            f"example_inputs: the model does not run on them ({type(error).__name__}: {error}); no linear layer was "
            "cut, the tables keep their output width",
            stacklevel=3,
        )
        return set(), {}
    if named is not None:
        refused = {s[0] for source in named.values() for s in source if s} & narrow.keys() - chosen
        if refused:
            warnings.warn(
                f"consumers: on example_inputs the outputs change if {', '.join(sorted(refused))} lose columns (the "
                "table is read elsewhere too, or the order is another); they keep their output width",
                stacklevel=3,
            )
    return chosen, sources


def _add_projection(optimizers: list[torch.optim.Optimizer], table: Any) -> None:
    """A new trainable matrix goes to the group of its table."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if any(parameter is table.weight for parameter in group["params"]):
                group["params"].append(table.projection)
