"""Runs under the Python that has vLLM: the engine itself, looked at from inside; says JSON.

    python vllm_by_hand.py MEMBERS.json QUESTIONS.tsv OUT.json

MEMBERS.json lists pools: a name, the paths of members, and a base for adapters. For each pool every
member is asked with its own companion files, their average, the first again, and the second with
the files of the first, by vLLM; and each by transformers. Of a pool that is ``shared`` more are
asked by vLLM, once with what differs sent and once with all of it.
"""

import json
import sys
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

import soup.evaluators.kit.importing  # noqa: F401
from soup.blending.blend import Blend
from soup.checkpoints.pool import Pool
from soup.errors import ScoringError
from soup.evaluators.engines import vllm_swap
from soup.evaluators.engines.choice import open_engine
from soup.evaluators.kit.vlmevalkit import Dataset
from soup.evaluators.models.wrapper import Options

TOKENS = 4


def load(engine: Any, pool: Pool, members: list[int], files_of: int | None = None) -> None:
    """Have an average loaded, or a member; asked with the first one's files, or another's."""
    chosen = tuple(pool.members[k] for k in members)
    files = pool.members[members[0] if files_of is None else files_of]
    blend = Blend(chosen, pool.reference, dtype="F32", files_of=files)
    engine.load(blend, str(members), "load", lambda event: None)


def asked(
    engine: Any, pool: Pool, members: list[int], data: Dataset, files_of: int | None = None
) -> list[str]:
    """Answers of an average, or of a member."""
    load(engine, pool, members, files_of)
    messages = data.messages(engine.wrapper)
    return list(engine.answer(data.name, data.kit_name, messages))


def failure(engine: Any, pool: Pool, data: Dataset) -> str:
    """The error of a swap that must not pass."""
    try:
        asked(engine, pool, [1], data)
    except ScoringError as error:
        return str(error)
    return ""


def withheld(engine: Any, pool: Pool, data: Dataset, name: str) -> str:
    """Keep one tensor back, on its way to vLLM."""
    whole = vllm_swap.tensors_of
    vllm_swap.tensors_of = lambda *a, **k: ((n, t) for n, t in whole(*a, **k) if name not in n)
    try:
        return failure(engine, pool, data)
    finally:
        vllm_swap.tensors_of = whole


def changed(engine: Any, pool: Pool, data: Dataset, name: str) -> str:
    """After a swap, change one number that the engine holds, before it is looked at."""
    look = vllm_swap.Ledger.entry
    done: list[str] = []

    def entry(self: Any, tensor: Any) -> Any:
        if not done and tensor.numel() == 128 and self._entries.get(vllm_swap_place(tensor)):
            done.append(name)
            tensor.data[0] += 1
        return look(self, tensor)

    vllm_swap.Ledger.entry = entry
    try:
        return failure(engine, pool, data)
    finally:
        vllm_swap.Ledger.entry = look


def vllm_swap_place(tensor: Any) -> int:
    """Where a tensor lies."""
    return int(tensor.untyped_storage().data_ptr())


def remembering(engine: Any, pool: Pool, data: Dataset) -> str:
    """Leave the caches as they are after a swap."""
    asked(engine, pool, [0], data)
    engine.serving.forget = lambda: None
    try:
        return failure(engine, pool, data)
    finally:
        del engine.serving.forget


def broken_off(engine: Any, pool: Pool, data: Dataset) -> list[str]:
    """Stop asking one member in the middle; what another answers after that."""
    load(engine, pool, [0])

    def stop(count: int) -> None:
        if count:
            raise KeyError

    with suppress(Exception):
        engine.answer(data.name, data.kit_name, data.messages(engine.wrapper), stop)
    return asked(engine, pool, [1], data)


def longer(engine: Any, pool: Pool, data: Dataset) -> list[list[str]]:
    """What is loaded is asked other questions, for which vLLM must be started again."""
    found = []
    for times in (1, 40):
        load(engine, pool, [0])
        messages = deepcopy(data.messages(engine.wrapper))
        for message in messages:
            message[-1]["value"] = " ".join([message[-1]["value"]] * times)
        found += [list(engine.answer(f"{data.name} {times}", data.kit_name, messages))]
    return found


ORDERS = ([0], [1], [0, 1], [2], [1, 2], [0, 1, 2], [0], [2])
"""Averages of a pool that shares most of its tensors, so that each is left by another."""


def meddle(worker: Any) -> None:
    """Change a number that no member changes."""
    held = dict(worker.model_runner.get_model().named_parameters())
    last = next(tensor for name, tensor in held.items() if name.endswith("model.norm.weight"))
    with torch.inference_mode():
        last[0] += 1


def shared(engine: Any, pool: Pool, data: Dataset, name: str) -> dict[str, Any]:
    """Answers, and the bytes that each swap sent; and what comes after faults."""
    for member in pool.members:
        member.compute_digest()
    serving = engine.serving
    found: dict[str, Any] = {}
    for anew in (False, True):
        answers, written = [], []
        for members in ORDERS:
            if anew:
                serving.distrust()
            answers.append(asked(engine, pool, members, data))
            written.append(serving.written)
        found["all sent" if anew else "sent"] = answers
        found["bytes of all" if anew else "bytes"] = written
    asked(engine, pool, [0], data)
    found["withheld"] = withheld(engine, pool, data, name)
    found["after a failure"] = asked(engine, pool, [0], data), serving.written
    serving._llm.collective_rpc(meddle)
    found["meddled with"] = asked(engine, pool, [1], data), serving.written
    return found


def main(pools: str, questions: str, out: str) -> None:
    """All pools, one engine each."""
    cache = Path(out).parent / "cache"
    cache.mkdir(exist_ok=True)
    data = Dataset(questions, cache)
    found: dict[str, Any] = {}
    for given in json.loads(Path(pools).read_text()):
        pool = Pool.open(*given["members"], base=given.get("base"), dtype="F32")
        orders: list[tuple[list[int], int | None]]
        orders = [([k], None) for k in range(len(pool.members))]
        orders += [([*range(len(pool.members))], 0), ([0], None), ([1], 0)]
        options = Options(device="cpu", max_new_tokens=TOKENS, families=given["families"])
        said: dict[str, Any] = {}
        for name in ("vllm", "transformers"):
            engine = open_engine(name, pool.reference, options, cache)
            said[name] = [asked(engine, pool, k, data, files) for k, files in orders]
            if given.get("faults"):
                said[f"{name}, longer"] = longer(engine, pool, data)
            if name == "vllm" and given.get("shared"):
                said["shared"] = shared(engine, pool, data, given["shared"])
            if name == "vllm" and given.get("faults"):
                said["withheld"] = withheld(engine, pool, data, given["faults"])
                said["changed"] = changed(engine, pool, data, given["faults"])
                said["remembering"] = remembering(engine, pool, data)
                said["after"] = asked(engine, pool, [0], data)
                said["broken off"] = broken_off(engine, pool, data)
            engine.close()
        found[given["name"]] = said | {"members": given["members"]}
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
