"""What the jobs of the demo compute: solid argon, an fcc crystal of Lennard-Jones atoms.

`fwagent demo` puts this file on its compute node as itself, next to ``fwrunner`` and nothing else:
standard library only. Lengths are in angstrom, energies in eV per atom, pressures in GPa.
"""

from __future__ import annotations

import math
import socket
from itertools import product

EPSILON, SIGMA = 0.0104, 3.405
GPA = 160.21766  # one eV per cubic angstrom
_REACH = 12


def _lattice_sum(power: int) -> float:
    """Sum r**-power over all other atoms, with distances in units of half a lattice constant."""
    steps = range(-_REACH, _REACH + 1)
    squares = (
        i * i + j * j + k * k for i, j, k in product(steps, repeat=3) if (i + j + k) % 2 == 0
    )
    return math.fsum(square ** (-power / 2) for square in squares if square)


def _energy_and_derivatives(lattice: float) -> tuple[float, float, float]:
    scaled = 2 * SIGMA / lattice
    repulsion = 2 * EPSILON * _lattice_sum(12) * scaled**12
    attraction = 2 * EPSILON * _lattice_sum(6) * scaled**6
    slope = (6 * attraction - 12 * repulsion) / lattice
    curvature = (156 * repulsion - 42 * attraction) / lattice**2
    return repulsion - attraction, slope, curvature


def relax(lattice: float, tolerance: float) -> float:
    """Return the lattice constant of least energy, by Newton's method from a guess."""
    for _ in range(50):
        _energy, slope, curvature = _energy_and_derivatives(lattice)
        step = slope / curvature
        lattice -= step
        if abs(step) < tolerance:
            return lattice
    raise ArithmeticError(f"no minimum found; the last lattice constant was {lattice}")


def point(strain: float, lattice: float) -> list[float]:
    """Return [volume, energy] of a crystal whose volume differs by ``strain`` from the relaxed one."""
    strained = lattice * (1 + strain) ** (1 / 3)
    return [strained**3 / 4, _energy_and_derivatives(strained)[0]]


def fit(*points: list[float]) -> list[float]:
    """Fit a parabola; return the equilibrium volume, the bulk modulus and the sum of the energies.

    The volumes are equally spaced, which makes the three terms of the fit independent.
    """
    middle = math.fsum(volume for volume, _ in points) / len(points)
    offsets = [volume - middle for volume, _ in points]
    spread = math.fsum(x * x for x in offsets) / len(points)
    tilt = math.fsum(x * e for x, (_, e) in zip(offsets, points)) / (spread * len(points))  # noqa: B905
    bows = [x * x - spread for x in offsets]
    bow = math.fsum(b * e for b, (_, e) in zip(bows, points)) / math.fsum(b * b for b in bows)  # noqa: B905
    volume = middle - tilt / (2 * bow)
    if bow <= 0 or not min(points)[0] < volume < max(points)[0]:
        raise ArithmeticError("the points do not surround a minimum")
    return [volume, 2 * bow * volume * GPA, math.fsum(energy for _, energy in points)]


def reach(host: str, port: int) -> str:
    """Tell whether this node reaches a server: "reached", or why not."""
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError as error:
        return error.strerror or str(error)
    return "reached"
