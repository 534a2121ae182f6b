"""Synthetic lesions and polyps with exact masks: free to share, the same on every machine, as hard
as you ask.

Each picture is drawn from its own random stream `(seed, index)` and in units of the picture's side,
so that a larger `n` only appends pictures and a larger `size` shows the same scene finer. Knobs run
from 0 (easy) to 1 (hard).
"""

import math
from dataclasses import asdict, dataclass, fields

import cv2
import numpy as np

from ..common.errors import unknown

__all__ = ["COUNTS", "Knobs", "make"]

COUNTS = {"train": 160, "val": 40, "test": 60}  # of the datasets "synthetic" and "synthetic-polyp"


@dataclass(frozen=True)
class Knobs:
    """What makes a picture hard, each from 0 (easy) to 1 (hard)."""

    contrast: float = 0.5  # 0: object and background differ clearly, 1: hardly
    blur: float = 0.4  # width of the transition at the boundary, up to a twelfth of the side
    hair: float = 0.4  # dark hairs over a lesion, vessels around a polyp
    glare: float = 0.4  # specular highlights
    small: float = 0.35  # share of small objects (radius under a tenth of the side)
    distractors: float = 0.5  # what resembles the object: freckles, stains; folds, bubbles

    def __post_init__(self):
        for name, value in asdict(self).items():
            if not 0 <= value <= 1:
                raise ValueError(
                    f"synthetic knob {name}={value} must lie between 0 (easy) and 1 (hard)"
                )


def make(
    kind: str = "lesion", n: int = 8, size: int = 128, seed: int = 0, start: int = 0, **knobs: float
):
    """Pictures `start ... start + n - 1` of the stream `seed`: uint8 images (n, size, size, 3),
    masks (n, size, size).

    Args:
        kind: "lesion" (dermoscopy-like) or "polyp" (endoscopy-like).
        knobs: see `Knobs`.

    Raises:
        ValueError: unknown kind or knob, or a knob outside [0, 1].
    """
    if kind not in _KINDS:
        raise unknown("synthetic kind", kind, _KINDS)
    valid = [field.name for field in fields(Knobs)]
    for name in knobs:
        if name not in valid:
            raise unknown("synthetic knob", name, valid)
    settings = Knobs(**knobs)
    images, masks = np.empty((n, size, size, 3), np.uint8), np.empty((n, size, size), np.uint8)
    for i in range(n):
        image, mask = _KINDS[kind](np.random.default_rng([seed, start + i]), size, settings)
        images[i], masks[i] = np.clip(image * 255, 0, 255), mask
    return images, masks


def _grid(size):
    axis = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
    return np.meshgrid(axis, axis)


def _noise(rng, size, *grids, gain=0.6):
    """Smooth noise in about [-1, 1]: random grids (cells per side), enlarged and summed, each
    `gain` times the last.
    """
    layers = [rng.uniform(-1, 1, (g, g)).astype(np.float32) for g in grids]
    layers = [cv2.resize(layer, (size, size), interpolation=cv2.INTER_CUBIC) for layer in layers]
    return sum(layer * np.float32(gain**k) for k, layer in enumerate(layers))


def _blob(rng, grid, x0, y0, radius, rough=0.15):
    """Distance to a random closed outline, negative inside, in units of the side (true near the
    outline).
    """
    turn, stretch = rng.uniform(0, np.pi), np.float32(rng.uniform(0.7, 1))
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    dx, dy = grid[0] - np.float32(x0), grid[1] - np.float32(y0)
    u, v = cos * dx + sin * dy, (cos * dy - sin * dx) / stretch
    k, angles = np.arange(2, 8)[:, None], np.linspace(-np.pi, np.pi, 1025)
    waves = (
        rng.normal(0, rough, k.shape) / k * np.cos(k * angles + rng.uniform(0, 2 * np.pi, k.shape))
    )
    outline = (radius * (1 + waves.sum(0))).astype(np.float32)
    step = (np.arctan2(v, u) + np.float32(np.pi)) * np.float32(1024 / (2 * np.pi))
    return (np.sqrt(u * u + v * v) - outline[step.astype(np.int32)]) * stretch


def _soft(distance, width):
    """1 inside, 0 outside, crossing over `width` (units of the side)."""
    return 1 / (1 + np.exp(np.clip(distance / max(width / 4, 1e-4), -30, 30)))


def _paint(image, colour, alpha):
    image += alpha[..., None] * (np.asarray(colour, np.float32) - image)


def _dab(rng, image, x0, y0, radius, rough, colour, *layers):
    """Paint a small blob, looking only at the crop around it; each layer is (alpha, softness,
    growth).
    """
    size, reach = len(image), 1.6 * radius + 0.06
    crop = tuple(
        slice(max(0, int((c - reach) * size)), max(0, int((c + reach) * size))) for c in (y0, x0)
    )
    distance = _blob(rng, [axis[crop] for axis in _grid(size)], x0, y0, radius, rough)
    for alpha, softness, growth in layers if distance.size else ():
        _paint(image[crop], colour, alpha * _soft(distance - growth, softness))


