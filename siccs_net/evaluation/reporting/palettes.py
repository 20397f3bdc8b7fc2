"""Colours and markers of the classes: the paper's, and a set that colour-blind readers can tell apart."""

from __future__ import annotations

from typing import Literal

from siccs_net.records.dataset import LabelScheme

Colour = tuple[float, float, float]
"""Red, green, blue in 0..1."""

LUNG, EF, GGO, LESION = "lung", "EF", "GGO", "EF+GGO"

MARKERS = {LUNG: "D", EF: "o", GGO: "^", LESION: "s"}
"""Matplotlib's markers: classes differ in shape too, in whatever palette."""
_OTHER_MARKER = "v"


Palette = Literal["paper", "colour_blind"]

# The paper's Fig. 1: normal lung purple, established fibrosis pink, ground-glass orange.
# The colour-blind palette is of Okabe and Ito, Color universal design, 2008. Of its triples, blue, vermilion and yellow
# stay furthest apart under simulated protanopia, deuteranopia and tritanopia (Machado et al., IEEE TVCG 2009).
_CLASSES: dict[Palette, dict[str, Colour]] = {
    "paper": {
        LUNG: (0.55, 0.35, 0.75),
        EF: (0.95, 0.35, 0.60),
        GGO: (1.00, 0.62, 0.15),
        LESION: (0.68, 0.20, 0.22),
    },
    "colour_blind": {
        LUNG: (0.000, 0.447, 0.698),
        EF: (0.835, 0.369, 0.000),
        GGO: (0.941, 0.894, 0.259),
        LESION: (0.800, 0.475, 0.655),
    },
}
_SPARE: dict[Palette, tuple[Colour, ...]] = {
    "paper": ((0.20, 0.60, 0.90), (0.30, 0.75, 0.40), (0.90, 0.85, 0.20), (0.60, 0.60, 0.60)),
    "colour_blind": ((0.337, 0.706, 0.914), (0.000, 0.620, 0.451), (0.902, 0.624, 0.000), (0.600, 0.600, 0.600)),
}
_OTHER_CLASS: Colour = (0.45, 0.45, 0.45)


def class_colour(name: str, palette: Palette = "paper") -> Colour:
    """Return the colour of a class by name; one that the paper does not have is grey."""
    return _CLASSES[palette].get(_role(name), _OTHER_CLASS)


def marker(name: str) -> str:
    """Return the marker of a class by name."""
    return MARKERS.get(_role(name), _OTHER_MARKER)


def label_colours(labels: LabelScheme, palette: Palette = "paper") -> dict[int, Colour]:
    """Return a colour for every foreground label value, by the classes that it belongs to.

    A dataset that names no class of the paper has 1, 2 and 3 coloured as the paper's lung, EF and GGO.
    """
    roles = {value: name for name in (LUNG, EF, GGO) for value in labels.reported.get(name, ())}
    roles = roles or {1: LUNG, 2: EF, 3: GGO}
    spare = _SPARE[palette]
    values = sorted(labels.foreground.values())
    return {value: _CLASSES[palette][roles[value]] if value in roles else spare[value % len(spare)] for value in values}


def _role(name: str) -> str:
    return LUNG if name.replace("_", " ") == "normal lung" else name
