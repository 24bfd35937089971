"""What engines.py measures under the interpreter that has vLLM: one job in a process of its own.

python engine_jobs.py JOB ARGUMENTS

It says a line of JSON when it can be asked; then a line for each line that it reads: one pass.
"""

import base64
import io
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

IN_FLIGHT = 64
printed = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # whatever libraries print
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import soup.evaluators.kit.importing  # noqa: E402, F401
from soup.blending.blend import Blend  # noqa: E402
from soup.checkpoints.pool import Pool  # noqa: E402
from soup.evaluators.engines.choice import open_engine  # noqa: E402
from soup.evaluators.kit.vlmevalkit import Dataset  # noqa: E402
from soup.evaluators.models.wrapper import Options  # noqa: E402

Job = Iterator[dict[str, Any]]
"""First ``{}``, ``alike``, see ``swaps_of_alike``, or ``ready``: seconds that a candidate takes to
be asked, where each takes the same. Then, pass by pass, ``seconds`` to answer, ``answers`` by index
(of the first member), and ``swap``: seconds until this pass's candidate could be asked."""


def opened(given: dict[str, Any], name: str) -> tuple[Any, Any, Any]:
    """An engine, two blends for it to alternate between, and the questions."""
    pool = Pool.open(*given["members"])
    blends = Blend((pool.members[0],), pool.reference), Blend(pool.members, pool.reference)
    options = Options(
        given["device"], given["dtype"], max_new_tokens=given["tokens"], families=given["families"]
    )
    work = Path(given["work"]) / name
    work.mkdir(exist_ok=True)
    return open_engine(name, pool.reference, options, work), blends, Dataset(given["file"], work)


def named(data: Any, said: list[str]) -> dict[str, str]:
    """Answers by the index of their question."""
    return dict(zip(map(str, data.kit.data["index"]), said, strict=True))


# --- ours ----------------------------------------------------------------------------------


def engine(given: dict[str, Any], name: str) -> Job:
    """A swap and a pass in turn, of a member and of the average of all."""
    import torch

    made, blends, data = opened(given, name)
    made.load(blends[0], "0", "load", ignore)
    messages = data.messages(made.wrapper)
    if name == "vllm":
        started(made, data, messages)
        yield {"alike": swaps_of_alike(made, given)}
    else:
        yield {}
    k = 0
    try:
        while True:
            begun = time.perf_counter()
            made.load(blends[k % 2], str(k % 2), "load", ignore)
            if name == "vllm":
                with torch.inference_mode():
                    made.swap()  # else it swaps with the first question
            loaded = time.perf_counter()
            said = made.answer(data.name, data.kit_name, messages)
            took = time.perf_counter() - loaded
            answers = {} if k % 2 else named(data, said)
            yield {"seconds": took, "swap": loaded - begun, "answers": answers}
            k += 1
    finally:
        made.close()


def started(made: Any, data: Any, messages: Any) -> None:
    """VLLM is started by the first question: start it, and test it, with one of the longest."""
    longest = max(range(len(messages)), key=lambda k: len(messages[k][-1]["value"]))
    room = made.serving.options
    most = length(made, data, messages)
    made.serving.options = type(room)(**{**vars(room), "max_length": most})
    made.answer("start", data.kit_name, [messages[longest]])
    made.serving.options = room


