"""Pages that show what is committed: what stands between two marks is of the results."""

from pathlib import Path

from benchmarks._worker import ROOT

PAGE, README = ROOT / "docs" / "scaling.md", ROOT / "README.md"


def pasted(page: Path, name: str, text: str) -> None:
    """Put text between `<!-- name -->` and `<!-- end of name -->`."""
    opening, closing = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(opening)
    page.write_text(f"{before}{opening}{text}{closing}{rest.partition(closing)[2]}", encoding="utf-8")


def block(tables: str) -> str:
    """Tables as a part of a page: headings a level lower, lines of their own."""
    return "\n" + tables.replace("\n## ", "\n### ") + "\n"
