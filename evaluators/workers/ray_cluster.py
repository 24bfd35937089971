"""Workers on a Ray cluster: the only place that knows of Ray.

Ray places actors, one for each worker, each with the GPUs that Ray gives it; in an actor lives a
``Host``, whose child is the worker. Which of them does what is for ``queue`` to say, as ever.
"""

import contextlib
import importlib
import importlib.util
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blake3 import blake3

from soup.errors import ScoringError, UsageError
from soup.evaluators.workers.devices import AUTO, require_workers
from soup.evaluators.workers.elsewhere import digest_of, files_of, moved, places_in
from soup.evaluators.workers.host import SPOKEN, Files, Host
from soup.evaluators.workers.process import Died, last_words
from soup.evaluators.writing import write_whole
from soup.events import Note, Observer, Progress, ignore
from soup.words import counted

PART = 1 << 25  # bytes that are sent at a time
WAIT = 10.0  # seconds until it is said that a worker waits for room
REACH = 5.0  # seconds for an address to answer
PASSED = ("LMUData", "HF_HUB_OFFLINE", "OPENAI_API_KEY")
"""Environment variables that workers on nodes get from here, where their node has none."""


def require_ray() -> None:
    """Raises UsageError where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise UsageError(
            "--ray needs ray, which is not installed here; run: pip install 'vlm-soup[ray]'"
        )


class Cluster:
    """Where workers run: as actors of a Ray cluster. It is connected to when first needed."""

    away = True
    evaluators = 0

    def __init__(
        self,
        address: str,
        workers: int | str,
        each: int,
        device: str,
        engine: str,
        copies: bool = False,
    ) -> None:
        """Nothing is asked of Ray yet.

        Args:
            address: ``auto``, or HOST:PORT of the cluster's head.
            workers: how many; ``auto`` is as many as there is room for, at any time.
            each: GPUs of each.
            device: as ``--device`` has it.
            engine: as ``--engine`` has it.
            copies: whether what a node lacks is sent there.

        Raises:
            UsageError: Ray is not installed, or the options do not go together.
        """
        require_ray()
        if address != AUTO:
            host, colon, port = address.rpartition(":")
            if "://" in address or not (host and colon and port.isdecimal()):
                raise UsageError(
                    f"--ray {address}: expected auto or HOST:PORT, as `ray start --head` says it; "
                    "run the command on a node of the cluster"
                )
        self._address, self._each, self._device = address, each, device
        self._workers = require_workers(workers)
        if each < 1 or (each > 1 and engine != "vllm"):
            hint = "expected 1 or more" if each < 1 else "only vLLM puts a model on several GPUs"
            raise UsageError(f"--gpus-per-worker {each}: {hint}")
        if device.startswith("cuda:"):
            raise UsageError(f"--device {device} with --ray: Ray says which; expected auto or cuda")
        self.copies = copies
        self.told: Observer = ignore
        self._ours = False
        self._connected = False
        self._copying: dict[tuple[str, str], threading.Lock] = {}
        self._known: dict[str, tuple[str, Files]] = {}
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """How many workers there are, at first."""
        return self.room() if self._workers == AUTO else int(self._workers)

    def room(self) -> int:
        """How many workers there are to be by now."""
        if self._workers != AUTO:
            return int(self._workers)
        nodes = self._nodes()
        if self._needs_gpu(nodes):
            each = [int(node["Resources"].get("GPU", 0)) // self._each for node in nodes]
            return max(sum(each), 1)
        return max(len([node for node in nodes if node["Resources"].get("CPU", 0) >= 1]), 1)

    def spawn(self, number: int, python: str, log: Path) -> "Away":
        """Have Ray place a worker; it waits, where it must, until there is room."""
        import ray

        nodes = self._nodes()
        gpus = self._each if self._needs_gpu(nodes) else 0
        kind = ray.remote(Host).options(
            num_cpus=1, num_gpus=gpus, max_restarts=0, scheduling_strategy="SPREAD"
        )
        own = None if python == sys.executable else python
        return Away(self, f"worker {number + 1}", kind.remote(), own, log, gpus)

    def name_of(self, node: str) -> str:
        """A node, for people."""
        import ray

        for one in ray.nodes():
            if one["NodeID"] == node:
                return f"{one['NodeManagerHostname']} ({one['NodeManagerAddress']})"
        return node

    def close(self) -> None:
        """Leave the cluster, unless somebody else had entered it before."""
        if self._ours:
            import ray

            ray.shutdown()
        self._ours = self._connected = False

    def _needs_gpu(self, nodes: list[dict[str, Any]]) -> bool:
        there = any(node["Resources"].get("GPU", 0) >= self._each for node in nodes)
        if not there and (self._device == "cuda" or self._each > 1):
            raise UsageError(
                f"--ray {self._address}: no node of the cluster has {counted(self._each, 'GPU')}"
            )
        return there and self._device != "cpu"

    def _nodes(self) -> list[dict[str, Any]]:
        """The nodes that are there."""
        import ray

        self._connect()
        return [node for node in ray.nodes() if node["Alive"]]

    def _connect(self) -> None:
        import ray

        with self._lock:
            if self._connected:
                return
            if not ray.is_initialized():
                self._enter(ray)
                self._ours = True
            self._connected = True
        nodes = [node for node in ray.nodes() if node["Alive"] and "CPU" in node["Resources"]]
        gpus = sum(int(node["Resources"].get("GPU", 0)) for node in nodes)
        self.told(Note(f"Ray: {counted(len(nodes), 'node')} with {counted(gpus, 'GPU')}"))

    def _enter(self, ray: Any) -> None:
        """Connect; Ray's own words are not for the terminal."""
        if self._address != AUTO:  # Ray itself would try for a minute, and then abort
            host, _, port = self._address.rpartition(":")
            try:
                socket.create_connection((host, int(port)), REACH).close()
            except (OSError, OverflowError) as error:
                raise UsageError(
                    f"--ray {self._address}: nobody answers there ({error}); expected the address "
                    "that `ray start --head` printed"
                ) from None
        inside = vars(importlib.import_module("ray._private.worker"))
        if "print_to_stdstream" in inside:  # what it prints would stand in our output
            inside["print_to_stdstream"] = lambda *words, **options: None
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(
                address=self._address,
                namespace="soup",
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                include_dashboard=None,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            first = str(error).strip().splitlines()[:1]
            raise UsageError(
                f"--ray {self._address}: there is no Ray cluster to join ({''.join(first)}); start "
                "one with: ray start --head"
            ) from None
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)  # Ray takes it, and would end us too soon

    # --- copies ------------------------------------------------------------------------------

    def copying(self, node: str, place: str) -> threading.Lock:
        """What one must hold to copy a place to a node: that is done once."""
        with self._lock:
            return self._copying.setdefault((node, place), threading.Lock())

    def content_of(self, place: str) -> tuple[str, Files]:
        """What a place here holds: a digest of all of it, and of each file; read once."""
        with self.copying("", place):
            if place not in self._known:
                sizes = files_of(Path(place))
                files = {
                    name: (size, digest_of(Path(place, name) if name else Path(place)))
                    for name, size in sizes.items()
                }
                whole = blake3(repr(sorted(files.items())).encode()).hexdigest()
                self._known[place] = whole, files
            return self._known[place]