def swaps_of_alike(made: Any, given: dict[str, Any]) -> dict[str, float]:
    """Seconds of a swap among members that share most: what differs sent, and all of it.

    The second has of its own the last layer of the language model; their average and each of them
    are swapped in, in turn.
    """
    import torch
    from safetensors.torch import load_file, save_file

    one, other = (Path(path) for path in given["members"][:2])
    place = Path(given["work"]) / "alike"
    shutil.copytree(one, place)
    theirs = {n: t for file in other.glob("*.safetensors") for n, t in load_file(file).items()}
    for file in place.glob("*.safetensors"):
        mixed = load_file(file)
        layers = [int(n.split("layers.")[1].split(".")[0]) for n in mixed if "layers." in n]
        last = f"layers.{max(layers, default=0)}."
        mixed |= {name: theirs[name] for name in mixed if last in name}
        save_file(mixed, file, metadata={"format": "pt"})
    pool = Pool.open(one, place)
    for member in pool.members:
        member.compute_digest()
    a, b = pool.members
    blends = [Blend(members, a) for members in ((a,), (a, b), (b,))]
    serving = made.serving
    took: dict[bool, list[float]] = {True: [], False: []}
    sent: dict[bool, int] = {}
    with torch.inference_mode():
        for k in range(12):
            for anew in (True, False):  # the same swap, by either way
                serving.swap(blends[k % 3], None, "load", ignore)
                if anew:
                    serving.distrust()
                begun = time.perf_counter()
                serving.swap(blends[(k + 1) % 3], None, "load", ignore)
                took[anew].append(time.perf_counter() - begun)
                sent[anew] = serving.written
    return {
        "all": statistics.median(took[True]),
        "differing": statistics.median(took[False]),
        "share": sent[False] / sent[True],
    }


def ignore(event: Any) -> None:
    """Nobody is told."""


# --- transformers' generate ----------------------------------------------------------------


def generate(given: dict[str, Any]) -> Job:
    """The model alone: ``generate`` on batches that are ready, at the best of several sizes."""
    import torch
    import transformers

    from soup.evaluators.engines.batches import Limit

    made, (first, _), data = opened(given, "transformers")
    made.load(first, "0", "load", ignore)
    messages = data.messages(made.wrapper)
    begun = time.perf_counter()
    kind = transformers.AutoModelForImageTextToText
    kind.from_pretrained(given["members"][0], dtype=getattr(torch, given["dtype"])).to(
        given["device"]
    )
    yield {"ready": time.perf_counter() - begun}
    generates = transformers.GenerationMixin.generate
    calls: list[dict[str, Any]] = []

    def noted(self: Any, *args: Any, **arguments: Any) -> Any:
        calls.append(arguments)
        return generates(self, *args, **arguments)

    best, at, said = float("inf"), 0, []
    for size in given["sizes"]:
        if at and size >= 2 * len(messages):
            break
        made.limit = Limit.of(size)
        calls.clear()
        transformers.GenerationMixin.generate = noted
        try:
            said = made.answer(data.name, data.kit_name, messages)
        finally:
            transformers.GenerationMixin.generate = generates
        for _ in range(2):
            begun = time.perf_counter()
            with torch.inference_mode():
                for call in calls:
                    made._model.generate(**call)
            if given["device"] != "cpu":
                torch.cuda.synchronize()
            if (took := time.perf_counter() - begun) < best:
                best, at = took, size
    yield {"seconds": best, "answers": named(data, said), "batch": at}


# --- vLLM as it comes ----------------------------------------------------------------------


def prompts(given: dict[str, Any]) -> tuple[Any, Any, list[Any], list[dict[str, Any]], int]:
    """Texts and pictures as the wrapper gives them, its settings, and the longest question."""
    from soup.evaluators.engines.vllm_questions import sampling

    made, (first, _), data = opened(given, "vllm")
    made.load(first, "0", "load", ignore)
    messages = data.messages(made.wrapper)
    heard = [made.asking.hear(message, data.kit_name) for message in messages]
    settings = [sampling(one.prepared, made.asking.default, "") for one in heard]
    return made, data, heard, settings, length(made, data, messages)


def length(made: Any, data: Any, messages: Any) -> int:
    """Tokens that the longest question and its answer take, rounded up."""
    most = int(made.asking.measure("length", data.kit_name, messages, ignore).longest)
    return max(256, 1 << (most - 1).bit_length())


