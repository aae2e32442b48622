"""What MkDocs does besides: README is the site's front page, and pages may link to files of the repository.

1. README.md becomes index.md.
2. Files beside docs/ that a page links to (`../tutorials/...`, `LICENSE`) are copied into the site.
3. Links lose what leads out of docs/ (`../`) or into it (`docs/`): the site has one root for both.
4. Indented examples (`>>>`) are coloured as the Python sessions that they are; `± 0.86` stays in one line.
"""

import re
from pathlib import Path
from textwrap import dedent
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
SESSION = re.compile(r"^    >>> .*\n(?:    .*\n)*", re.MULTILINE)
BESIDE = ("CHANGELOG.md", "CITATION.cff", "LICENSE", "assets/*", "tutorials/*.ipynb")


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add README as the front page, and what pages link to beside docs/."""
    front = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=f"---\nhide: [navigation]\n---\n\n{front}"))
    for pattern in BESIDE:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links out of docs/ start at the site's root; examples become blocks that name their language."""
    markdown = re.sub(r"\]\(\.\./", "](" + "../" * page.file.src_uri.count("/"), markdown)
    markdown = re.sub(r" (?=[↑↓])|(?<=±) (?=\d)", "\N{NO-BREAK SPACE}", markdown)
    return SESSION.sub(lambda found: f"```pycon\n{dedent(found[0])}```\n", markdown)
