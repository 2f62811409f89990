"""Lookups in quantised tables against the same tables in float32: narrow, with zeros put back, in blocks, full.

All contenders of a figure take turns in every round; ``time_ratio`` is the median over rounds of CPU time against
float32, on one thread, ``lookups_per_second`` counts table rows. ``python -m benchmarks.quantize_speed`` (about two
minutes) writes ``results/quantize_speed.json``. Tables and ids that stay in
the cache (the small tables of the net, Zipf ids) have nothing to gain.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import tamis
from benchmarks.dimreg_speed import Net, batch_of, field_sizes, race
from tamis.pruners import Selection, cut, quantize_embeddings

TARGET = Path(__file__).parent / "results" / "quantize_speed.json"
TYPES = (None, "int8", "int4", "int2")
LOOKUPS = 80_000


def stored_as(build: Callable[[], nn.Module], stored: str | None) -> nn.Module:
    """A fresh model, quantised or not, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251
        model = build()
    if stored:
        quantize_embeddings(model, stored)
    return model.eval()


def one_table(rows: int, width: int, kept: int, form: str) -> nn.Module:
    """A table [rows, width] cut to ``kept`` columns (``columns``: built narrow), or four blocks of rows."""
    model = nn.ModuleDict({"table": nn.Embedding(rows, kept if form == "columns" else width)})
    if form == "zeros put back":
        cut(model, {"table": torch.arange(kept) * (width // kept)})
    elif form == "blocks":
        columns = torch.arange(width)[None] < torch.tensor([32, 16, 8, 4])[:, None]
        cut(model, {"table": Selection.blocks(torch.arange(rows) % 4, columns)})
    return model


def race_types(build: Callable[[], nn.Module], ids: Tensor, rounds: int, lookups: int) -> dict[str, Any]:
    """Per type that the table gets smaller by: time, ratio to float32, rows looked up per second."""
    models = {stored or "float32": stored_as(build, stored) for stored in TYPES}

    def look(model: Any) -> Callable[[], Any]:
        if "table" in model._modules:
            return lambda: model["table"](ids)
        columns = ids.unbind(1)
        return lambda: [table(column) for table, column in zip(model.tables, columns, strict=True)]

    with torch.no_grad():
        figures = race({name: look(model) for name, model in models.items()}, rounds, "float32")
    for figure in figures.values():
        figure["lookups_per_second"] = round(lookups / figure["ms"] * 1e3)
        figure["times_float32"] = round(1 / figure["time_ratio"], 2)
    return figures


def pruned_net(sizes: list[int]) -> nn.Module:
    """22 tables of 32 columns, of which 4 to 8 are kept and read by the first linear layer."""
    model = Net(sizes, 32, sparse=False)
    kept = {f"tables.{number}": torch.arange(4 + 2 * (number % 3)) for number in range(len(sizes))}
    cut(model, kept, consumers={"mlp.0": list(kept)})
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=TARGET)
    args = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, args.rows, (LOOKUPS,), generator=generator)
    figures: dict[str, Any] = {}

    def save() -> None:
        result = {
            "benchmark": "quantize_speed",
            "seed": 0,
            "data": f"synthetic: uniform ids, random tables of {args.rows:,} rows",
            "budget": {"rounds": args.rounds, "threads": 1, "clock": "CPU time", "lookups": LOOKUPS},
            "versions": {"tamis": tamis.__version__, "torch": torch.__version__},
            "figures": figures,
        }
        args.out.write_text(json.dumps(result, indent=1) + "\n")

    cases = [("columns", 4), ("columns", 8), ("columns", 16), ("columns", 32)]
    cases += [("zeros put back", 4), ("zeros put back", 8), ("blocks", 0)]
    for form, kept in cases:
        name = f"one table, {kept} of 32 columns, {form}" if kept else "one table, blocks of 4 to 32 columns"
        figures[name] = race_types(lambda: one_table(args.rows, 32, kept, form), ids, args.rounds, LOOKUPS)  # noqa: B023
        print(name, {key: value["times_float32"] for key, value in figures[name].items()}, flush=True)
        save()
    sizes = field_sizes(22, args.rows)
    batch = batch_of(sizes, 4096, 0)
    zipf = batch_of(sizes, 4096, 0)
    uniform = torch.stack([torch.randint(0, size, (4096,), generator=generator) for size in sizes], dim=1)
    for word, batch in {"Zipf": zipf, "uniform": uniform}.items():
        name = f"a net of 22 tables, 4 to 8 of 32 columns, its lookups, {word} ids, batch 4,096"
        figures[name] = race_types(lambda: pruned_net(sizes), batch, args.rounds, batch.numel())
        print(name, {key: value["times_float32"] for key, value in figures[name].items()}, flush=True)
        save()


if __name__ == "__main__":
    main()
