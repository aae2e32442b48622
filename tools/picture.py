"""README's picture: the layers of its own example, as SVG.  `python -m tools.picture` writes it anew."""

import re
from pathlib import Path
from typing import Any

from lrp_lens.plots.still import still_svg

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "assets" / "layers.svg"


def five_minutes() -> dict[str, Any]:
    """The names that README's example leaves behind."""
    (code,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL
    )
    names: dict[str, Any] = {}
    exec(code, names)
    return names


def picture(names: dict[str, Any]) -> str:
    """The example's layers, drawn."""
    svg = still_svg(names["rel"].layers().plot())
    assert svg is not None
    return svg + "\n"


if __name__ == "__main__":
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(picture(five_minutes()), encoding="utf-8")
    print(PICTURE)
