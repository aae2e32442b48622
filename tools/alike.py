"""Whether two outputs say the same: words equal, numbers near, pictures alike.

Another processor rounds otherwise, and a wall-clock time is never the same twice; neither makes an output out of date.
"""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np

RELATIVE, ABSOLUTE = 0.02, 0.011
"""Numbers are near where the last digit shown may round the other way."""
PIXELS, SHADE = 3.0, 24
"""Points of a picture move by less, colours (0 to 255) change by less."""
_NUMBER = re.compile(r"[-+−]?\d+(?:\.\d+)?(?:e[-+−]?\d+)?")
_TIME = re.compile(r"\d[\d.]* ?(?:ms|s|min|seconds)\b")
_CELL = re.compile(r"M(\S+) (\S+)h\S+v\S+h\S+z")
_TINY = re.compile(r"[-+−]?\d(?:\.\d+)?e[-−]\d+")


def differs(old: str, new: str) -> str:
    """Why two outputs are not the same; "" where they are."""
    if old == new:
        return ""
    if old.startswith("<svg") and new.startswith("<svg"):
        return _pictures_differ(old, new)
    return _texts_differ(old, new)


def _texts_differ(old: str, new: str) -> str:
    old, new = (_TINY.sub("ε", _TIME.sub("⏱", text)) for text in (old, new))
    words = [re.sub(r"\s+", " ", _NUMBER.sub("#", text)) for text in (old, new)]
    if words[0] != words[1]:
        at = next((i for i, pair in enumerate(zip(*words, strict=False)) if pair[0] != pair[1]), 0)
        return f"stored {words[0][max(0, at - 30) : at + 50]!r}, now {words[1][max(0, at - 30) : at + 50]!r}"
    numbers = [
        np.array([float(one.replace("−", "-")) for one in _NUMBER.findall(text)]) for text in (old, new)
    ]
    far = ~np.isclose(numbers[0], numbers[1], rtol=RELATIVE, atol=ABSOLUTE)
    if far.any():
        pairs = [f"{numbers[0][i]:g} is now {numbers[1][i]:g}" for i in np.flatnonzero(far)[:3]]
        return f"{int(far.sum())} of {len(far)} numbers: {', '.join(pairs)}"
    return ""


def _pictures_differ(old: str, new: str) -> str:
    trees = [ElementTree.fromstring(one) for one in (old, new)]
    texts = [
        "\n".join("".join(text.itertext()) for text in tree.iter() if text.tag.endswith("}text"))
        for tree in trees
    ]
    if reason := _texts_differ(*texts):
        return f"words of the picture: {reason}"
    cells = [_cells(tree) for tree in trees]
    if cells[0].keys() != cells[1].keys():
        return f"{len(cells[0])} cells of the picture are now {len(cells[1])}"
    changed = sum(bool(np.abs(cells[0][at] - cells[1][at]).max() > SHADE) for at in cells[0])
    if changed:
        return f"{changed} of {len(cells[0])} cells of the picture have another colour"
    points = [_points(tree) for tree in trees]
    if len(points[0]) != len(points[1]):
        return f"{len(points[0])} coordinates of the picture are now {len(points[1])}"
    moved = float(np.abs(points[0] - points[1]).max(initial=0.0))
    return f"lines of the picture moved by {moved:.1f} pixels" if moved > PIXELS else ""


def _cells(tree: ElementTree.Element) -> dict[tuple[str, str], np.ndarray]:
    """Corner → colour, for everything that is made of cells: heat maps and colour bars."""
    return {
        corner: np.array([int(path.attrib["fill"][i : i + 2], 16) for i in (1, 3, 5)])
        for path in tree.iter()
        if _CELL.match(path.get("d", ""))
        for corner in _CELL.findall(path.attrib["d"])
    }


def _points(tree: ElementTree.Element) -> np.ndarray:
    """The coordinates of all lines, bars and markers, in order."""
    texts = [
        path.get("d", "") if "d" in path.attrib else f"{path.get('cx', '')} {path.get('cy', '')}"
        for path in tree.iter()
        if not _CELL.match(path.get("d", ""))
    ]
    return np.array([float(one) for text in texts for one in re.findall(r"-?\d+(?:\.\d+)?", text)])
