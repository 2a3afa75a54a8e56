"""Which method a cell uses: a search and its order of tests, or scores of every edge."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from pahq.config.frozen import Frozen

Focus = Literal["receiver", "sender", "both", "none"]
ROUND = 32  # tests
SCORING = ("eap", "eap-ig", "eap-ig-activations", "clean-corrupted", "exact")  # methods that score edges
STEPPED = ("eap-ig", "eap-ig-activations")  # of these: which average over a line of runs
FLAT = ("kl", "mse")  # metrics that compare with the clean run, where they are least and so their gradient is nought


class MethodConfig(Frozen):
    """A search, or a method that scores every edge (``SCORING``; see ``pahq.scores.gradients``).

    ``order`` and ``senders`` say in which order a search tests edges, which changes the circuit.
    ``order``: of the heads of a layer as senders. ``senders``: those of the nearest layer first, or of the farthest.
    ``arithmetic``: what is in low precision, the whole network (the paper's PAHQ) or the changes that a test makes;
    ``round`` then is after how many tests the full-precision state takes over what was removed. ``steps``: runs that
    integrated gradients average over. ``convention``: of scores, this project's or that of EAP-IG's own code.
    ``absolute``: whether the size of an effect or score counts, or its sign too.
    """

    name: Literal["acdc", "pahq", "rtn-q", "eap", "eap-ig", "eap-ig-activations", "clean-corrupted", "exact"]
    focus: Focus = "none"
    order: Literal["descending", "ascending"] = "descending"
    senders: Literal["nearest", "farthest"] = "nearest"
    direct_edges: bool = True
    absolute: bool = False
    arithmetic: Literal["network", "changes"] = "network"
    round: PositiveInt = ROUND
    steps: PositiveInt = 5
    convention: Literal["mean", "eap-ig"] = "mean"

    @property
    def scores(self) -> bool:
        """Whether the method gives every edge a number, of which a circuit is chosen, in place of a search."""
        return self.name in SCORING

    @property
    def focuses(self) -> tuple[str, ...]:
        """What the method may keep in full precision while it looks at an edge."""
        if self.name == "pahq":
            return ("receiver", "sender", "both")
        return ("none", "receiver") if self.scores else ("none",)

    @property
    def label(self) -> str:
        """The method's name in tables, figures and folders: of ``conf/method``."""
        return self.name if self.arithmetic == "network" else f"{self.name}-changes"
