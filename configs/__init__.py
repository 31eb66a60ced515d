"""One typed dataclass of options for each script; presets.py says what differs per kind of images.

Nothing here imports torch, so that `--help` and wrong options are answered at once. Every script
imports this first: what it cannot run without is asked for here, in one line.
"""

import re
import sys
from importlib.util import find_spec
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements.txt"
MODULES = {"faiss-cpu": "faiss", "pillow": "PIL", "scikit-learn": "sklearn"}  # where names differ


def _missing_packages() -> list[str]:
    if not REQUIREMENTS.exists():  # a copy of the scripts alone
        return []
    packages = re.findall(r"^[\w-]+", REQUIREMENTS.read_text(encoding="utf-8"), re.MULTILINE)
    return [name for name in packages if find_spec(MODULES.get(name, name)) is None]


def _require_python_and_packages() -> None:
    """
    Raises:
        SystemExit: with status 2, after one line that says what to do.
    """
    python, script = sys.executable, Path(sys.argv[0]).name
    if sys.version_info < (3, 11):  # noqa: UP036  (an older one would end in a traceback)
        line = f"Python 3.11 or newer is needed, {python} is {sys.version.split()[0]}"
    elif missing := _missing_packages():
        line = (
            f"{python} has no {', '.join(missing)}: install with "
            f"{python} -m pip install -r {REQUIREMENTS}, or start the script with the Python of "
            f"the environment that has them (.venv/bin/python)"
        )
    else:
        return
    print(f"{script}: {line}", file=sys.stderr)
    sys.exit(2)


_require_python_and_packages()
