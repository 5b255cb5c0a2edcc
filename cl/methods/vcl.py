"""Variational continual learning: what one task's data say of the weights is the prior of the next task.

Nguyen et al., Variational continual learning, ICLR 2018; with the local reparameterisation of Swaroop et al., Improving
and understanding variational continual learning, 2019.
"""

from __future__ import annotations

from cl.variational import Variational


class VCL(Variational):
    """Without a coreset: no sample is kept."""
