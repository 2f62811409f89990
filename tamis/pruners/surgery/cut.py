"""The physical cut: tables lose columns, blocks or values; the model computes what it computed with zeros there.

Of a table whose every row keeps the same columns there are three forms, of which `cut` chooses:

* ``columns``: the table becomes narrow, and the linear layers behind it lose the matching inputs. Smaller and faster.
* ``scatter``: the table becomes a `NarrowEmbedding`, which puts zeros back on the way out. Exact
  wherever the model needs equal widths (FM, dot interaction, a transformer's hidden size). Smaller, not faster.
* ``project``: as ``scatter``, but by a trainable matrix per table that starts as the same map (the paper's form).

``columns`` is chosen only where the user names the layers or where they are found with ``example_inputs`` and a run
shows that the outputs stay the same (`trace`); everything else gets ``scatter``. A `Selection` of blocks or of single
values gets the form of that name, which puts zeros back too.

Tables are what an embedding's weight is: modules that share one (tied embeddings) are cut together. Any other module
that shares it (a tied output head) keeps the full tensor; `transformers` configs are then told that the head is no
longer tied.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tamis.core.distributed import is_distributed
from tamis.core.errors import NoEffectWarning
from tamis.core.types import Batch, OptimizerLike
from tamis.pruners.selection import Selection, as_selection
from tamis.pruners.surgery.checks import check_model, check_optimizers, group_tables
from tamis.pruners.surgery.held import held_in_lists, warn_of_old
from tamis.pruners.surgery.narrow import embedding_modules
from tamis.pruners.surgery.perform import finish, narrow_tables
from tamis.pruners.surgery.plan import PruningPlan, TableCut, selection_fields
from tamis.pruners.surgery.trace import Sources, choose_columns, left_columns, named_sources, trace_sources
from tamis.pruners.surgery.transplant import unwrap_optimizers

__all__ = ["Cut", "cut", "prepare_cut"]


def cut(
    model: nn.Module,
    kept: Mapping[str, Tensor | Selection],
    *,
    consumers: Mapping[str, list[str | int]] | None = None,
    example_inputs: Batch | None = None,
    optimizer: OptimizerLike | None = None,
    project: bool = False,
) -> PruningPlan:
    """Make ``model`` physically smaller, in place.

    Afterwards it computes what it computed before with the cut values set to zero. The plan is also stored inside
    the model (a small buffer, ``tamis_plan``), so that `load_pruned` can read back whatever saved its weights.

    Args:
        model: any module with `nn.Embedding` or `nn.EmbeddingBag` tables. Not wrapped for data-parallel training:
            cut on every process with the same ``kept``, then wrap.
        kept: module path of a table -> what remains of it: [k] int64, sorted, the columns (k = 0 is allowed), or a
            `Selection` of blocks or values.
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
        NoEffectWarning: every value of every table was kept.
        UserWarning: ``example_inputs`` do not run, or contradict ``consumers``; those tables got ``scatter``. Or a list
            of the model's own still holds parameters that were replaced.
    """
    return prepare_cut(model, kept, consumers=consumers, optimizer=optimizer, project=project).run(example_inputs)


@dataclass
class Cut:
    """A cut that was checked and can be run.

    Attributes:
        model: to be cut in place.
        groups: path -> the modules that share that table.
        selections: path -> what remains.
        tables: path -> the table before the cut and the form that it will have.
        named: the layers that read the tables, if the user named them.
        optimizers: whose state is cut too.
    """

    model: nn.Module
    groups: dict[str, list[Any]]
    selections: dict[str, Selection]
    tables: dict[str, TableCut]
    named: Sources | None
    optimizers: list[torch.optim.Optimizer]

    def run(self, example_inputs: Batch | None) -> PruningPlan:
        """Cut the model; see `cut`."""
        model, tables = self.model, self.tables
        narrow = {path: self.groups[path] for path, table in tables.items() if table.form != "whole"}
        held = held_in_lists(model)
        config: Any = getattr(model, "config", None) if hasattr(model, "save_pretrained") else None
        narrow_tables(model, narrow, self.selections, self.optimizers)
        if not narrow:
            warnings.warn("cut: every column of every table is kept; nothing was cut", NoEffectWarning, stacklevel=3)
        readable = {path: modules for path, modules in narrow.items() if tables[path].form in ("scatter", "project")}
        kept = {path: self.selections[path].parts[0].columns for path in readable}
        chosen, sources = _choose(model, readable, self.named, kept, example_inputs)
        for path in chosen:
            tables[path] = replace(tables[path], form="columns")
        left = {name: left_columns(source, kept, chosen) for name, source in sources.items()}
        columns = {name: index for name, index in left.items() if len(index) < len(sources[name])}
        finish(model, narrow, {path: tables[path].form for path in narrow}, columns, self.optimizers)
        warn_of_old(model, held)
        widths = {name: len(sources[name]) for name in columns}
        fields: Any = selection_fields(self.selections, tables)
        plan = PruningPlan(tables=tables, consumers=widths, columns=columns, **fields)
        plan.write_into(model)
        if is_distributed():
            model.register_forward_pre_hook(_refuse_stale_wrapper)
        if config is not None:
            config.tamis = {
                path: {"kept": len(plan.kept[path]), "of": t.dim, "form": t.form} for path, t in tables.items()
            }
        return plan


def prepare_cut(
    model: nn.Module,
    kept: Mapping[str, Tensor | Selection],
    *,
    consumers: Mapping[str, list[str | int]] | None = None,
    optimizer: OptimizerLike | None = None,
    project: bool = False,
) -> Cut:
    """Check everything that could go wrong in `cut`; nothing is changed.

    Args:
        model: as for `cut`, and so are the others.
        kept: table -> what remains.
        consumers: linear layer -> what it reads.
        optimizer: whose state goes with the parameters.
        project: cut layers behind the tables by projection.

    Raises:
        TypeError, ValueError: as `cut`.
    """
    optimizers = unwrap_optimizers(optimizer)
    check_model(model)
    selections = {path: as_selection(f"kept[{path!r}]", what) for path, what in kept.items()}
    groups, selections = group_tables(model, selections)
    check_optimizers(model, optimizers, groups, selections)
    named = None if consumers is None else _named(model, groups, consumers)
    tables = _describe(model, groups, selections, "project" if project else "scatter")
    return Cut(model, groups, selections, tables, named, optimizers)


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
    model: nn.Module, groups: dict[str, list[Any]], selections: Mapping[str, Selection], form: str
) -> dict[str, TableCut]:
    """The tables as they are; ``form`` for those that lose columns."""
    paths = {id(module): path for path, module in reversed(embedding_modules(model).items())}
    tables = {}
    for path, modules in groups.items():
        rows, dim = modules[0].weight.shape
        found = selections[path].form
        whole = selections[path].is_whole(rows, dim)
        tables[path] = TableCut(
            rows=rows,
            dim=dim,
            itemsize=modules[0].weight.element_size(),
            form="whole" if whole else form if found == "columns" else found,
            tied=tuple(paths[id(module)] for module in modules[1:]),
        )
    return tables


def _choose(
    model: nn.Module,
    narrow: dict[str, list[Any]],
    named: Sources | None,
    kept: Mapping[str, Tensor],
    example_inputs: Batch | None,
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
            stacklevel=4,
        )
        return set(), {}
    if named is not None:
        refused = {s[0] for source in named.values() for s in source if s} & narrow.keys() - chosen
        if refused:
            warnings.warn(
                f"consumers: on example_inputs the outputs change if {', '.join(sorted(refused))} lose columns (the "
                "table is read elsewhere too, or the order is another); they keep their output width",
                stacklevel=4,
            )
    return chosen, sources
