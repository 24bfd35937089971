"""soup/checkpoints/proving.py: no remembered digest is believed where other bytes are read."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

from soup.blending.blend import Blend
from soup.blending.running import RunningSum
from soup.blending.shards import write_weights
from soup.blending.streaming import stream
from soup.checkpoints import digests, proving
from soup.checkpoints.checkpoint import Checkpoint, TensorInfo
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.pool import Pool
from soup.checkpoints.proving import Proof
from soup.choosing.journal import Journal, _files_hash
from soup.choosing.retelling import last_leaderboard
from soup.errors import PoolError, RewrittenError
from soup.evaluators.fake import FakeScorer
from soup.evaluators.workers.protocol import encode_blend, encode_checkpoint
from soup.evaluators.workers.worker import Worker
from soup.events import ignore
from soup.run import Settings, make
from tests.conftest import make_adapter, make_checkpoint, random_tensors


class Nowhere:
    """A sink."""

    def put(self, info: TensorInfo, start: int, values: torch.Tensor) -> None:
        """See ``soup.blending.streaming.Sink``."""


def tensors(seed: int) -> dict[str, torch.Tensor]:
    """Blocks whole and cut, rows that are no part of a block, equal ones, a tied copy, none."""
    found = random_tensors(seed)
    generator = torch.Generator().manual_seed(seed)
    found["layers.1.weight"] = torch.randn((300, 1000), generator=generator).to(torch.bfloat16)
    found["frozen.weight"] = torch.ones(200_000, dtype=torch.bfloat16)
    found["position_ids"] = torch.arange(5)
    found["bn.num_batches_tracked"] = torch.tensor(seed)
    found["none"] = torch.empty(0, dtype=torch.bfloat16)
    return found


def rewrite(path: Path, seed: int, nan: bool = False) -> None:
    """Other weights in the same file, of the same size and time."""
    file = path / "model.safetensors"
    before = file.stat()
    found = tensors(seed)
    if nan:
        found["frozen.weight"][7] = float("nan")
    other = make_checkpoint(path.parent / f"{path.name}-other", found)
    with file.open("r+b") as stream:
        stream.write((other / "model.safetensors").read_bytes())
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def forge(work: Path, path: Path) -> None:
    """Have the journal take a rewritten member for unchanged: as if its ctime had stayed, too."""
    journal, member = Journal.open(work), open_checkpoint(path)
    known = journal.rewritten(member)
    assert known is not None
    files = member.files_key
    journal.append("digest", of=_files_hash(files), files=files, digest=known, values={})


@pytest.mark.parametrize("kind", ["average", "greedy"])
def test_a_member_rewritten_with_all_times_kept_ends_the_run(tmp_path: Path, kind: str) -> None:
    """One line that names it, no soup, its digest forgotten; the next run reads it anew."""
    paths = [make_checkpoint(tmp_path / name, tensors(k)) for k, name in enumerate("abc")]
    pool = Pool.open(*paths)
    given = Settings(
        ["x"] if kind == "greedy" else [], out=tmp_path / "soup", work=tmp_path / "work"
    )
    scorer = FakeScorer(right=lambda blend, benchmark, sample: len(blend.members) / 4)
    make(kind, pool, scorer, given)
    old = [member.digest for member in pool.members]
    os.rename(tmp_path / "soup", tmp_path / "first")
    rewrite(paths[1], 9)
    forge(tmp_path / "work", paths[1])
    with pytest.raises(RewrittenError, match=r"^b: .*/b: holds other weights than those that were"):
        make(kind, Pool.open(*paths), scorer, given)
    assert not (tmp_path / "soup").exists()
    assert Journal.open(tmp_path / "work").digest_of(open_checkpoint(paths[1])) is None
    said: list[str] = []
    again = Pool.open(*paths)
    make(kind, again, scorer, given, lambda event: said.append(str(event)))
    found = json.loads((tmp_path / "soup" / "soup.json").read_text())
    by_name = {member["name"]: member["digest"] for member in found["members"]}
    assert by_name == {m.name: m.digest for m in again.members}
    assert by_name["b"] not in old and by_name["a"] in old
    assert any("b: holds other weights than before" in text for text in said)
    board = last_leaderboard(Journal.open(tmp_path / "work"))
    assert board is not None


def test_a_member_rewritten_before_another_is_added_ends_the_run(tmp_path: Path) -> None:
    """The new one is learned in the pass that proves the old ones; NaN in them hides nothing."""
    paths = [make_checkpoint(tmp_path / name, tensors(k)) for k, name in enumerate("ab")]
    given = Settings(out=tmp_path / "made" / "soup", work=tmp_path / "work")
    make("average", Pool.open(*paths), settings=given)
    rewrite(paths[1], 9, nan=True)
    forge(tmp_path / "work", paths[1])
    os.rename(tmp_path / "made" / "soup", tmp_path / "first")
    paths.append(make_checkpoint(tmp_path / "c", tensors(2)))
    with pytest.raises(RewrittenError, match="^b: "):
        make("average", Pool.open(*paths), settings=given)
    assert not list((tmp_path / "made").iterdir())
    assert Journal.open(tmp_path / "work").digest_of(open_checkpoint(paths[1])) is None
    with pytest.raises(PoolError, match="b: tensor frozen.weight: expected finite values"):
        make("average", Pool.open(*paths), settings=given)


def opened(paths: list[Path], change: Callable[[], None] = lambda: None) -> tuple[Checkpoint, ...]:
    """Members whose digests are remembered, as a worker has them; of what was there before."""
    known = [open_checkpoint(path).digest for path in paths]
    change()
    found = tuple(open_checkpoint(path) for path in paths)
    for member, digest in zip(found, known, strict=True):
        member.remember_digest(digest)
        assert member.unproven
    return found


def ways(tmp_path: Path) -> dict[str, Callable[[tuple[Checkpoint, ...]], None]]:
    """Every way that values take through memory."""
    cpu = torch.device("cpu")

    def files(members: tuple[Checkpoint, ...]) -> None:
        with TemporaryDirectory(dir=tmp_path) as place:
            write_weights(Blend(members, members[0]), Path(place), "write", ignore)

    return {
        "files": files,
        "kernel": lambda m: stream(Blend(m, m[0]), Nowhere()),
        "threads": lambda m: stream(Blend(m, m[0]), Nowhere(), threads=3, chunk=1 << 17),
        "uneven": lambda m: stream(Blend(m, m[0]), Nowhere(), threads=3, chunk=77_777),
        "torch": lambda m: stream(Blend(m, m[0], dtype="F64"), Nowhere()),
        "device": lambda m: stream(Blend(m, m[0]), Nowhere(), device=cpu),
        "running": lambda m: stream(
            Blend(m, m[0]), Nowhere(), running=RunningSum(1 << 24, tmp_path)
        ),
        "max": lambda m: stream(Blend(m, m[0], (0.5, 0.5)), Nowhere()),
    }


@pytest.mark.parametrize(
    "way", ["files", "kernel", "threads", "uneven", "torch", "device", "running", "max"]
)
@pytest.mark.parametrize("adapters", [False, True])
def test_every_way_proves_what_it_reads(tmp_path: Path, way: str, adapters: bool) -> None:
    """Sound members pass and are proven; one that was rewritten is named, by whatever way."""
    paths = [make_checkpoint(tmp_path / name, tensors(k)) for k, name in enumerate("ab")]
    changed = paths[1]
    if adapters:
        factors = {
            "layers.1.lora_A.weight": torch.randn(2, 1000),
            "layers.1.lora_B.weight": torch.randn(300, 2),
        }
        changed = paths[0]
        paths = [make_adapter(tmp_path / f"l{k}", factors, paths[0]) for k in range(2)]
    members = opened(paths)
    ways(tmp_path)[way](members)
    assert not any(member.unproven for member in members)
    members = opened(paths, lambda: rewrite(changed, 9))
    with pytest.raises(RewrittenError, match=r"holds other weights than those that were read"):
        ways(tmp_path)[way](members)


def test_what_is_proven_is_not_hashed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each block is hashed once by a process, whatever is made of it; none is read for that."""
    paths = [make_checkpoint(tmp_path / name, tensors(k)) for k, name in enumerate("ab")]
    members = opened(paths)
    hashed: list[int] = []
    read: list[int] = []

    def counted(block: memoryview) -> bytes:
        hashed.append(len(block))
        return digests.block_digest(block)

    monkeypatch.setattr(proving, "block_digest", counted)
    whole = digests.read_roots
    monkeypatch.setattr(
        digests,
        "read_roots",
        lambda infos: read.extend(info.nbytes for info in infos) or whole(infos),
    )
    for blend in (Blend(members[:1], members[0]), Blend(members, members[0])):
        stream(blend, Nowhere())
        stream(blend, Nowhere())
    assert sum(hashed) + sum(read) == sum(member.nbytes for member in members)
    assert sum(read) <= 8  # a counter, of which only the first member's is taken


