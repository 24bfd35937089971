"""evaluators/workers/ray_cluster.py and host.py: on a real Ray cluster of this machine."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import soup
from soup.errors import ScoringError, UsageError
from soup.evaluators import VLMEvalKitScorer
from soup.evaluators.workers.homes import home
from soup.events import Event, Note, Progress, ignore

LONG = 300  # seconds that a step may take on a busy machine
OPTIONS: dict[str, Any] = {"device": "cpu", "max_new_tokens": 4}


@pytest.fixture(scope="module")
def own_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where nodes keep what is theirs; they are started later, and see it, too."""
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("nodes")
        patch.setenv("TMPDIR", str(place))
        patch.setattr("tempfile.tempdir", None)
        yield place


@pytest.fixture(scope="module")
def cluster(own_place: Path) -> Iterator[Any]:
    """A head on which nothing runs, and two nodes for a worker each."""
    utils = pytest.importorskip("ray.cluster_utils")
    small = {"object_store_memory": 80_000_000, "include_dashboard": False}
    found = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    for _ in range(2):
        found.add_node(num_cpus=1, **small)
    yield found
    found.shutdown()


@pytest.fixture(scope="module")
def tables(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two of the demo's benchmarks, 120 questions each."""
    place = tmp_path_factory.mktemp("tables")
    for name in ("digit", "parity"):
        lines = (demo / "benchmarks" / f"{name}.tsv").read_text().splitlines(keepends=True)
        (place / f"{name}.tsv").write_text("".join(lines[:121]))
    return [str(file) for file in sorted(place.iterdir())]


def greedy(
    demo: Path,
    tables: list[str],
    place: Path,
    watched: Callable[[VLMEvalKitScorer], Callable[[Event], None]] = lambda scorer: ignore,
    **options: Any,
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """A greedy run: every number that it found, every byte of what it wrote."""
    pool = soup.Pool.open(*sorted((demo / "ckpts").iterdir())[:3])
    settings = soup.Settings(benchmarks=tables, work=place / "work", out=place / "soup")
    with VLMEvalKitScorer(**OPTIONS, **options) as scorer:
        board = soup.make("greedy", pool, scorer, settings, watched(scorer))
    assert board.soup is not None
    numbers: dict[str, Any] = {row.name: dict(row.scores) for row in board.members}
    numbers |= {"soup": dict(board.soup.scores), "digest": board.soup.digest}
    numbers["steps"] = [(step.tried, step.mean, step.kept) for step in board.path]
    kept = [*(place / "soup").rglob("*"), *(place / "work" / "predictions").iterdir()]
    varied = ("soup.json", "README.md")  # they name places and times
    return numbers, {
        file.name: file.read_bytes() for file in kept if file.is_file() and file.name not in varied
    }


@pytest.fixture(scope="module")
def expected(demo: Path, tables: list[str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What one worker here makes of it."""
    return greedy(demo, tables, tmp_path_factory.mktemp("one"))


class Crew:
    """An observer that knows who is at work, and can have all pause that are on living nodes."""

    def __init__(self) -> None:
        self.scorer: VLMEvalKitScorer | None = None
        self.notes: list[str] = []
        self.busy: Any = None
        self.lost = ""
        self.goes_on = threading.Event()
        self.goes_on.set()

    def of(self, scorer: VLMEvalKitScorer) -> "Crew":
        """Observe this one."""
        self.scorer = scorer
        return self

    def __call__(self, event: Event) -> None:
        """Take one event; worker's own threads bring theirs."""
        if isinstance(event, Note):
            self.notes.append(event.text)
        if isinstance(event, Progress) and event.who and event.unit == "samples":
            seat = self.seats[int(event.who.split()[1]) - 1]
            if seat.hand is not None and seat.hand._node != self.lost:
                self.busy = seat.hand
                self.goes_on.wait(LONG)

    @property
    def seats(self) -> Any:
        """Of the fleet."""
        assert self.scorer is not None and self.scorer._fleet is not None
        return self.scorer._fleet._seats

    def next_busy(self) -> Any:
        """Whoever is at something next."""
        self.busy = None
        until(lambda: self.busy is not None)
        return self.busy


def until(true: Callable[[], bool]) -> None:
    """Wait for something; it comes."""
    end = time.monotonic() + LONG
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.ray
def test_actors_and_nodes_may_leave_and_join_and_the_soup_is_the_same(
    cluster: Any, demo: Path, tables: list[str], expected: Any, tmp_path: Path
) -> None:
    """Every score, every answer that is kept and every byte of the soup, as of one worker here."""
    crew = Crew()
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(greedy, demo, tables, tmp_path, crew.of, ray=cluster.address)
        crew.next_busy().kill()
        until(lambda: sum("was lost" in note for note in crew.notes) == 1)
        crew.goes_on.clear()
        crew.lost = crew.next_busy()._node
        nodes = {node.node_id: node for node in cluster.worker_nodes}
        cluster.remove_node(nodes[crew.lost], allow_graceful=False)
        crew.goes_on.set()
        until(lambda: sum("was lost" in note for note in crew.notes) >= 2)
        crew.goes_on.clear()
        joined = cluster.add_node(num_cpus=1, object_store_memory=80_000_000).node_id
        until(lambda: any(s.hand and s.hand._node == joined and s.learned for s in crew.seats))
        crew.goes_on.set()
        found = run.result()
    assert found == expected
    assert crew.notes.count("Ray: 2 nodes with 0 GPUs") == 1


@pytest.fixture
def seen_here_alone(demo: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Members under a path that leads elsewhere in every other process, as on another machine."""
    if sys.platform != "linux":
        pytest.skip("/proc is Linux's")
    monkeypatch.chdir(demo / "ckpts")
    return [Path("/proc/self/cwd") / path.name for path in sorted((demo / "ckpts").iterdir())[:2]]


@pytest.mark.ray
def test_what_a_node_lacks_is_named_or_sent_to_it_once(
    cluster: Any,
    own_place: Path,
    seen_here_alone: list[Path],
    tables: list[str],
    expected: Any,
    tmp_path: Path,
) -> None:
    """Node and path in one line; with --ray-copy the model's files, and again if one is spoilt."""
    pool = soup.Pool.open(*seen_here_alone)
    settings = soup.Settings(benchmarks=tables[:1], work=tmp_path)
    options = {**OPTIONS, "ray": cluster.address, "workers": 1}
    with (
        pytest.raises(ScoringError, match=r"node \S+ \(.*\) lacks /proc/self/cwd/.*--ray-copy"),
        VLMEvalKitScorer(**options) as scorer,
    ):
        soup.score(pool, scorer, settings)
    sent: list[str] = []

    def observe(event: Event) -> None:
        if isinstance(event, Progress) and event.task.startswith("send ") and not event.done:
            sent.append(event.task)

    with VLMEvalKitScorer(**options, ray_copy=True) as scorer:
        board = soup.score(pool, scorer, settings, observe)
    for entry in board.members:
        (score,) = entry.scores.items()
        assert score in expected[0][entry.name].items()
    assert len(sent) == len(set(sent)) <= 2
    (folder,) = own_place.glob("soup-workers-*/copies")
    copies = sorted(path.name for path in folder.glob("*/*"))
    assert copies == [path.name for path in seen_here_alone]
    damaged = next(folder.glob(f"*/{seen_here_alone[0].name}/model*.safetensors"))
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with VLMEvalKitScorer(**options, work=tmp_path / "again", ray_copy=True) as scorer:
        scorer.benchmarks(pool.reference, tables[:1])
    assert damaged.read_bytes() == content


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ray": "10.0.0.1"}, "--ray 10.0.0.1: expected auto or HOST:PORT"),
        ({"ray": "ray://10.0.0.1:10001"}, "expected auto or HOST:PORT"),
        ({"ray": "auto", "gpus_per_worker": 2}, "only vLLM puts a model on several GPUs"),
        ({"ray": "auto", "device": "cuda:1"}, "--device cuda:1 with --ray: Ray says which"),
        ({"ray": "auto", "workers": "many"}, "--workers many: expected a number of workers"),
        ({"ray_copy": True}, "--ray-copy sends members to nodes of a Ray cluster; add --ray auto"),
    ],
)
def test_options_that_do_not_fit_are_told_before_anything_starts(
    options: dict[str, Any], words: str
) -> None:
    """In one line, as ever."""
    with pytest.raises(UsageError) as error:
        VLMEvalKitScorer(**options)
    assert words in str(error.value)


def test_where_nobody_answers_it_is_said() -> None:
    """At once, not after Ray's minute."""
    away = home("auto", 1, "cpu", "auto", "127.0.0.1:1", False)
    with pytest.raises(UsageError, match=r"--ray 127.0.0.1:1: nobody answers there .*ray start"):
        _ = away.count


def test_without_ray_the_extra_is_named(tmp_path: Path) -> None:
    """One line, from the command line."""
    code = (
        "import sys, importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'ray' else real(name, *a)\n"
        "sys.argv = ['soup', 'score', 'a', 'b', '--bench', 'MMStar', '--ray', 'auto']\n"
        "from soup.cli.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: --ray needs ray, which is not installed here; run: pip install 'vlm-soup[ray]'"
    ]
