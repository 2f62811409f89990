"""DimReg: embedding dimensions are pruned by polarised gates while the model trains, without a second training.

"Embedding Dimension Pruning", chapter 6 of the thesis "Automated Data Engineering" (Algorithm 5). What is new there:
gates on single embedding dimensions are polarised over all fields together, and once more within pairs of
dimensions that carry the same information. Polarisation: Zhuang et al., "Neuron-level Structured Pruning using
Polarization Regularizer", NeurIPS 2020.

=================  ===========================  =================================================
paper              here                         what
=================  ===========================  =================================================
V_i                ``Table.weight``             [rows, d], one table per field i
alpha_ij           ``ColumnGate.logits``        [d] float32
phi_ij             `DimReg.gates`               sigmoid(alpha), in (0, 1); [n] over all tables
lambda             ``strength``                 weight of both penalties
t                  ``temperature``              share of L1 in the polarisation, Eq. (6.6)
beta               ``pair_share``               share of pairs called redundant, Eq. (6.10)
l                  ``refresh_every``            steps between two searches for pairs
gamma              ``threshold``                a gate below it is closed
V                  ``Rule.pairs``               [2, p] int64, the redundant pairs
=================  ===========================  =================================================

Deviations (`ThesisConfig` has none of the first four):

* The split. About the mean of the gates, descent prunes everything or half, whatever t in Eq. (6.7) says. Here it lies
  where the budget is met: all open for 30 % of the training, then down to the target at once, then fixed.
* The budget counts bytes (``size``); the text's share of (table, dimension) pairs is ``keep``.
* A table keeps at most as many dimensions as it has rows, its rank.
* What is ranked, per unit of the budget, is not phi, whose scale V can undo, but a running mean of (dL/dphi x phi)^2,
  the diagonal Fisher estimate of what closing the gate costs. It is summed per table and dealt out by the table's
  spectrum (`spectral_score`): a table that uses few directions keeps few dimensions.
* Gates move by mirror descent (`mirror_step`), so that one closes in a known number of steps.
* Redundancy enters the ranking within a table (`redundancy_discount`): in the penalty it would fight the split.
* Eq. (6.7) is the share kept, not the share pruned (`kept_share`).
* Pairs have their own temperature in (-1, 1): at the published t > 1, Eq. (6.11) closes both gates.
* |Pearson| is weighted by lookups, between open dimensions only, and tables below ``min_rows`` rows are left out:
  with 2 rows every |rho| is 1. Of a table with more than 65,536 rows so many are drawn, in proportion to lookups.
* A closed gate is judged by phi x rms(V), relative to its table's open columns, not by phi alone.

Unstated in the text: start, optimizer and learning rate of alpha, weight decay, a minimum per field (here none).
"""

from tamis.pruners.dimreg.config import DimRegConfig, ThesisConfig
from tamis.pruners.dimreg.pruner import DimReg

__all__ = ["DimReg", "DimRegConfig", "ThesisConfig"]
