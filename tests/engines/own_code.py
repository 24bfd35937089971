"""Asks checkpoints that bring their own code, by one engine; by hand, once under each Python.

    python own_code.py ENGINE OUT.json CKPT CKPT...    # of one pool

Their code runs. Each is asked, their average, and the first again, in float32, with one picture and
with two. OUT.json has the answers: those of one engine are to be those of the other.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import soup.evaluators.kit.importing  # noqa: F401
from soup.checkpoints.pool import Pool
from soup.evaluators.engines.choice import open_engine
from soup.evaluators.models.wrapper import Options
from tests.engines.vllm_families import TOKENS, asked, questions


def main(name: str, out: str, *members: str) -> None:
    """One engine."""
    pool = Pool.open(*members, dtype="F32")
    options = Options(device="cpu", max_new_tokens=TOKENS, trust_remote_code=True)
    with tempfile.TemporaryDirectory() as place:
        engine = open_engine(name, pool.reference, options, Path(place))
        messages = questions(Path(place))
        every = range(len(members))
        said = [asked(engine, pool, k, messages) for k in ([0], [1], [*every], [0])]
        engine.close()
    Path(out).write_text(json.dumps(said, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