def _glare(rng, image, where, count):
    spots = np.argwhere(where)
    for _ in range(count if len(spots) else 0):
        y0, x0 = (spots[rng.integers(len(spots))] + 0.5) / len(image)
        _dab(
            rng,
            image,
            x0,
            y0,
            rng.uniform(0.006, 0.02),
            0.4,
            (1, 1, 1),
            (0.25, 0.04, 0.01),
            (0.9, 0.008, 0),
        )


def _lines(rng, size, count, width, length, bend):
    """Alpha of `count` thin curves (hairs, vessels); `width`, `length` and `bend` in units of the
    side.
    """
    shift, layer, t = 4, np.zeros((size, size), np.uint8), np.linspace(0, 1, 24)[:, None]
    for _ in range(count):
        a, turn = rng.uniform(-0.1, 1.1, 2), rng.uniform(0, 2 * np.pi)
        b = a + rng.uniform(0.5, 1) * length * np.array([np.cos(turn), np.sin(turn)])
        curve = (
            (1 - t) ** 2 * a + 2 * t * (1 - t) * ((a + b) / 2 + rng.normal(0, bend, 2)) + t**2 * b
        )
        thick = max(1, round(width * size * rng.uniform(0.7, 1.4)))
        cv2.polylines(
            layer,
            [(curve * size * 2**shift).astype(np.int32)],
            False,
            255,
            thick,
            cv2.LINE_AA,
            shift,
        )
    return layer.astype(np.float32) / 255


def _object(rng, knobs):
    """x, y and radius of the object, and how wide its boundary is."""
    radius = rng.uniform(0.045, 0.1) if rng.random() < knobs.small else rng.uniform(0.14, 0.3)
    width = (0.008 + 0.07 * knobs.blur * rng.uniform(0.5, 1.2)) * min(1, radius / 0.15)
    return *rng.uniform(0.15 + 0.5 * radius, 0.85 - 0.5 * radius, 2).tolist(), radius, width


def _lesion(rng, size, knobs):
    x, y = _grid(size)
    skin = np.array([0.86, 0.66, 0.56]) + rng.normal(0, 0.05) + rng.normal(0, 0.025, 3)
    shade = 1 + 0.06 * _noise(rng, size, 3, 6) + 0.035 * _noise(rng, size, 48, 96, gain=0.9)
    image = skin.astype(np.float32) * shade[..., None]
    # reddish patches
    _paint(image, skin * (0.9, 0.72, 0.72), 0.5 * np.clip(_noise(rng, size, 4, 9), 0, 1))
    x0, y0, radius, width = _object(rng, knobs)
    distance = _blob(rng, (x, y), x0, y0, radius, 0.27) + 0.12 * radius * _noise(
        rng, size, 8, 16, 32
    )
    for _ in range(
        rng.poisson(7 * knobs.distractors)
    ):  # freckles: smaller and fainter than the lesion
        colour, alpha = skin * rng.uniform(0.5, 0.8) * (1, 0.85, 0.75), rng.uniform(0.3, 0.75)
        place = *rng.uniform(0, 1, 2), rng.uniform(0.01, 0.3 * radius + 0.015)
        _dab(rng, image, *place, 0.25, colour, (alpha, 0.03, 0))
    if rng.random() < 0.5 * knobs.distractors:  # surgical ink
        ink = np.abs(
            _blob(rng, (x, y), *rng.choice([-0.1, 1.1], 2) + rng.normal(0, 0.1, 2), 0.35, 0.2)
        )
        _paint(image, (0.38, 0.3, 0.6), rng.uniform(0.35, 0.7) * _soft(ink - 0.03, 0.02))
    strength = max(0.95 - 0.65 * knobs.contrast * rng.uniform(0.6, 1.25), 0.15)
    _paint(image, skin * (1, 0.78, 0.76), 0.45 * _soft(distance - 0.05, 0.12))  # red halo
    network = 1 + 0.22 * _noise(rng, size, 7, 14) + 0.16 * _noise(rng, size, 32, 64)
    inside = strength * _soft(distance, width) * np.clip(network, 0.45, 1.25)
    _paint(image, skin * rng.uniform(0.3, 0.5) * np.array([1, 0.78, 0.68]), np.clip(inside, 0, 1))
    for colour in ((0.2, 0.13, 0.12), (0.42, 0.4, 0.46)):  # dark globules, blue-grey veil
        _paint(
            image,
            colour,
            0.5
            * strength
            * _soft(distance + 0.02, width)
            * np.clip(_noise(rng, size, 5, 10), 0, 1),
        )
    hairs = _lines(rng, size, rng.poisson(14 * knobs.hair), 0.006, 1.0, 0.12)
    _paint(image, skin * rng.uniform(0.12, 0.35), 0.85 * hairs)
    _glare(rng, image, x > 0, rng.poisson(6 * knobs.glare))
    corner = np.hypot(x - rng.normal(0.5, 0.02), y - rng.normal(0.5, 0.02))
    image *= (1 - 0.25 * np.clip(corner / 0.7, 0, 1.2) ** 2)[..., None]
    if rng.random() < 0.25:  # the tube of the dermatoscope
        image *= 1 - 0.93 * _soft(rng.uniform(0.56, 0.64) - corner, 0.02)[..., None]
    return image, distance < 0


