"""Fetches the page's chart library with npm, in the versions and with the hashes that stand here.

python scripts/vendor.py          writes the files and their licences to indexer/web/static
python scripts/vendor.py --check  says whether what is there is what stands here; needs no network
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

STATIC = Path(__file__).resolve().parent.parent / "indexer" / "web" / "static"
LICENSES = STATIC / "LICENSES.txt"
PACKAGES = ("d3@7.9.2", "@observablehq/plot@0.6.17")
FILES = {
    "d3.min.js": (
        "d3/dist/d3.min.js",
        "912111098ea99503a6f4967361d2bbdc9dbf58cf9c678c8e27e5b02d1a07f0c1",
    ),
    "plot.umd.min.js": (
        "@observablehq/plot/dist/plot.umd.min.js",
        "4358086467740777dd788d6b27a95cebdbaefdd50c730a3060117073bd7134cb",
    ),
}
# What only d3-dsv's commands need is in neither file.
NOT_BUNDLED = {"commander", "iconv-lite", "rw", "safer-buffer"}


def main() -> int:
    if "--check" not in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            fetch(Path(folder))
    wrong = [name for name, (_, expected) in FILES.items() if digest((STATIC / name).read_bytes()) != expected]
    for name in wrong:
        print(f"{name} is not the file that is pinned: {digest((STATIC / name).read_bytes())}", file=sys.stderr)
    return 1 if wrong else 0


def fetch(folder: Path) -> None:
    npm = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--silent", "--prefix", str(folder)]
    subprocess.run([*npm, *PACKAGES], check=True)
    modules = folder / "node_modules"
    for name, (source, _) in FILES.items():
        (STATIC / name).write_bytes((modules / source).read_bytes())
    LICENSES.write_text("\n".join(licenses(modules)), encoding="utf-8")


def licenses(modules: Path) -> list[str]:
    """The licence of every package that is in the files, its own and those it is made from."""
    found = []
    for path in sorted([*modules.glob("*/LICENSE*"), *modules.glob("@*/*/LICENSE*")]):
        name = str(path.parent.relative_to(modules))
        if name not in NOT_BUNDLED:
            found.append(f"{name}\n{'=' * len(name)}\n{path.read_text(encoding='utf-8').strip()}\n")
    return found


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
