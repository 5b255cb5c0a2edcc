"""Experience replay: in every step learn from remembered samples too, which are a uniform draw of all seen.

Chaudhry et al., On tiny episodic memories in continual learning, 2019; Rolnick et al., Experience replay for continual
learning, NeurIPS 2019.
"""

from __future__ import annotations

from cl.replay import ReplayedLoss


class ER(ReplayedLoss):
    """L = CE(new samples) + rho CE(samples drawn from the memory), which the reservoir keeps (`cl.replay.Replay`)."""
