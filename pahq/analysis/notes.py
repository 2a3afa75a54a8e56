"""What a reader must know of the tables: of every row, and of single tables, below whose captions it stands."""

from __future__ import annotations

OF_ROWS = """\
- **A row** is a method at a format of numbers. *acdc* searches in full precision; *pahq* rounds attention weights to
  the format, except those of the head whose edges are tested just then (the head in focus); *rtn-q* rounds all of them.
  *Variant* says which settings set the row apart from the plain one, as one types them:
  `precision.rounding=calibrated` chooses the rounded values by what they do to outputs, `audit=band` decides tests near
  the threshold again in full precision. *Threshold*: an edge is removed where that adds less than this to the loss.
- **Network or changes.** *pahq* rounds the network, so that every effect, however small, carries the error of the whole
  rounded network. *pahq-changes* (in figures: *changes*) keeps the state of the search in full precision and sends only
  what a test changes through products in the format, so that the error of an effect is in proportion to the effect.
- **Agreement is not truth.** Where no circuit was published for a task's model, a method is held against
  what full-precision ACDC found at the same threshold. A Jaccard index says something only above what two
  random circuits of the same sizes reach (*by chance*).
- **ACDC by construction.** A row whose formats are all float32 is ACDC under another name: its agreement
  is no finding.
"""

OF_TABLES = {  # by the table's name
    "auc": """\
- **Two areas.** *Steps* is ACDC's own, pessimistic area; *trapezoid* joins the same points by straight
  lines. They differ a lot where a sweep has few points. An area that rests on fewer than three distinct
  interior points has the note *few points*: read the circuits, not the area.
- **Rounding hardly changes this model.** The loss by rounding alone is below a hundredth of the smallest threshold,
  so agreement with ACDC was to be expected and says nothing for the method. Searches whose state is in full precision
  (*changes*) and audited ones have no such loss to look at, so nothing is said of them. Tracr's attention weights,
  for one, are 0, 1, 50 and 100, which every format holds almost exactly.
- **An area against a hand-made circuit is a weak claim alone.** Read it beside KL, the task's metric and
  faithfulness on fresh prompts. Faithfulness is (circuit - empty) / (full - empty) of the task's metric,
  on the full-precision model; it can leave [0, 1]. Tracr outputs are no logits: there the mean squared error
  stands in for KL.
- **The papers' numbers** stand in their own column with their source, on the rows that they belong to.
  Their areas are steps against the published circuit with corrupted activations, mostly on other models:
  compare the order and the gaps, not the values. ACDC paper: Conmy et al. 2023, arXiv 2304.14997. PAHQ
  paper: arXiv 2510.23264. What is not known to be printed there is "not published here".
""",
    "grids": """\
- **A grid's area is that grid's.** A series may hold the thresholds of several grids; the first table's areas are over
  all of them, *areas by grid* over one grid each. ACDC's sweeps and the PAHQ authors' are different grids, so their
  areas are different numbers even for one method.
""",
    "circuits": """\
- **SmolLM2's weights come from 4 bits**, in groups of 32 with a scale and a smallest value each: what is searched is
  that rounded model. Rounding it again to asymmetric int4 in the same groups changes nothing, so that row is left
  out; every other format rounds numbers that were rounded once before.
""",
    "stability": """\
- **A circuit is a finding about its prompts.** Where circuits of resampled prompts share fewer edges with each other
  than two methods do, the difference between the methods is below what the choice of prompts decides. Edges kept
  on all resamples are the firm part of a circuit; *edges in any* is what some draw of the prompts would have shown.
""",
    "faithfulness": """\
- **CMD before CPR.** Both rank edges by the effect that they had when tested. CMD is the area between
  faithfulness over the fraction of edges and 1 (0 is best), CPR the area under it (large circuits dominate it, and
  it has no upper bound); MIB's sizes, Mueller et al. 2025. Between .1% and 5% of the edges the distance to 1 is
  averaged apart: these are the sizes of a circuit.
- **A test's p-value speaks for or against.** Equivalence, independence and minimality (Shi et al. 2024) are passed
  where the null hypothesis stands, so with few prompts they pass easily; sufficiency and partial necessity where the
  circuit beats 90% of random circuits of its size. Tables show the share of a series' circuits that passed.
""",
    "cost": """\
- **Seconds do not show what low bits do for speed.** Low formats are stored in their bits and unpacked before every
  product, and the models are tiny: a low format can only cost time. Seconds are those of the tests alone, on the
  device named. `docs/speed.md` has larger shapes, on an NVIDIA H200 too.
- **Peak memory hardly falls with the format here.** Weights are packed, but a tiny model's are a small part of the
  peak; `benchmarks/memory.py` measures larger shapes. A peak counts from what the
  process held when the cell began, and the first cell of a process pays for what the libraries take on first use,
  whatever its format: only sweeps that ran in processes of their own compare.
""",
    "audit": """\
- **Audits.** With *audit=band* tests near the threshold are measured again in full precision and decided by that. *Bits
  used* counts both measurements: where it is above 1 the audit cost more bits than ACDC itself. *Could differ* is what
  the tests drawn outside the band can bound; few are drawn in a short search, so that it is large there anyway.
""",
    "scheduler": """\
- **Scheduler on and off**, an ablation of the PAHQ paper, is about streams of a GPU. On a CPU a thread reads the next
  head's weights ahead of time, which can gain no more than that reading takes. On one NVIDIA H200 searches of random
  models took 15 to 18% longer without it, which is within the spread of equal runs (`docs/speed.md`).
""",
}
