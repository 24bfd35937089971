"""A member against its pool's reference: what keeps them apart, and what a user should know.

All from headers and companion files; no weight is read.
"""

from pathlib import Path

from soup import words
from soup.checkpoints import tokens
from soup.checkpoints.checkpoint import Checkpoint, TensorInfo
from soup.checkpoints.companions import brought, gather
from soup.checkpoints.configs import described, differences
from soup.checkpoints.problems import Problem
from soup.checkpoints.supplying import lacking
from soup.checkpoints.ties import is_tied


def of_reference(reference: Checkpoint) -> tuple[list[Problem], list[str]]:
    """Problems and warnings of the reference alone: what it lacks, what no average is right for."""
    return _lacks_problems(reference), _batchnorm_warnings(reference) + _lacks_warnings(reference)


def of_others(
    reference: Checkpoint, member: Checkpoint, dtype: str | None
) -> tuple[list[Problem], list[str]]:
    """Problems and warnings of another member: whether it is of the reference's shape and tongue.

    Args:
        reference: what it is compared with.
        member: the other one.
        dtype: the output dtype, where one was given: then their own may differ.
    """
    problems = _compare_tensors(reference, member, dtype) + _compare_files(reference, member)
    return problems, [
        *_compare_configs(reference, member),
        *_added_tokens(reference, member),
        *_uncompared(reference, member),
        *_undecided(reference, member),
    ]


def of_any(member: Checkpoint) -> tuple[list[Problem], list[str]]:
    """Problems and warnings of any member: an adapter against the base that it changes."""
    return _compare_to_base(member), _adapter_warnings(member)


def _lacks_problems(reference: Checkpoint) -> list[Problem]:
    if not reference.undecided:
        return []
    return [
        Problem(
            reference.name,
            "companion files",
            "those that the soup gets, from it or from one other",
            "nothing",
            reference.undecided,
        )
    ]


def _lacks_warnings(reference: Checkpoint) -> list[str]:
    absent = [] if reference.undecided else lacking(reference)
    if not absent:
        return []
    return [
        f"{reference.name}: has no {', no '.join(absent)}, and neither has another member or a "
        "base: the soup will not load as it is; name a directory that has, with --processor DIR"
    ]


def _compare_tensors(reference: Checkpoint, member: Checkpoint, dtype: str | None) -> list[Problem]:
    problems = []
    for name, expected in reference.tensors.items():
        found = member.tensors.get(name)
        if found is None:
            problems.append(
                Problem(
                    member.name,
                    f"tensor {name}",
                    _describe(expected),
                    "nothing",
                    _tying_hint(name, reference, member),
                )
            )
        elif found.shape != expected.shape:
            problems.append(
                Problem(
                    member.name,
                    f"tensor {name}",
                    _describe(expected),
                    _describe(found),
                    _shape_hint(name, expected, found),
                )
            )
        elif found.dtype != expected.dtype and not (dtype and found.is_float and expected.is_float):
            problems.append(
                Problem(
                    member.name,
                    f"tensor {name}",
                    expected.dtype,
                    found.dtype,
                    "give the output's dtype with --dtype to blend them"
                    if found.is_float and expected.is_float
                    else "",
                )
            )
    for name, extra in member.tensors.items():
        if name not in reference.tensors:
            problems.append(
                Problem(
                    member.name,
                    f"tensor {name}",
                    f"nothing ({reference.name} has no such tensor)",
                    _describe(extra),
                    _tying_hint(name, member, reference),
                )
            )
    return problems


def _describe(info: TensorInfo) -> str:
    return f"{info.dtype} {list(info.shape)}"


def _tying_hint(name: str, having: Checkpoint, lacking: Checkpoint) -> str:
    """Explain the commonest reason why one member stores a tensor that another does not."""
    tied = is_tied(having.config) is not False
    if name.endswith(("lm_head.weight", "embed_tokens.weight")) and tied:
        return (
            f"it may be tied to the embedding and stored by {having.name} alone; "
            f"save {having.name} and {lacking.name} with the same transformers version"
        )
    return ""


def _shape_hint(name: str, expected: TensorInfo, found: TensorInfo) -> str:
    is_vocabulary = "embed" in name or "lm_head" in name or name.endswith("wte.weight")
    if is_vocabulary and expected.shape[1:] == found.shape[1:]:
        return (
            f"the vocabularies have {expected.shape[0]} and {found.shape[0]} rows: tokens were "
            "added (or padding rows differ) in one of them; resize them to the same tokenizer"
        )
    return "are they fine-tuned from the same base?"


