"""Digits as drawn by hand: strokes of points in a unit square, x to the right and y down."""

import math
from collections.abc import Callable

Stroke = list[tuple[float, float]]


def arc(x: float, y: float, width: float, height: float, start: float, end: float) -> Stroke:
    """Returns part of an ellipse around (x, y), in degrees; 0 is right, 90 below."""
    angles = [math.radians(start + (end - start) * step / 16) for step in range(17)]
    return [(x + width * math.cos(angle), y + height * math.sin(angle)) for angle in angles]


UPRIGHT: dict[str, list[Stroke]] = {
    "0": [arc(0.5, 0.5, 0.2, 0.32, -90, -450)],
    "1": [[(0.5, 0.18), (0.5, 0.82)]],
    "2": [[*arc(0.5, 0.36, 0.19, 0.17, -170, 30), (0.31, 0.81), (0.71, 0.81)]],
    "3": [[*arc(0.47, 0.34, 0.18, 0.16, -150, 85), *arc(0.47, 0.66, 0.2, 0.17, -85, 150)]],
    "4": [[(0.4, 0.18), (0.3, 0.54), (0.72, 0.54)], [(0.61, 0.2), (0.61, 0.84)]],
    "5": [[(0.67, 0.2), (0.38, 0.2), (0.36, 0.48), *arc(0.49, 0.63, 0.19, 0.19, -125, 145)]],
    "6": [[(0.6, 0.16), (0.46, 0.3), (0.37, 0.48), *arc(0.5, 0.66, 0.16, 0.16, 180, -180)]],
    "7": [[(0.3, 0.22), (0.7, 0.22), (0.44, 0.84)]],
    "8": [[*arc(0.5, 0.35, 0.15, 0.16, 90, 450), *arc(0.5, 0.67, 0.18, 0.16, -90, 270)]],
    "9": [[*arc(0.5, 0.36, 0.16, 0.16, 0, -360), (0.65, 0.55), (0.6, 0.84)]],
}
OTHER: dict[str, list[Stroke]] = {
    "0": [arc(0.5, 0.5, 0.26, 0.3, -60, 300)],
    "1": [[(0.4, 0.32), (0.52, 0.18), (0.5, 0.82)]],
    "2": [[*arc(0.48, 0.36, 0.2, 0.18, -160, 60), *arc(0.36, 0.76, 0.06, 0.06, 40, 330), (0.55, 0.8), (0.72, 0.76)]],
    "3": [[(0.32, 0.2), (0.66, 0.2), (0.48, 0.44), *arc(0.47, 0.63, 0.19, 0.19, -80, 150)]],
    "4": [[(0.6, 0.84), (0.6, 0.18), (0.28, 0.6), (0.74, 0.6)]],
    "5": [[(0.38, 0.2), (0.36, 0.46), *arc(0.48, 0.62, 0.2, 0.19, -120, 140)], [(0.38, 0.2), (0.68, 0.19)]],
    "6": [[*arc(0.62, 0.5, 0.26, 0.34, -85, -180), *arc(0.5, 0.64, 0.14, 0.18, 180, -160)]],
    "7": [[(0.3, 0.26), (0.32, 0.2), (0.7, 0.2), (0.46, 0.82)], [(0.4, 0.52), (0.66, 0.52)]],
    "8": [
        [
            *[(0.64, 0.27), (0.52, 0.19), (0.38, 0.28), (0.42, 0.42), (0.58, 0.54), (0.66, 0.68), (0.56, 0.82)],
            *[(0.4, 0.8), (0.35, 0.67), (0.45, 0.54), (0.6, 0.4), (0.64, 0.27)],
        ]
    ],
    "9": [[(0.64, 0.28), *arc(0.5, 0.35, 0.15, 0.15, -40, -360), (0.65, 0.36), *arc(0.46, 0.62, 0.2, 0.2, 0, 110)]],
}


def moved(
    digits: dict[str, list[Stroke]], move: Callable[[float, float], tuple[float, float]]
) -> dict[str, list[Stroke]]:
    """Returns digits with each point moved."""
    return {name: [[move(x, y) for x, y in stroke] for stroke in strokes] for name, strokes in digits.items()}


STYLES = {
    "upright": UPRIGHT,
    "other": OTHER,
    "slanted": moved(UPRIGHT, lambda x, y: (x + 0.25 * (0.5 - y), y)),
    "small": moved(UPRIGHT, lambda x, y: (0.05 + 0.45 * x, 0.1 + 0.45 * y)),
}