def test_a_second_reading_decides(tmp_path: Path) -> None:
    """Bytes that were read while something was wrong accuse nobody whose file is sound."""
    (member,) = opened([make_checkpoint(tmp_path / "a", tensors(0))])
    proof = Proof([member])
    for info in member.read_for_digest:
        proof.take(info, 0, memoryview(bytes(info.nbytes)))
    proof.settle()
    assert not member.unproven


def test_what_one_process_has_proven_another_has_not(tmp_path: Path) -> None:
    """A pickled checkpoint keeps its digest, and is to be proven again."""
    member = open_checkpoint(make_checkpoint(tmp_path / "a", tensors(0)))
    digest = member.digest
    assert not member.unproven
    sent = pickle.loads(pickle.dumps(member))
    assert sent.known_digest == digest
    assert sent.unproven
    assert not member.unproven


def test_a_worker_proves_what_it_is_told(tmp_path: Path) -> None:
    """It is told each member's digest, and believes none before it has read the bytes."""
    paths = [make_checkpoint(tmp_path / name, tensors(k)) for k, name in enumerate("ab")]
    members = opened(paths)
    told = json.loads(json.dumps(encode_blend(Blend(members, members[0]))))
    worker = Worker(lambda message: None)
    worker._refer_to(*encode_checkpoint(members[0]))
    stream(worker._blend(told), Nowhere())
    assert not any(member.unproven for member in worker._blend(told).members)
    forged = opened(paths, lambda: rewrite(paths[1], 8))
    told = json.loads(json.dumps(encode_blend(Blend(forged, forged[0]))))
    fresh = Worker(lambda message: None)
    fresh._refer_to(*encode_checkpoint(members[0]))
    with pytest.raises(RewrittenError, match="^b: "):
        stream(fresh._blend(told), Nowhere())
