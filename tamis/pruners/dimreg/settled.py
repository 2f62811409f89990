"""Whether DimReg's gates say clearly what to cut: how far each still reaches, and how large what would go is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tamis.core.errors import NotPolarisedError
from tamis.pruners.dimreg.config import DimRegConfig, ThesisConfig
from tamis.pruners.stats import weighted_moments
from tamis.pruners.surgery.gated import refuse_not_finite
from tamis.pruners.tables import Table

__all__ = ["gate_reach", "refuse_unsettled", "removed_and_kept"]

HALF_OPEN_ALLOWED = 0.01
REMOVED_ALLOWED = 10.0  # thresholds: with 0.001, a value that is cut may be 1 % of the largest that stays


def gate_reach(phi: Sequence[Tensor], tables: Sequence[Table]) -> Tensor:
    """What each gate lets through, whatever V's scale: phi x max(1, rms(V) / rms of the table's open columns), [n].

    The rms is weighted by lookups. A column that grew while its gate closed counts as more open than its phi.

    Args:
        phi: per table [d].
        tables: the tables, in the same order.
    """
    reach = []
    for gate, table in zip(phi, tables, strict=True):
        mean, covariance = weighted_moments(table.weight.detach(), table.lookups())
        rms = (mean.square() + covariance.diagonal()).clamp(min=0).sqrt().to(gate)
        open_ = gate >= 0.5
        usual = rms[open_].mean() if bool(open_.any()) else rms.mean()
        reach.append(gate * (rms / usual.clamp(min=1e-12)).clamp(min=1.0))
    return torch.cat(reach)


def refuse_unsettled(
    phi: Sequence[Tensor],
    tables: Sequence[Table],
    spent: float | None,
    config: DimRegConfig | ThesisConfig,
    progress: str,
) -> None:
    """Raise `NotPolarisedError` if what to cut is not decided yet, or the cut would take away large values.

    The first is judged by `gate_reach`. The second bounds what the outputs can change by: no closed value phi |V| may
    be more than `REMOVED_ALLOWED` x ``threshold`` times the largest that stays of the same table (of all tables, if
    it keeps none; the largest |V|, if nothing is kept), in any row, looked up or not.

    Args:
        phi: the gates, per table [d].
        tables: the tables, in the same order.
        spent: what the open gates cost, in budgets; None: there is no budget.
        config: the settings.
        progress: how far the training is, in words.

    Raises:
        FloatingPointError: a table holds NaN or infinity.
    """
    peaks, reach, flat = refuse_not_finite(tables), gate_reach(phi, tables), torch.cat(list(phi))
    half = int(((reach > config.threshold) & (flat < 0.5)).sum())
    if half > HALF_OPEN_ALLOWED * len(flat):
        what = f"{half} of {len(flat)} gates ({half / len(flat):.1%}) are half open, between threshold="
        what += f"{config.threshold:g} and 0.5; at most 1 % may be"
    elif spent is not None and spent > 1 + 1e-9:
        what = f"{int((flat >= 0.5).sum())} of {len(flat)} gates are open, the budget holds {spent:.2g} times less"
    else:
        removed, kept = removed_and_kept(phi, peaks)
        every = float(kept.max()) or max(float(peak.max()) for peak in peaks)
        share = removed / torch.where(kept > 0, kept, every).clamp(min=1e-12)
        worst = int(share.argmax())
        if float(share[worst]) <= REMOVED_ALLOWED * config.threshold:
            return
        what = f"the cut would remove a value of {float(removed[worst]):.2g} from table {tables[worst].field!r}, "
        what += f"{float(share[worst]):.2g} times the largest that stays, and at most {REMOVED_ALLOWED:g} x threshold="
        what += f"{config.threshold:g} may be"
    cure = "train longer, or raise gate_lr or strength"
    if isinstance(config, DimRegConfig):
        cure = (
            f"train to the end (this is {progress}; with load_best_model_at_end the best model may be an early one), "
            f"or lower decide_by={config.decide_by:g} or closing={config.closing:g}"
        )
    raise NotPolarisedError(
        f"DimReg.prune(): {what}, so nothing was cut. {cure}; or cut at 0.5 all the same: prune(force=True)"
    )


def removed_and_kept(phi: Sequence[Tensor], peaks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Largest phi |V| among each table's closed (phi < 0.5) and open dimensions, over all rows; 0 where it has none.

    Args:
        phi: per table [d].
        peaks: `refuse_not_finite`, per table [d].

    Returns:
        two float64 tensors, [tables].
    """
    sides = []
    for gate, peak in zip(phi, peaks, strict=True):
        value, open_ = gate.double() * peak.to(gate.device, torch.float64), gate >= 0.5
        sides.append(torch.stack([(value * ~open_).amax(), (value * open_).amax()]))
    removed, kept = torch.stack(sides).cpu().unbind(1)
    return removed, kept
