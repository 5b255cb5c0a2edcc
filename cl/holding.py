"""What is shared by the methods that hold weights near their old values by a quadratic penalty."""

from __future__ import annotations

from cl.knob import knob, shrink
from cl.method import ALL, Method
from cl.ops import Quadratic, Tensors, quadratic


class Holding(Method):
    """L = CE + lambda sum_k Omega_k (theta_k - theta*_k)^2. A subclass says what Omega and theta* are.

    De Lange et al. 2021, section 4: there is no factor 1/2.
    """

    needs_shared_layers = True
    scenarios = ALL

    strength: float = knob(400.0, decay=shrink, range=(0, 1e12), help="lambda")

    def held(self) -> tuple[Tensors, Tensors] | None:
        """(theta*, Omega), each by the names of the shared parameters; None while there is no old task."""
        raise NotImplementedError

    @property
    def weight(self) -> float:
        """What the sum is multiplied by."""
        return self.strength

    def penalty(self) -> Quadratic | None:
        """lambda sum_k Omega_k (theta_k - theta*_k)^2."""
        held = self.held()
        if held is None or self.weight == 0:
            return None
        anchor, omega = held
        return self.weight * quadratic(self.shared, anchor, omega)

    def stiffness(self) -> float:
        """lambda max_k Omega_k."""
        held = self.held()
        return 0.0 if held is None else self.weight * max(float(omega.max()) for omega in held[1].values())
