"""The built wheel, in an environment that has no checkout of this project: the command and the examples run from there.

The environment is new and gets the wheel alone, installed by pip.  What the wheel needs (torch and so on) comes from
this interpreter's site-packages, appended to the new one's path as plain folders: path files in there, such as that of
an editable install of this project, are not read, so that `lrp_lens` can come from the wheel only.
"""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.full
ROOT = Path(__file__).parent.parent
EXAMPLES = """
import doctest
import lrp_lens, lrp_lens.demo.loader, lrp_lens.run.relevance
print(lrp_lens.__file__)
done = [doctest.testmod(room, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        for room in (lrp_lens.demo.loader, lrp_lens.run.relevance)]
assert all(one.attempted and not one.failed for one in done), done
"""


def run(*command: object, cwd: Path) -> str:
    """What a command prints."""
    # no PYTHONPATH, no home of user packages: nothing of this checkout
    environment = {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "PYTHONNOUSERSITE": "1", "HOME": str(cwd)}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheel and sdist, built as `make dist` does."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=ROOT)
    return folder


def test_the_wheel_holds_the_package_and_what_it_loads_and_nothing_else(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    (_,) = dist.glob("*.tar.gz")
    names = set(zipfile.ZipFile(wheel).namelist())
    files = (path for path in (ROOT / "lrp_lens").rglob("*") if path.is_file())
    own = {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}
    assert {name for name in names if ".dist-info/" not in name} == own
    assert {"lrp_lens/py.typed", "lrp_lens/demo/cases.json", "lrp_lens/demo/prompts.json"} <= names
    assert {"lrp_lens/markup/page.html", "lrp_lens/report/page.html", "lrp_lens/plots/graph.html"} <= names


def test_command_and_examples_run_from_the_installed_wheel(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--no-deps",
        "--no-index",
        wheel,
        cwd=tmp_path,
    )
    (packages,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "libraries.pth").write_text("\n".join(libraries) + "\n", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    assert run(python, "-c", EXAMPLES, cwd=tmp_path / "empty").startswith(str(packages))
    printed = run(
        tmp_path / "env" / "bin" / "lrp-lens", "explain", "--out", "report.html", cwd=tmp_path / "empty"
    )
    assert "report.html" in printed
    assert (tmp_path / "empty" / "report.html").stat().st_size > 10_000