def _compare_files(reference: Checkpoint, member: Checkpoint) -> list[Problem]:
    problems = []
    for key in ("model_type", "architectures"):
        expected, found = reference.config.get(key), member.config.get(key)
        if expected != found:
            problems.append(Problem(member.name, f"config.json {key}", f"{expected}", f"{found}"))
    return problems + _compare_tokens(reference.tokenizer_home, member.tokenizer_home, member)


def _compare_tokens(reference: Path, directory: Path, member: Checkpoint) -> list[Problem]:
    """Whether the tokenizers in two directories, where there are such, mean the same."""
    found = tokens.compare(reference, directory)
    if found is None or not found.clashes:
        return []
    clashes = found.clashes[:3]
    return [
        Problem(
            member.name,
            f"tokenizer ({words.counted(len(found.clashes), 'token')} with another meaning)",
            ", ".join(f"{_token(token)} in row {ours}" for token, ours, _ in clashes),
            ", ".join(_there(theirs) for _, _, theirs in clashes),
            "the same embedding row would mean different tokens",
        )
    ]


def _there(found: int | str) -> str:
    return f"row {found}" if isinstance(found, int) else f"{_token(found)} there"


def _token(token: str) -> str:
    return words.shown(repr(token), 40)


def _added_tokens(reference: Checkpoint, member: Checkpoint) -> list[str]:
    """Tokens that only one of two has, in rows that the other has no token for."""
    found = tokens.compare(reference.tokenizer_home, member.tokenizer_home)
    if found is None or found.clashes:
        return []
    return [
        f"{having}: its tokenizer has {words.counted(len(entries), 'token')} that {lacking}'s "
        + "has not ("
        + ", ".join(f"{_token(token)} in {row}" for row, token in entries[:3])
        + (", …" if len(entries) > 3 else "")
        + f"); the rows of all others agree, and the soup gets {reference.name}'s tokenizer"
        for having, lacking, entries in (
            (member.name, reference.name, found.extra),
            (reference.name, member.name, found.missing),
        )
        if entries
    ]


def _uncompared(reference: Checkpoint, member: Checkpoint) -> list[str]:
    """Tokenizers whose files differ and are of no kind that is read here."""
    ours, theirs = reference.companions, member.companions
    if not (ours.has("tokenizer") and theirs.has("tokenizer")):
        return []
    one, other = ours.vocabulary, theirs.vocabulary
    if one == other or tokens.compare(reference.tokenizer_home, member.tokenizer_home) is not None:
        return []
    which = min(name for name in {*one, *other} if one.get(name) != other.get(name))
    return [
        f"{member.name}: its tokenizer cannot be compared with {reference.name}'s ({which} differs "
        "and cannot be read here): be sure that their ids mean the same tokens"
    ]


def _undecided(reference: Checkpoint, member: Checkpoint) -> list[str]:
    """What a member lacks may come from several, which no soup of the reference's kind minds."""
    if not member.undecided:
        return []
    return [f"{member.undecided}; a soup has {reference.name}'s; {member.name} cannot be scored"]


def _compare_to_base(member: Checkpoint) -> list[Problem]:
    """An adapter's own tokenizer, which the result does not get, against its base's."""
    return [] if member.base is None else _compare_tokens(member.home, member.path, member)


def _adapter_warnings(member: Checkpoint) -> list[str]:
    """Where an adapter's merged model is not quite what was trained."""
    if member.base is None:
        return []
    warnings = []
    changed = [name for name in member.updates if name.endswith("embed_tokens.weight")]
    if (
        changed
        and not member.ties
        and not any(name.endswith("lm_head.weight") for name in member.tensors)
    ):
        warnings.append(
            f"{member.name}: changes {changed[0]}, to which the output layer is tied in "
            f"{member.base.name}: merged, the change reaches both, in training it may not have"
        )
    own = sorted(brought(member.path))
    if own and member.companions.digest != gather(member.home).digest:
        warnings.append(
            f"{member.name}: brings {' and '.join(own)} of its own, which differ from those of its "
            f"base {member.base.name}; it is asked with its own"
        )
    return warnings


def _compare_configs(reference: Checkpoint, member: Checkpoint) -> list[str]:
    """Settings that shapes do not show (rope_theta, number of heads) and that differ."""
    found = differences(reference.config, member.config)
    if not found:
        return []
    return [
        f"{member.name}: config.json differs from {reference.name}'s: "
        f"{described(found, reference.name)}; by default each member is scored with its own, a "
        f"soup of several with {reference.name}'s"
    ]


def _batchnorm_warnings(reference: Checkpoint) -> list[str]:
    names = [name for name in reference.tensors if name.endswith(".running_var")]
    if not names:
        return []
    return [
        f"{names[0]} and {len(names) - 1} more are BatchNorm statistics: the average of "
        "statistics is not the statistics of the average; recompute them on data if they matter"
    ]
