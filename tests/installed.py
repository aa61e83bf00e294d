"""Install a wheel or an sdist in a fresh environment, with no network, and see whether it works.

    python tests/installed.py dist/*.whl dist/*.tar.gz

What the package needs is taken from the environment that runs this; the package itself is not.
"""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

CHECK = """
import sys
from pathlib import Path

import bilens

assert Path(bilens.__file__).is_relative_to(sys.prefix), bilens.__file__
model = bilens.load("tinystories-2l")
ex = bilens.expand(model, "Once upon a time there was a little", (" girl", " boy"))
assert abs(ex.total - ex.forward) < 1e-4, ex
bilens.features.Dictionary.load("tinystories-2l/mlp1.input")
page = bilens.report.write_page(model, ["Once upon a time"], sys.argv[1])
assert not page.broken and page.path.exists(), page
print(bilens.__version__, "works as installed")
"""


def main() -> None:
    """Each of the files named."""
    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as place:
            check(Path(name).resolve(), Path(place))


def check(package: Path, place: Path) -> None:
    """Install ``package`` under ``place`` and try it."""
    print(package.name, flush=True)
    venv.create(place / "env", with_pip=True)
    python = place / "env" / "bin" / "python"
    beside = ["--no-index", "--no-deps", "--no-build-isolation"]
    # what it needs, without this environment's own pointer to the sources
    needed = next((place / "env" / "lib").glob("python3*")) / "site-packages"
    here = [path for path in sys.path if path.endswith("site-packages")]
    (needed / "needed.pth").write_text("\n".join(here) + "\n")
    run([python, "-m", "pip", "install", "--quiet", *beside, package], place)
    run([python, "-c", CHECK, place / "page"], place)
    run([python.parent / "bilens", "--version"], place)


def run(command: list, place: Path) -> None:
    """Run ``command`` away from the sources; an error of its ends this."""
    subprocess.run(list(map(str, command)), cwd=place, check=True)


if __name__ == "__main__":
    main()
