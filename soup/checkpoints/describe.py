"""Run as a script: what transformers would say if it loaded these tensors into its model.

Reads one JSON object, ``{"path", "rewritten", "tensors": [[name, shape], …]}``, and writes one:
``{"kind", "missing", "unexpected", "mismatched"}``, or ``{"unknown": why}``; where it is asked for
``"names": true``, how tensors are stored, see ``stored``. The model and the tensors are on
torch's meta device: nothing is read and nothing takes memory. Transformers renames and fuses on
loading; as it is transformers that loads here, its own rules say which tensor is which. No code
that lies beside a checkpoint is run.

With ``--whole`` nothing is kept from being imported.
"""

import json
import sys
from typing import Any

COSTLY = ("sklearn", "torchvision")
"""Packages that transformers imports beside models, where it finds them: half of the seconds that
it takes. Tensors of language and vision models do not depend on them; where something does after
all, its error names them, and it is asked again with them."""


def main() -> None:
    """Answer the one question on stdin."""
    sys.path.pop(0)  # this folder, whose modules would stand before others' of the same names
    if "--whole" not in sys.argv:
        for name in COSTLY:
            sys.modules[name] = None  # type: ignore[assignment]  # as if it were not installed
    asked = json.load(sys.stdin)
    out = sys.stdout
    sys.stdout = sys.stderr  # libraries print
    json.dump(answer(asked), out)


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """What is written, for what is read."""
    try:
        return describe(asked)
    except Exception as error:  # whatever a config makes transformers do: then it is not known
        return {"unknown": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}


