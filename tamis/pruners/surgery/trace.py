"""Find the linear layers that read tables' outputs column by column, and prove that cutting those columns is safe.

Finding: the tables' outputs are replaced by random markers, one number per (table, dimension); an input column of an
`nn.Linear` that carries exactly one marker, the same for every example and in several runs, is that table's
dimension. Whatever mixes, scales or normalises the embeddings on the way carries no marker.

Proving: a table that is read elsewhere too (an FM term, a dot interaction) still needs its width there. So the model
is run on the example inputs in both forms, and a table is only cut by columns if the outputs stay the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tamis.core.models import evaluating
from tamis.core.rng import torch_generator
from tamis.pruners.surgery.narrow import return_narrow, return_wide

__all__ = ["Sources", "choose_columns", "left_columns", "named_sources", "run_model", "trace_sources"]

# linear layer's path -> for each input column: (table's path, dimension), or None if it comes from elsewhere
Sources = dict[str, list[tuple[str, int] | None]]

_RUNS = 4  # markers of 16-bit models repeat within one run; four runs together do not


def run_model(model: nn.Module, inputs: Any) -> list[Tensor]:
    """The output tensors, in evaluation mode, without a graph; training flags and random state stay as they were.

    Args:
        model: on any device.
        inputs: a mapping of keywords, a tuple of arguments, or one argument.
    """
    devices = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    with torch.no_grad(), torch.random.fork_rng(devices=list(devices)), evaluating(model):
        if isinstance(inputs, Mapping):
            return _tensors(model(**inputs))
        return _tensors(model(*inputs) if isinstance(inputs, tuple) else model(inputs))


def trace_sources(model: nn.Module, tables: Mapping[str, list[Any]], inputs: Any) -> Sources:
    """The layers that read ``tables`` directly, found with markers.

    Args:
        model: its tables return rows of full width.
        tables: path -> the modules that share the table.
        inputs: as for `run_model`.

    Returns:
        Only layers with at least one column from a table.
    """
    names = {path: name for name, path in _plain_linears(model)}
    signatures: dict[int, list[list[list[float]]]] = {id(linear): [] for linear in names}
    codes: dict[tuple[str, int], list[float]] = {}
    for run in range(_RUNS):
        calls: dict[int, list[list[float]]] = {key: [] for key in signatures}
        with _hooks() as add:
            for number, (path, modules) in enumerate(tables.items()):
                weight = modules[0].weight
                marker = torch.randn(modules[0].embedding_dim, generator=torch_generator(run, number)).to(weight)
                for dim, value in enumerate(marker.tolist()):
                    codes.setdefault((path, dim), []).append(value)
                for module in modules:
                    add(module.register_forward_hook(_return_marker(marker)))
            for linear in names:
                add(linear.register_forward_pre_hook(_record_constants(calls[id(linear)])))
            run_model(model, inputs)
        for key, rows in calls.items():
            signatures[key].append(rows)
    origin = {tuple(code): source for source, code in codes.items()}
    found: Sources = {}
    for linear, name in names.items():
        source = _agreed(signatures[id(linear)], origin)
        if source is not None and any(source):
            found[name] = source
    return found


def named_sources(model: nn.Module, consumers: Mapping[str, list[str | int]], widths: Mapping[str, int]) -> Sources:
    """The same from the user's words: per linear layer its inputs in order, tables' paths and numbers of other columns.

    Args:
        model: holds the layers.
        consumers: e.g. ``{"mlp.0": ["embeddings.user", 13, "embeddings.item"]}``.
        widths: path -> width of every embedding table before the cut.

    Raises:
        ValueError: no such layer or table, or the widths do not add up to ``in_features``.
    """
    linears = dict(_plain_linears(model))
    found: Sources = {}
    for name, parts in consumers.items():
        if name not in linears:
            raise ValueError(
                f"consumers[{name!r}]: must be the path of an nn.Linear with a weight of its own; "
                f"the model has {', '.join(linears) or 'none'}"
            )
        source: list[tuple[str, int] | None] = []
        for part in parts:
            if isinstance(part, int):
                source += [None] * part
            elif part in widths:
                source += [(part, dim) for dim in range(widths[part])]
            else:
                raise ValueError(
                    f"consumers[{name!r}]: {part!r} is not an embedding table; the model has {', '.join(widths)}"
                )
        if len(source) != linears[name].in_features:
            raise ValueError(
                f"consumers[{name!r}]: the parts have {len(source)} columns in all, the layer has "
                f"in_features={linears[name].in_features}; an int stands for that many other columns"
            )
        found[name] = source
    return found


def choose_columns(
    model: nn.Module,
    tables: Mapping[str, list[Any]],
    sources: Sources,
    kept: Mapping[str, Tensor],
    inputs: Any,
) -> set[str]:
    """The tables that can be cut by columns: all that the layers read if that changes no output, else one by one.

    Args:
        model: left as it was found.
        tables: path -> its modules.
        sources: linear layer -> (table, dimension) of each of its inputs, where known.
        kept: path -> columns that remain, [k] int64.
        inputs: as for `run_model`.

    Returns:
        paths.
    """
    candidates = [path for path in tables if any(s and s[0] == path for source in sources.values() for s in source)]
    if not candidates:
        return set()
    reference = run_model(model, inputs)

    def safe(paths: set[str]) -> bool:
        with _tried(model, tables, sources, kept, paths):
            try:
                return _close(run_model(model, inputs), reference)
            except Exception:  # a shape that no longer fits raises whatever the model's author wrote
                return False

    if safe(set(candidates)):
        return set(candidates)
    chosen: set[str] = set()
    for path in candidates:
        if safe(chosen | {path}):
            chosen.add(path)
    return chosen


def left_columns(source: list[tuple[str, int] | None], kept: Mapping[str, Tensor], paths: set[str]) -> Tensor:
    """The input columns of a layer that are still fed when some tables are narrow.

    Args:
        source: (table, dimension) of each input of the layer, None where unknown.
        kept: path -> columns that remain, [k] int64.
        paths: the tables that are narrow.

    Returns:
        [c] int64, sorted.
    """
    alive = {(path, dim) for path in paths for dim in kept[path].tolist()}
    left = [i for i, origin in enumerate(source) if origin is None or origin[0] not in paths or origin in alive]
    return torch.tensor(left, dtype=torch.int64)


@contextmanager
def _tried(
    model: nn.Module,
    tables: Mapping[str, list[Any]],
    sources: Sources,
    kept: Mapping[str, Tensor],
    paths: set[str],
) -> Iterator[None]:
    """The model with ``paths`` cut by columns, for the time of a with-block."""
    modules = [(module, path) for path in paths for module in tables[path]]
    widths = {path: tables[path][0].embedding_dim for path in paths}
    before: list[tuple[Any, nn.Parameter]] = []
    for name, source in sources.items():
        linear: Any = model.get_submodule(name)
        before.append((linear, linear.weight))
        left = left_columns(source, kept, paths).to(linear.weight.device)
        linear.weight = nn.Parameter(linear.weight.detach().index_select(1, left))
        linear.in_features = len(left)
    for module, _ in modules:
        return_narrow(module)
    try:
        yield
    finally:
        for module, path in modules:
            return_wide(module, kept[path], widths[path])
        for linear, weight in before:
            linear.weight, linear.in_features = weight, weight.shape[1]


def _plain_linears(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    """Linear layers that can be sliced: exactly `nn.Linear` (not parametrised), their weight nobody else's."""
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    return [(n, m) for n, m in model.named_modules() if type(m) is nn.Linear and owners[id(m.weight)] == 1]


