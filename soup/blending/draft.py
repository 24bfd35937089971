"""An average that is written while its members are read for their digests: one pass for both.

What the digests decide, the order in which members are summed, is settled at the end. What they
forbid, or find to be there already, is thrown away.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from soup import holding
from soup.blending import onepass, shards
from soup.blending.blend import Blend
from soup.blending.layout import Layout, laid_out
from soup.blending.room import require_room, unwritable
from soup.blending.runs import serves
from soup.checkpoints.checkpoint import Checkpoint
from soup.events import Note, Observer


class Draft:
    """An average's weights, hidden beside where they will be; gone when the context ends.

    Attributes:
        blend: the average, of members in any order.
    """

    def __init__(self, blend: Blend, target: Path, observe: Observer) -> None:
        """Nothing is made before ``learn`` is called.

        Args:
            blend: an average of members in any order.
            target: the directory that it will be.
            observe: told of progress.
        """
        self.blend, self._target, self._observe = blend, target, observe
        self._stack = ExitStack()
        self._made: tuple[Path, Layout, onepass.Written] | None = None

    def __enter__(self) -> "Draft":
        return self

    def __exit__(self, *of_an_error: object) -> None:
        self._stack.close()

    def learn(self, members: Sequence[Checkpoint]) -> list[Checkpoint]:
        """Write all, and give some checkpoints their digests on the way.

        Args:
            members: those whose digests are wanted; where none is a member nothing is done.

        Returns:
            Those that have theirs now: none where it cannot be done so.

        Raises:
            OutputError: there is no room, or it cannot be written.
            BlendError, CheckpointError: see ``soup.blending.streaming.stream``; or a member's tied
                tensors have different values.
        """
        blend, target = self.blend, self._target
        learn = [member for member in members if member in blend.members]
        if not learn or any(m.updates for m in blend.members) or not serves(blend):
            return []  # of adapters sums depend on the order, nearly always
        task = f"read and blend the pool into {target.name}"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            require_room(blend.nbytes, target)
            place = holding.unfinished(target, lambda text: self._observe(Note(text)))
            directory = self._stack.enter_context(place)
            layout = self._stack.enter_context(laid_out(blend, directory))
            written = onepass.write(blend, layout, shards.plainly, task, self._observe, learn=learn)
        except OSError as error:
            raise unwritable(target, error) from error
        if written is None:
            self._stack.close()
            return []
        self._made = directory, layout, written
        return learn

    def take(self, blend: Blend) -> tuple[Path, dict[str, bytes]] | None:
        """The directory with the weights of ``blend``, and the root of each, by tensor.

        Args:
            blend: the average, in the order that it is to be summed in.

        Returns:
            None where this has not been written; then nothing is left of it.

        Raises:
            OSError: it cannot be written.
            BlendError, CheckpointError: see ``learn``.
        """
        made, self._made = self._made, None
        if made is not None and self._is_of(blend):
            directory, layout, written = made
            if onepass.settle(blend, layout, shards.plainly, written):
                layout.finish()
                return directory, written.roots()
        self._stack.close()
        return None

    def _is_of(self, blend: Blend) -> bool:
        """Whether it is a blend of the same, perhaps in another order."""
        mine = self.blend
        alike = (blend.coefficients, blend.dtype, blend.method, blend.reference) == (
            *(mine.coefficients, mine.dtype, mine.method, mine.reference),
        )
        names = [sorted(member.name for member in each.members) for each in (blend, mine)]
        return alike and mine.coefficients is None and names[0] == names[1]