def llm(given: dict[str, Any]) -> Job:
    """``LLM.generate`` as its documentation has it, the engine in a process of its own."""
    import torch

    made, data, heard, settings, longest = prompts(given)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
    from vllm import LLM, SamplingParams

    on_gpu = given["device"] == "cuda"
    begun = time.perf_counter()
    model = LLM(
        model=given["members"][0], dtype=given["dtype"], max_model_len=longest,
        max_num_seqs=256 if on_gpu else 64, enforce_eager=not on_gpu, generation_config="vllm",
        limit_mm_per_prompt={"image": 1}, mm_processor_kwargs={},
    )  # fmt: skip
    ready = time.perf_counter() - begun
    asked = [{"prompt": one.text, "multi_modal_data": {"image": list(one.images)}} for one in heard]
    sampled = [SamplingParams(**one) for one in settings]
    model.generate(asked[:1], sampled[:1], use_tqdm=False)  # what is done once
    yield {"ready": ready}
    while True:
        model.reset_prefix_cache()
        model.llm_engine.reset_encoder_cache()  # what other weights made of pictures
        begun = time.perf_counter()
        outputs = model.generate(asked, sampled, use_tqdm=False)
        said = [
            made.wrapper.decode(torch.tensor(list(one.outputs[0].token_ids), dtype=torch.int64))
            for one in outputs
        ]
        yield {"seconds": time.perf_counter() - begun, "answers": named(data, said)}


def serve(given: dict[str, Any]) -> Job:
    """A server beside, asked over HTTP by many threads; its chat template makes the words."""
    _, data, heard, settings, longest = prompts(given)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    on_gpu = given["device"] == "cuda"
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1",
        "--port", str(port), "--model", given["members"][0], "--served-model-name", "m",
        "--dtype", given["dtype"], "--max-model-len", str(longest), "--generation-config", "vllm",
        "--max-num-seqs", "256" if on_gpu else "64", *([] if on_gpu else ["--enforce-eager"]),
    ]  # fmt: skip
    begun = time.perf_counter()
    server = subprocess.Popen(command, stdout=sys.stderr)
    try:
        wait(server, port)
        ready = time.perf_counter() - begun
        pairs = list(zip(heard, settings, strict=True))
        ask(port, *pairs[0])
        yield {"ready": ready}
        while True:
            begun = time.perf_counter()
            with ThreadPoolExecutor(IN_FLIGHT) as threads:
                said = list(threads.map(lambda pair: ask(port, *pair), pairs))
            yield {"seconds": time.perf_counter() - begun, "answers": named(data, said)}
    finally:
        server.terminate()
        server.wait()


def wait(server: Any, port: int) -> None:
    """Until a server answers."""
    for _ in range(600):
        if server.poll() is not None:
            raise SystemExit(f"vllm serve ended with exit code {server.returncode}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise SystemExit("vllm serve did not start within 5 minutes")


def ask(port: int, heard: Any, settings: dict[str, Any]) -> str:
    """One question: pictures, then words, as the wrapper has them between the template's marks."""
    user = heard.text.rpartition("user\n")[2].split("<|im_end|>")[0]
    words = user.split("<|vision_end|>")[-1]
    content: list[dict[str, Any]] = []
    for image in heard.images:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        content.append({"type": "image_url", "image_url": {"url": url}})
    content.append({"type": "text", "text": words})
    body = {
        "model": "m", "messages": [{"role": "user", "content": content}], "temperature": 0,
        "max_tokens": settings["max_tokens"], "stop_token_ids": settings["stop_token_ids"],
        "ignore_eos": True,
    }  # fmt: skip
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=600) as reply:
        return str(json.load(reply)["choices"][0]["message"]["content"])


JOBS = {
    "generate": generate,
    "transformers": lambda given: engine(given, "transformers"),
    "llm": llm,
    "vllm": lambda given: engine(given, "vllm"),
    "serve": serve,
}


def main() -> None:
    """Say what the job says, once, and once more for each line that comes in."""
    job = JOBS[sys.argv[1]](json.loads(sys.argv[2]))
    try:
        print(json.dumps(next(job)), file=printed, flush=True)
        for _ in sys.stdin:
            print(json.dumps(next(job)), file=printed, flush=True)
    finally:
        job.close()  # type: ignore[attr-defined]  # a server beside


if __name__ == "__main__":
    main()