@contextmanager
def _hooks() -> Iterator[Callable[[Any], None]]:
    handles: list[Any] = []
    try:
        yield handles.append
    finally:
        for handle in handles:
            handle.remove()


def _return_marker(marker: Tensor) -> Callable[..., Tensor]:
    return lambda module, args, output: marker.to(output).expand_as(output).clone()


def _record_constants(calls: list[list[float]]) -> Callable[..., None]:
    """A hook that notes, per call, each input column's value if it is the same in every row, else NaN."""

    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        rows = args[0].reshape(-1, args[0].shape[-1])
        constant = (rows == rows[:1]).all(dim=0)
        calls.append(torch.where(constant, rows[0].double(), torch.nan).tolist())

    return hook


def _agreed(
    runs: list[list[list[float]]], origin: Mapping[tuple[float, ...], tuple[str, int]]
) -> list[tuple[str, int] | None] | None:
    """A layer's column origins if all its calls agree; ``runs``[r][call][column]. None: not called, or they do not."""
    per_call = [[origin.get(code) for code in zip(*columns, strict=True)] for columns in zip(*runs, strict=True)]
    return per_call[0] if per_call and all(source == per_call[0] for source in per_call) else None


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        output = list(output.values())
    return [tensor for item in output for tensor in _tensors(item)] if isinstance(output, (list, tuple)) else []


def _close(found: list[Tensor], wanted: list[Tensor]) -> bool:
    """Equal up to the rounding of a sum taken in another order: 16 units in the last place of the largest number."""
    if not wanted or [t.shape for t in found] != [t.shape for t in wanted]:
        return False
    for one, other in zip(found, wanted, strict=True):
        if not other.is_floating_point():
            if not torch.equal(one, other):
                return False
        elif other.numel():
            bound = 16 * torch.finfo(other.dtype).eps * max(1.0, float(other.abs().max()))
            if not float((one - other).abs().max()) <= bound:
                return False
    return True