class Away:
    """A worker on a node; see ``soup.evaluators.workers.seats.Hand``."""

    def __init__(
        self, cluster: Cluster, name: str, actor: Any, python: str | None, log: Path, gpus: int
    ) -> None:
        self._cluster, self._name, self._actor = cluster, name, actor
        self._python, self._log, self._gpus = python, log, gpus
        self._node = self._host = ""
        self._greeted = False
        self._places: dict[str, str] = {}
        self._begin = log.stat().st_size if log.is_file() else 0

    def ask(self, request: dict[str, Any], observe: Observer = ignore) -> dict[str, Any]:
        """See ``Process.ask``.

        Raises:
            Died: the worker, its actor or its node has ended.
            SoupError: what the worker answered, with its node; or the node lacks something.
        """
        import ray

        try:
            if not self._node:
                self._start()
            for place in places_in(request):
                if place not in self._places:
                    self._places[place] = self._reach(os.path.abspath(place), observe)
            for ref in self._actor.ask.remote(moved(request, self._places.__getitem__)):
                kind, value = ray.get(ref)
                if kind == "event":
                    observe(value)
                elif kind == "printed":
                    self._print(value)
                elif kind == "died":
                    how, words, greeted = value
                    raise Died(f"{how} (on node {self._host})", words, greeted)
                elif kind == "error":
                    raise type(value)(f"{value} (on node {self._host})")
                else:
                    self._greeted = True
                    return self._take_in(request, *value)
        except ray.exceptions.RayError as error:
            raise self._gone(error) from None
        raise Died(f"said nothing (on node {self._host})", self._words(), self._greeted)

    def kill(self) -> None:
        """See ``Process.kill``."""
        import ray

        with contextlib.suppress(Exception):  # it is gone, or the cluster is
            ray.kill(self._actor)

    def close(self) -> None:
        """See ``Process.close``."""
        self.kill()

    def _start(self) -> None:
        """Wait until Ray has placed it; have it start the worker."""
        import ray

        passed = {name: os.environ[name] for name in PASSED if name in os.environ}
        begun = self._actor.begin.remote(self._python, passed)
        ready, _ = ray.wait([begun], timeout=WAIT)
        if not ready:
            needs = "a free CPU"
            needs += f" and {counted(self._gpus, 'free GPU')}" if self._gpus else ""
            text = f"{self._name} waits until Ray has a node with {needs}"
            self._cluster.told(Note(text))
        kind, value = ray.get(begun)
        self._node = ray.get(self._actor.__ray_call__.remote(_node_of))
        self._host = self._cluster.name_of(self._node)
        if kind == "refused":
            raise ScoringError(f"node {self._host} {value}")
        if value != SPOKEN:
            raise ScoringError(
                f"node {self._host} has vlm-soup {value[0]} (protocol {value[1]}), this command is "
                f"{SPOKEN[0]} (protocol {SPOKEN[1]}); install the same one there"
            )

    def _gone(self, error: Exception) -> Died:
        """What Ray's error says of the end of the actor."""
        import ray

        text = [line.strip() for line in str(error).splitlines() if line.strip()]
        where = f" on node {self._host}" if self._host else ""
        if isinstance(error, ray.exceptions.RayTaskError):  # our own code cannot run there
            how = "cannot run: install vlm-soup on every node, with the extras vlmeval and ray"
            return Died(f"{how}{where}", f"    {text[-1][:200]}", self._greeted)
        if isinstance(error, ray.exceptions.ActorUnavailableError):
            reason = "nothing of it answers any more"
        else:
            said = [line for line in text if line.startswith("The actor")]
            reason = (said or text or ["no reason is known"])[-1].partition(" Node ")[0][:200]
        return Died(f"was lost{where} ({reason.rstrip('.')})", self._words(), True)

    # --- files -------------------------------------------------------------------------------

    def _print(self, words: bytes) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            log.write(words)

    def _words(self) -> str:
        return last_words(self._log, self._begin)

    @staticmethod
    def _take_in(
        request: dict[str, Any], result: dict[str, Any], files: dict[str, bytes]
    ) -> dict[str, Any]:
        """A result; the files that belong to it are kept here."""
        for ending, content in files.items():
            _write(Path(request["keep"] + ending), content)
        return result

    def _reach(self, place: str, observe: Observer) -> str:
        """Where the node has what is in a place here.

        Raises:
            ScoringError: it lacks it.
        """
        import ray

        found = ray.get(self._actor.lacks.remote({place: files_of(Path(place))}))
        if place not in found:
            return place
        if not self._cluster.copies:
            why = found[place]
            lacks = f"has another {place} than this machine: {why}" if why else f"lacks {place}"
            raise ScoringError(
                f"node {self._host} {lacks}; expected a path that every node sees with the same "
                "files: mount it there, or add --ray-copy, which sends them"
            )
        with self._cluster.copying(self._node, place):
            digest, files = self._cluster.content_of(place)
            name = os.path.basename(place)
            copy = ray.get(self._actor.copy_of.remote(digest, name, files))
            return str(copy or self._send(place, digest, files, observe))

    def _send(self, place: str, digest: str, files: Files, observe: Observer) -> str:
        """Send a place's files to the node, through Ray's object store."""
        import ray

        name, part = os.path.basename(place), f"{os.getpid()}-{self._node[:16]}"
        total, done = sum(size for size, _ in files.values()), 0
        for relative, begin, data in _parts(place, files):
            observe(Progress(f"send {name} to {self._host}", done, total, "B"))
            wrong = ray.get(
                self._actor.receive.remote(f"{digest}.{part}/{name}", relative, begin, data)
            )
            if wrong:
                raise ScoringError(f"{name} cannot be sent to node {self._host}: {wrong}")
            done += len(data)
        observe(Progress(f"send {name} to {self._host}", total, total, "B"))
        copy = ray.get(self._actor.copy_of.remote(digest, name, files, part))
        if copy is None:
            raise ScoringError(
                f"{place}: what arrived at node {self._host} has another digest; were its files "
                "changed meanwhile? Run the same command again"
            )
        return str(copy)


def _parts(place: str, files: Files) -> Iterator[tuple[str, int, bytes]]:
    """The files of a place in parts: name, where it begins, content."""
    for relative in files:
        with open(os.path.join(place, relative) if relative else place, "rb") as stream:
            begin = 0
            while (data := stream.read(PART)) or not begin:
                yield relative, begin, data
                begin += len(data)
                if not data:
                    break


def _write(file: Path, content: bytes) -> None:
    write_whole(file, lambda place: place.write_bytes(content))


def _node_of(host: Host) -> str:
    """Of which node this is; called there."""
    import ray

    return str(ray.get_runtime_context().get_node_id())
