"""What engines.py measures under the interpreter that has vLLM: one job in a process of its own.

python engine_jobs.py JOB ARGUMENTS    JSON in, a line of JSON out
"""

import base64
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

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

PASSES = 5


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


def engine(given: dict[str, Any], name: str) -> dict[str, Any]:
    """Ours: the first pass with everything that is made once, later ones, and swaps."""
    made, blends, data = opened(given, name)
    swaps, seconds, answers = [], [], {}
    for k in range(PASSES):
        blend = blends[k % 2]
        begun = time.perf_counter()
        made.load(blend, str(k % 2), "load", lambda event: None)
        messages = data.messages(made.wrapper)
        if k and name == "vllm":
            made._swap()  # else it swaps with the first question
        loaded = time.perf_counter()
        said = made.answer(data.name, data.kit_name, messages)
        seconds.append(time.perf_counter() - loaded)
        if k:
            swaps.append(loaded - begun)
        else:
            answers = dict(zip(map(str, data.kit.data["index"]), said, strict=True))
    made.close()
    return {
        "first": seconds[0],
        "later": statistics.median(seconds[2::2]),
        "swap": statistics.median(swaps),
        "answers": answers,
    }


def generate(given: dict[str, Any]) -> dict[str, Any]:
    """The model alone on prepared inputs: the best of several batch sizes."""
    from soup.evaluators.engines.batches import Limit

    made, (first, _), data = opened(given, "transformers")
    made.load(first, "0", "load", lambda event: None)
    messages = data.messages(made.wrapper)
    made.answer(data.name, data.kit_name, messages)
    best = []
    for size in given["sizes"]:
        made.limit = Limit.of(size)
        begun = time.perf_counter()
        said = made.answer(data.name, data.kit_name, messages)
        best.append(time.perf_counter() - begun)
    answers = dict(zip(map(str, data.kit.data["index"]), said, strict=True))
    return {"first": min(best), "later": min(best), "answers": answers}


def prompts(given: dict[str, Any]) -> tuple[Any, Any, list[Any], list[dict[str, Any]]]:
    """Texts and pictures as the wrapper gives them, and its settings."""
    made, (first, _), data = opened(given, "vllm")
    made.load(first, "0", "load", lambda event: None)
    heard = [made._hear(message, data.kit_name) for message in data.messages(made.wrapper)]
    from soup.evaluators.engines.vllm_questions import sampling

    settings = [sampling(one.prepared, made._default, "") for one in heard]
    return made, data, heard, settings


def length(heard: list[Any], settings: list[dict[str, Any]]) -> int:
    """Tokens that the longest question and its answer take, rounded up."""
    most = max(
        one.prepared.inputs["input_ids"].shape[1] + s["max_tokens"]
        for one, s in zip(heard, settings, strict=True)
    )
    return max(256, 1 << (most - 1).bit_length())


def llm(given: dict[str, Any]) -> dict[str, Any]:
    """``LLM.generate`` as its documentation has it, in the engine's own process."""
    made, data, heard, settings = prompts(given)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
    from vllm import LLM, SamplingParams

    on_gpu = given["device"] == "cuda"
    model = LLM(
        model=given["members"][0], dtype=given["dtype"], max_model_len=length(heard, settings),
        max_num_seqs=256 if on_gpu else 64, enforce_eager=not on_gpu, generation_config="vllm",
        limit_mm_per_prompt={"image": 1},
    )  # fmt: skip
    asked = [{"prompt": one.text, "multi_modal_data": {"image": list(one.images)}} for one in heard]
    sampled = [SamplingParams(**one) for one in settings]
    seconds, said = [], []
    for _ in range(3):
        model.reset_prefix_cache()
        begun = time.perf_counter()
        outputs = model.generate(asked, sampled, use_tqdm=False)
        said = [made.wrapper.decode(_tokens(one)) for one in outputs]
        seconds.append(time.perf_counter() - begun)
    answers = dict(zip(map(str, data.kit.data["index"]), said, strict=True))
    return {"first": seconds[0], "later": statistics.median(seconds[1:]), "answers": answers}


def _tokens(output: Any) -> Any:
    import torch

    return torch.tensor(list(output.outputs[0].token_ids), dtype=torch.int64)


def serve(given: dict[str, Any]) -> dict[str, Any]:
    """A server beside, asked over HTTP by 64 threads; its chat template makes the words."""
    _, data, heard, settings = prompts(given)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    on_gpu = given["device"] == "cuda"
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1",
        "--port", str(port), "--model", given["members"][0], "--served-model-name", "m",
        "--dtype", given["dtype"], "--max-model-len", str(length(heard, settings)),
        "--generation-config", "vllm", *([] if on_gpu else ["--enforce-eager"]),
    ]  # fmt: skip
    server = subprocess.Popen(command, stdout=sys.stderr)
    try:
        _wait(server, port)
        seconds, said = [], []
        for _ in range(2):
            begun = time.perf_counter()
            with ThreadPoolExecutor(64) as threads:
                said = list(threads.map(lambda pair: _ask(port, *pair),
                                        zip(heard, settings, strict=True)))  # fmt: skip
            seconds.append(time.perf_counter() - begun)
    finally:
        server.terminate()
        server.wait()
    answers = dict(zip(map(str, data.kit.data["index"]), said, strict=True))
    return {"first": seconds[0], "later": seconds[1], "answers": answers}


def _wait(server: Any, port: int) -> None:
    for _ in range(600):
        if server.poll() is not None:
            raise SystemExit(f"vllm serve ended with exit code {server.returncode}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise SystemExit("vllm serve did not start within 10 minutes")


def _ask(port: int, heard: Any, settings: dict[str, Any]) -> str:
    """One question: pictures, then words, as the wrapper has them between the template's marks."""
    user = heard.text.split("user\n", 1)[-1].split("<|im_end|>")[0]
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

if __name__ == "__main__":
    print(json.dumps(JOBS[sys.argv[1]](json.loads(sys.argv[2]))), file=printed, flush=True)