def describe(asked: dict[str, Any]) -> dict[str, Any]:
    """See the module."""
    import torch
    import transformers

    config: Any = transformers.AutoConfig.from_pretrained(
        asked["path"], trust_remote_code=False, local_files_only=True
    )
    for key, value in asked["rewritten"].items():
        if key not in QUANTISED and not isinstance(value, dict):
            setattr(config, key, value)
    if any(key in QUANTISED or isinstance(v, dict) for key, v in asked["rewritten"].items()):
        unquantised(config)
    names = getattr(config, "architectures", None) or [None]
    kind = getattr(transformers, str(names[0]), None)
    if kind is None or not hasattr(kind, "from_pretrained"):
        return {"unknown": f"transformers {transformers.__version__} has no {names[0]}"}
    if asked.get("names"):
        return stored(kind, config)
    state = {
        name: torch.empty(shape, dtype=torch.bfloat16, device="meta")
        for name, shape in asked["tensors"]
    }
    _, info = kind.from_pretrained(
        None,
        config=config,
        state_dict=state,
        device_map="meta",
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    return {
        "kind": names[0],
        "missing": sorted(info["missing_keys"]),
        "unexpected": sorted(info["unexpected_keys"]),
        "mismatched": [
            [name, list(found), list(expected)]
            for name, found, expected in sorted(info["mismatched_keys"])
        ],
    }


QUANTISED = ("quantization_config", "compression_config")


def unquantised(config: Any) -> None:
    """Take out what a config and its parts say of quantisation."""
    for key in QUANTISED:
        vars(config).pop(key, None)  # None would be a method that nobody knows
    for part in vars(config).values():
        if hasattr(part, "to_dict") and hasattr(part, "model_type"):
            unquantised(part)


MOST = 4096  # pieces of one stored tensor; more are an order of rows that we do not follow
MARKS = 2  # columns of what is converted in a tensor's place; one would be squeezed away


def stored(kind: Any, config: Any) -> dict[str, Any]:
    """How files hold a model's tensors.

    Returns:
        ``names``: names in memory and in files, of tensors that are saved as they are;
        ``rows``: by names in memory, of those that files hold together or apart, which rows go
        where: ``[name in files, first row there, first row here, how many, step there]``, all
        dimensions but the last one making the rows; ``tied``: names of tensors that are not
        saved, and of those that they are.
    """
    import torch
    from transformers.core_model_loading import revert_weight_conversion  # since transformers 5

    with torch.device("meta"):
        model = kind(config)
    state = model.state_dict()
    saved = revert_weight_conversion(model, dict(state))
    files = {id(tensor): name for name, tensor in saved.items()}
    names = {name: files[id(tensor)] for name, tensor in state.items() if id(tensor) in files}
    left = {name: t for name, t in state.items() if name not in names and t.dim() in (2, 3)}
    tied = getattr(model, "all_tied_weights_keys", None)
    return {
        "names": names,
        "rows": rows(model, state, left, saved) if left else {},
        "tied": tied if isinstance(tied, dict) else {},
    }


def rows(
    model: Any, state: dict[str, Any], left: dict[str, Any], saved: dict[str, Any]
) -> dict[str, list[list[Any]]]:
    """Where the rows of tensors are stored that are not saved as they are.

    Tensors of few columns, whose elements are numbers of rows, are converted in their place.
    """
    import torch
    from transformers.core_model_loading import revert_weight_conversion

    starts, total = [], 0
    marked = dict(state)
    for name, tensor in left.items():
        count = tensor[..., 0].numel()
        marks = torch.arange(total, total + count).view(*tensor.shape[:-1], 1)
        marked[name] = marks.repeat(*(1 for _ in tensor.shape[:-1]), MARKS)
        starts.append(total)
        total += count
    try:
        converted = revert_weight_conversion(model, marked)
    except Exception:  # an operation that needs all columns
        return {}
    sources, bounds = list(left.items()), torch.tensor(starts)
    found: dict[str, list[list[Any]]] = {}
    lost: set[str] = set()
    for file_name, tensor in converted.items():
        if tensor.device.type == "meta" or tensor.dim() < 2:
            continue
        marks = tensor.reshape(-1, tensor.shape[-1])
        inside = torch.unique(torch.searchsorted(bounds, marks, right=True) - 1).tolist()
        file_shape = saved[file_name].shape
        pieces = None
        if (*tensor.shape[:-1], MARKS) == (*file_shape[:-1], tensor.shape[-1]):
            pieces = runs(marks, bounds)
        if pieces is None or any(sources[k][1].shape[-1] != file_shape[-1] for k in inside):
            lost.update(sources[k][0] for k in inside)
            continue
        for source, at, first, count, step in pieces:
            found.setdefault(sources[source][0], []).append([file_name, at, first, count, step])
    for name, tensor in sources:
        if sum(piece[3] for piece in found.get(name, [])) != tensor[..., 0].numel():
            lost.add(name)  # some of it is stored otherwise
    return {name: pieces for name, pieces in found.items() if name not in lost}


def runs(marks: Any, bounds: Any) -> list[tuple[int, int, int, int, int]] | None:
    """Which rows of which tensors stand where: tensor, row, its row there, how many, step.

    Args:
        marks: numbers of rows, ``[rows, MARKS]``, those of a row being equal.
        bounds: the numbers at which tensors begin.
    """
    import torch

    if not torch.equal(marks, marks[:, :1].expand_as(marks)):
        return None
    marks, places = marks[:, 0].sort()
    source = torch.searchsorted(bounds, marks, right=True) - 1
    steps = places.diff()
    apart = (marks.diff() != 1) | (source.diff() != 0)
    turns = apart.clone()
    turns[1:] |= steps[1:] != steps[:-1]
    candidates = (turns.nonzero().flatten() + 1).tolist()
    if len(candidates) > 2 * MOST:
        return None
    begins = [0]
    for place in candidates:  # the first step of a run is no turn
        if place - 1 > begins[-1] or bool(apart[place - 1]):
            begins.append(place)
    found = []
    for begin, end in zip(begins, [*begins[1:], len(marks)], strict=True):
        at, step = int(places[begin]), int(steps[begin]) if end - begin > 1 else 1
        owner = int(source[begin])
        found.append((owner, at, int(marks[begin]) - int(bounds[owner]), end - begin, step))
    return found


if __name__ == "__main__":
    main()
