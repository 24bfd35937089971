"""With whose companion files the numbers of a run were measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Companionship:
    """With whose template, processor, tokenizer and generation settings, config and code members
    and soups were scored.

    Attributes:
        reference: the member whose files a soup of several has; empty in journals of earlier
            versions, which did not say.
        differ: whether members have files that differ in what decides answers.
        same: whether members were scored with the reference's, too, rather than with their own.
    """

    reference: str = ""
    differ: bool = False
    same: bool = False

    @property
    def lines(self) -> list[str]:
        """What a reader of the numbers must know."""
        if not self.differ:
            return []
        if self.same:
            return [
                f"companion files differ: all are scored with those of {self.reference} "
                "(--same-companions)"
            ]
        return [
            "companion files differ: each member is scored with its own, a soup of several with "
            f"those of {self.reference}"
        ]
