"""Gradient-based sample selection: experience replay of the samples whose gradients point farthest apart.

Aljundi et al., Gradient based sample selection for online continual learning, NeurIPS 2019.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, vmap

from cl.gpu import sent
from cl.knob import knob
from cl.memory import picked, placed
from cl.ops import CHUNK_BYTES, Tensors
from cl.replay import ReplayedLoss, Rows

FIRST_SCORE = 1.1
"""Score of a sample that finds the memory empty: a cosine of 0.1, as in the authors' code."""
LEAST_SCORE = 1e-9
"""Where all scores are 0, all samples are equally likely to give way."""
ENUMERABLE = 10**6
"""All choices of the integer programme are tried if that takes no more than this many numbers."""
IMPROVEMENT = 1e-9
"""Least gain of a swap in the objective: a smaller one may be rounding, and swapping could go on for ever."""
SCORE_BYTES = 4


class GSS(ReplayedLoss):
    """L = CE(new samples) + rho CE(samples of the memory); what is kept makes sum_ij cos(g_i, g_j) small.

    g_i is the gradient of a sample's cross-entropy with respect to all parameters, heads included, in evaluation mode.
    """

    rule: str = knob("greedy", choices=("greedy", "integer-programme"), help="one by one, or the best of all together")
    memory_budget: int = knob(200, range=(0, 1e9), help="samples kept over all tasks together")
    subsets: int = knob(3, range=(1, 1e6), help="greedy: n, draws from the memory that a new sample is compared with")
    subset_size: int = knob(10, range=(1, 1e6), help="greedy: samples in such a draw, whose mean gradient counts")
    together: int = knob(10, range=(1, 1e6), help="greedy: new samples that are compared with the same draws")
    recent: int = knob(100, range=(1, 1e9), help="integer-programme: places it makes free in a full memory")

    def sample_bytes(self, pixels: int, classes: int) -> int:
        """An image, its label and its task, and in the greedy version its score."""
        return super().sample_bytes(pixels, classes) + (SCORE_BYTES if self.rule == "greedy" else 0)

    def remember(self, rows: Mapping[str, Tensor]) -> None:
        """Offer samples to the memory, one after the other; in the first epoch alone."""
        if self.epoch > 0 or self.memory_budget == 0:
            return
        offer = self._offer_greedily if self.rule == "greedy" else self._offer_to_programme
        count = len(rows["y"])
        done = 0
        while done < count:
            done += offer({name: tensor[done:] for name, tensor in rows.items()})
        self.seen_ += count

    def _offer_greedily(self, rows: Rows) -> int:
        """Offer some of the rows, each of which may take the place of one kept; how many were offered."""
        count = min(len(rows["y"]), self.together) if self.memory_ is not None else 1
        new = {name: tensor[:count] for name, tensor in rows.items()}
        scores = torch.tensor([FIRST_SCORE])
        if self.memory_ is not None:
            scores = score(self._gradients(new, 1), self._compared(self.memory_)).cpu()
        old = self.memory_["score"] if self.memory_ is not None else scores[:0]
        slots = admitted(old, scores, self.memory_budget, self.rng("selection"))
        self.memory_ = placed(self.memory_, {**new, "score": scores}, slots)
        return count

    def _compared(self, memory: Rows) -> Tensor:
        """Unit gradients (n, P) of the mean loss of disjoint draws from the memory; fewer of one not yet large."""
        held = len(memory["y"])
        size = min(self.subset_size, held)
        chosen = torch.randperm(held, generator=self.rng("comparison"))[: size * min(self.subsets, held // size)]
        return self._gradients(_picked(memory, chosen), size)

    def _offer_to_programme(self, rows: Rows) -> int:
        """Keep the rows while there is room; make some by keeping the most diverse of a full memory."""
        held = len(self.memory_["y"]) if self.memory_ is not None else 0
        if self.memory_ is not None and held == self.memory_budget:
            held -= min(self.recent, max(1, self.memory_budget // 2))
            self.memory_ = _picked(self.memory_, most_diverse(self._cosines(self.memory_), held))
        count = min(len(rows["y"]), self.memory_budget - held)
        new = {name: tensor[:count] for name, tensor in rows.items()}
        self.memory_ = placed(self.memory_, new, torch.arange(held, held + count))
        return count

    def _cosines(self, rows: Rows) -> Tensor:
        """Of the gradients of all rows with one another, (K, K) float64, block by block."""
        size = max(1, CHUNK_BYTES // sum(p.numel() * p.element_size() for p in self.net.parameters()))
        parts = torch.arange(len(rows["y"])).split(size)
        cosines = torch.empty(len(rows["y"]), len(rows["y"]), dtype=torch.float64)
        for number, part in enumerate(parts):
            left = self._gradients(_picked(rows, part), 1)
            for other in parts[number:]:
                right = left if other is part else self._gradients(_picked(rows, other), 1)
                block = _cosine(left, right).double().cpu()
                cosines[part.unsqueeze(1), other] = block
                cosines[other.unsqueeze(1), part] = block.T
        return cosines

    @torch.no_grad()
    def _gradients(self, rows: Rows, size: int) -> Tensor:
        """Of the mean loss of each `size` rows in turn, by all parameters, scaled to length 1: (rows / size, P).

        Of the images as they are stored; the network and its gradients stay as they are.
        """
        net = self.net
        x = self.data.train.normalise(rows["images"])
        t = sent(rows["t"], x.device)
        columns = net.label(sent(rows["y"], x.device), t)

        def loss(parameters: Tensors, x: Tensor, columns: Tensor, t: Tensor) -> Tensor:
            return F.cross_entropy(functional_call(net, parameters, (x, net.scope(t))), columns)

        parameters = {name: p.detach() for name, p in net.named_parameters() if p.requires_grad}
        groups = [tensor.unflatten(0, (-1, size)) for tensor in (x, columns, t)]
        with net.at_rest():
            if size == 1:
                gradients = vmap(grad(loss), in_dims=(None, 0, 0, 0))(parameters, *groups)
            else:  # so few that one after the other is as fast
                each = [grad(loss)(parameters, *group) for group in zip(*groups, strict=True)]
                gradients = {name: torch.stack([one[name] for one in each]) for name in parameters}
        return F.normalize(torch.cat([g.flatten(1) for g in gradients.values()], 1), dim=1)


def _picked(rows: Rows, chosen: Tensor) -> Rows:
    return {name: picked(tensor, chosen) for name, tensor in rows.items()}


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Of unit gradients (N, P) and (M, P): (N, M); 1, the least welcome, where one is not finite."""
    return (a @ b.T).nan_to_num(nan=1.0).clamp(-1, 1)


def score(new: Tensor, kept: Tensor) -> Tensor:
    """c = 1 + max_j cos(g, G_j), in [0, 2], of unit gradients (N, P) against others (n, P): (N,)."""
    return 1 + _cosine(new, kept).amax(1)


def admitted(kept: Tensor, new: Tensor, capacity: int, draw: torch.Generator) -> Tensor:
    """The place (N,) of each new sample, or -1 for none; `kept` (K,) and `new` (N,) are the scores C and c.

    Samples are offered one after the other. While there is room each gets a place. After that a sample with c < 1 (no
    cosine above 0) meets the stored sample i with chance C_i / sum C, and takes its place and score with chance
    C_i / (C_i + c) (algorithm 2).
    """
    scores = torch.cat([kept, new.new_empty(max(0, min(capacity - len(kept), len(new))))])
    held = len(kept)
    slots = []
    for c in new.tolist():
        slot = -1
        if held < capacity:
            slot, held = held, held + 1
        elif c < 1:
            weights = scores.clamp(min=LEAST_SCORE)
            met = int(torch.multinomial(weights, 1, generator=draw))
            chance = float(weights[met]) / (float(weights[met]) + c)
            slot = met if float(torch.rand(1, generator=draw)) < chance else -1
        if slot >= 0:
            scores[slot] = c
        slots.append(slot)
    return torch.tensor(slots, dtype=torch.int64)


def most_diverse(cosines: Tensor, count: int) -> Tensor:
    """Which `count` of K samples to keep: min 1/2 X'GX, 1'X = count, X in {0, 1}; indices, ascending.

    Exact where there are few choices. Otherwise samples go one by one, always the one that adds most. Then kept ones
    are swapped for others, always by the swap that gains most, until none gains.
    """
    total = len(cosines)
    if math.comb(total, count) * count**2 <= ENUMERABLE:
        choices = torch.tensor(list(itertools.combinations(range(total), count)), dtype=torch.int64)
        return choices[int(cosines[choices.unsqueeze(2), choices.unsqueeze(1)].sum((1, 2)).argmin())]
    kept = torch.ones(total, dtype=torch.bool)
    half = cosines.diagonal() / 2
    sums = cosines.sum(1)  # G X
    for _ in range(total - count):
        worst = int((sums - half).masked_fill(~kept, -math.inf).argmax())
        kept[worst] = False
        sums = sums - cosines[worst]
    while 0 < count < total:
        inside, outside = kept.nonzero().flatten(), (~kept).nonzero().flatten()
        change = (sums + half)[outside] - (sums - half)[inside].unsqueeze(1) - cosines[inside.unsqueeze(1), outside]
        best = int(change.argmin())
        if float(change.flatten()[best]) > -IMPROVEMENT:
            break
        leaves, enters = inside[best // len(outside)], outside[best % len(outside)]
        kept[leaves], kept[enters] = False, True
        sums = sums + cosines[enters] - cosines[leaves]
    return kept.nonzero().flatten()
