"""DNIS: soft widths per block of rows, learned on validation batches, then a cut at a target share.

W. Cheng, Y. Shen, L. Huang, "Differentiable Neural Input Search for Recommender Systems", arXiv:2006.04466 (AutoSrh).
What is new there: rows are sorted by frequency into blocks, each block's columns get factors alpha in [0, 1], and
alpha descends the *validation* loss while the weights descend the training loss.

=================  ==============================  ==============================================================
paper              here                            what
=================  ==============================  ==============================================================
E                  ``Table.weight``                [n, K], one table a field
alpha              ``BlockGate.alpha``             [L, K] float32, starts at 1, clipped to [0, 1]
L                  ``blocks``                      number of blocks; rows are sorted by training frequency
l(i)               ``BlockGate.block``             [n] integers, the block of each row, 0 the most frequent
e~_i, Eq. (4)      `BlockGate.forward`             e_i x alpha[l(i)]
g_norm, Eq. (8)    `normalised`                    g / (mean |g| over the block's K + eps)
xi, Eq. (6)        ``xi``                          size of the look-ahead step; 0: first order
E~', Eq. (9)       `DNIS.select`                   what remains of the merged tables
=================  ==============================  ==============================================================

Deviations:

* Eq. (7) multiplies the mixed derivative by the gradient of alpha, whose shape does not fit; it must be that of the
  weights, as in DARTS (`validation_gradient`).
* Blocks are sorted within each table, not over all: a field keeps its own alpha.
* ``structured`` (ours, the default): whole columns per block remain, ranked by their worth per byte. The paper's
  threshold on single values is ``structured=False``; it saves bytes only beyond its index.
* ``rank="contribution"`` (ours, the default): worth is (value x slope of the validation loss)^2, which knows how often
  a row is looked up. The paper ranks by magnitude.
* ``axes`` (ours, the default): tables that meet in dot products only are turned to their principal axes (`axes`).
* The cut is decided at ``decide_by`` of the training and what goes is held at zero from there on, so that the rest of
  the training adapts to it (ours). The paper cuts at the end (``decide_by=1``) and, above 98 %, trains again.
* The first ``warm_up`` of the training has no alpha, as in the authors' code; frequencies are counted then.
* A block that a batch does not touch keeps its alpha: its normalised gradient would be noise divided by eps.
* alpha moves by plain descent of the normalised gradient, as in the authors' code (the text says Adam, which would
  move untouched blocks too).
* The report holds a control: what alpha becomes if the signs of its gradients are drawn at random (`flipped`).
  Normalised noise clipped at 1 drifts to 0.5 by itself, so that a small alpha alone says nothing.

Unstated in the text: the order of normalisation and the second-order term (here the sum is normalised), whether
validation batches run in training mode (here: not), ties of frequency (here: by number).
"""

from tamis.pruners.dnis.config import DNISConfig
from tamis.pruners.dnis.gate import BlockGate
from tamis.pruners.dnis.pruner import DNIS

__all__ = ["DNIS", "BlockGate", "DNISConfig"]