def _polyp(rng, size, knobs):
    x, y = _grid(size)
    tint = np.array([0.8, 0.42, 0.3]) + rng.normal(0, 0.04, 3)
    lumen = rng.uniform(0.1, 0.9, 2).tolist()  # plain floats, so that all pictures stay float32
    depth = np.hypot(x - lumen[0], y - lumen[1]) + 0.05 * _noise(rng, size, 4, 8)
    light = 0.35 + 0.65 * np.clip(depth / 0.55, 0, 1) ** 0.7
    phase = 2 * np.pi * (depth * rng.uniform(3, 5) + 0.35 * _noise(rng, size, 3, 6)) + rng.uniform(
        0, 6
    )
    light += (
        (0.05 + 0.13 * knobs.distractors)
        * np.sin(phase)
        * np.clip(_noise(rng, size, 3) + 0.5, 0, 1)
    )  # folds
    light *= 1 + 0.05 * _noise(rng, size, 6, 12) + 0.03 * _noise(rng, size, 48, 96)
    image = tint.astype(np.float32) * light[..., None]
    x0, y0, radius, width = _object(rng, knobs)
    distance = _blob(rng, (x, y), x0, y0, radius, 0.2) + 0.05 * radius * _noise(rng, size, 8, 16)
    vessels = cv2.GaussianBlur(
        _lines(rng, size, rng.poisson(22 * knobs.hair), 0.006, 0.35, 0.08), (0, 0), size / 250
    )
    _paint(image, tint * (0.72, 0.4, 0.4), 0.45 * vessels)
    for _ in range(
        rng.poisson(2.5 * knobs.distractors)
    ):  # bulges of the wall: shaded like a polyp, without its edge
        bulge = _blob(rng, (x, y), *rng.uniform(0, 1, 2), rng.uniform(0.05, 0.2), 0.2)
        image *= (1 + rng.uniform(0.1, 0.25) * _soft(bulge, 0.12))[..., None]
    strength = max(1 - 0.75 * knobs.contrast * rng.uniform(0.6, 1.25), 0.12)
    inside = _soft(distance, width)
    lit = x0 - lumen[0], y0 - lumen[1]  # the side that looks away from the lumen is lit
    slope = ((x - x0) * lit[0] + (y - y0) * lit[1]) / (radius * math.hypot(*lit) + 1e-6)
    shadow = np.exp(-np.clip(distance, 0, None) / (0.25 * radius)) * np.clip(
        0.45 - 0.6 * slope, 0, 1
    )
    image *= (1 - 0.5 * strength * shadow * (1 - inside))[..., None]
    dome = np.sqrt(np.clip(1 - (1 + np.minimum(distance, 0) / radius) ** 2, 0, 1))
    body = (0.6 + 0.35 * dome + 0.22 * slope) * (1 + 0.08 * _noise(rng, size, 16, 32, 64, gain=0.8))
    around = cv2.resize(
        light, (16, 16), interpolation=cv2.INTER_AREA
    )  # a polyp is lit as its surroundings are
    body *= 0.35 + 0.75 * cv2.resize(cv2.GaussianBlur(around, (0, 0), 16 * radius), (size, size))
    flesh = (
        tint * (1 + strength * rng.uniform(-0.15, 0.3)) * (1, 1 + 0.15 * strength * rng.normal(), 1)
    )
    image += (inside * (0.45 + 0.55 * strength))[..., None] * (
        flesh.astype(np.float32) * body[..., None] - image
    )
    count = rng.poisson(8 * knobs.glare)
    _glare(rng, image, (dome > 0.5) & (slope > -0.1) & (distance < 0), (count + 1) // 2)
    _glare(rng, image, light > np.quantile(light, 0.7), count // 2)
    for _ in range(rng.poisson(2 * knobs.distractors)):  # residue, bubbles
        place = *rng.uniform(0, 1, 2), rng.uniform(0.01, 0.05), 0.05
        colour, alpha = ((0.62, 0.5, 0.2), 0.6) if rng.random() < 0.5 else ((0.95, 0.85, 0.75), 0.3)
        _dab(rng, image, *place, colour, (alpha, 0.02, 0))
    window = (
        np.abs(x - 0.5) + np.abs(y - 0.5) - rng.uniform(0.8, 1.0)
    )  # corners that the endoscope leaves black
    return image * _soft(window, 0.01)[..., None], (distance < 0) & (window < 0)


_KINDS = {"lesion": _lesion, "polyp": _polyp}
