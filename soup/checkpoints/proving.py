"""Whether bytes that are read are those that a remembered digest is of.

The journal knows a checkpoint by the states of its files, and no state is a proof: a disk that was
put back, a clock, a file system of its own kind may leave all of them as they were beside other
bytes. So a digest that this process has not found itself is believed until the bytes are read for a
result: then they are hashed on the way, each once, and compared. What is read later counts as
proven, as long as the states stay.
"""

import threading
from collections.abc import Iterable, Sequence

from soup.checkpoints import digests
from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.digests import BLOCK, Place, block_digest, place
from soup.checkpoints.tensors import TensorInfo
from soup.errors import RewrittenError


class Proof:
    """Takes what is read of checkpoints whose digests are to be proven, from any thread.

    Pieces may come in any order and with any bounds, and some may not come at all: in the end what
    is missing is read. Adapters of one base share what is read of it.
    """

    def __init__(self, sources: Iterable[Checkpoint]) -> None:
        """Those among ``sources`` that are to be proven are."""
        unproven = dict.fromkeys(source for source in sources if source.unproven)
        self.members: tuple[Checkpoint, ...] = tuple(unproven)
        self._wanted: dict[Place, TensorInfo] = {
            place(info): info for member in self.members for info in member.read_for_digest
        }
        self._blocks: dict[Place, dict[int, bytes]] = {}
        self._partial: dict[tuple[Place, int], tuple[bytearray, set[tuple[int, int]]]] = {}
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self.members)

    def take(self, info: TensorInfo, start: int, piece: memoryview) -> None:
        """Hash bytes ``start`` onwards of a stored tensor, unless that was done before.

        ``piece`` may be reused afterwards.
        """
        where = place(info)
        if where not in self._wanted:
            return
        found = self._blocks.setdefault(where, {})
        at, end = start, start + len(piece)
        while at < end:
            number = at // BLOCK
            first, last = number * BLOCK, min((number + 1) * BLOCK, info.nbytes)
            until = min(last, end)
            if number not in found:
                part = piece[at - start : until - start]
                if (at, until) == (first, last):
                    found[number] = block_digest(part)
                else:
                    self._keep(where, number, at - first, part, last - first)
            at = until

    def _keep(self, where: Place, number: int, offset: int, part: memoryview, size: int) -> None:
        """Put a block together; the same part may come twice, and others that lap over it."""
        with self._lock:
            buffer, parts = self._partial.setdefault((where, number), (bytearray(size), set()))
            buffer[offset : offset + len(part)] = part
            parts.add((offset, offset + len(part)))
            reached = 0
            for begin, end in sorted(parts):
                if begin > reached:
                    return
                reached = max(reached, end)
            if reached < size:
                return
            del self._partial[where, number]
        self._blocks[where][number] = block_digest(memoryview(buffer))

    def settle(self) -> None:
        """Read what nobody has read, and compare.

        Raises:
            RewrittenError: a checkpoint holds other bytes than its digest is of.
            CheckpointError: a file cannot be read, or was changed meanwhile.
        """
        known, missing = {}, []
        for where, info in self._wanted.items():
            found, count = self._blocks.get(where, {}), -(-info.nbytes // BLOCK)
            if len(found) == count:
                known[where] = digests.root(found[k] for k in range(count))
            else:
                missing.append(info)
        if missing:
            for info, (root, *_) in zip(missing, digests.read_roots(missing), strict=True):
                known[place(info)] = root
        for member in self.members:
            require_same(member, [known[place(info)] for info in member.read_for_digest])


def require_same(member: Checkpoint, roots: Sequence[bytes]) -> None:
    """Compare a member's digest with what was read of it.

    Args:
        member: one whose digest is known.
        roots: of the tensors of its ``read_for_digest``, in order.

    Raises:
        RewrittenError: it holds other bytes than its digest is of.
        CheckpointError: a file was changed meanwhile.
    """
    if not member.prove(roots):
        member.require_unchanged()
        raise RewrittenError(
            f"{member.name}: {member.path}: holds other weights than those that were read "
            "there before, though its files' sizes and times are the same; nothing was "
            "recorded of it: run the command again, it is read anew"
        )


def prove(sources: Iterable[Checkpoint]) -> None:
    """Read whatever is to be proven.

    Raises:
        RewrittenError, CheckpointError: see ``Proof.settle``.
    """
    Proof(sources).settle()
