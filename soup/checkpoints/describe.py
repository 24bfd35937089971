"""Run as a script: what transformers would say if it loaded these tensors into its model.

Reads one JSON object, ``{"path", "rewritten", "tensors": [[name, shape], …]}``, and writes one:
``{"kind", "missing", "unexpected", "mismatched"}``, or ``{"unknown": why}``; where it is asked for
``"names": true``, ``{"names": {name in memory: name in files}}``. The model and the tensors are on
torch's meta device: nothing is read and nothing takes memory. Transformers renames and fuses on
loading; as it is transformers that loads here, its own rules say which tensor is which. No code
that lies beside a checkpoint is run.
"""

import json
import sys
from typing import Any


def main() -> None:
    """Answer the one question on stdin."""
    sys.path.pop(0)  # this folder, whose modules would stand before others' of the same names
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
        return {"names": file_names(kind, config)}
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


def file_names(kind: Any, config: Any) -> dict[str, str]:
    """Names in memory and in files, of tensors that are saved as they are but for their names."""
    import torch
    from transformers.core_model_loading import revert_weight_conversion  # since transformers 5

    with torch.device("meta"):
        model = kind(config)
    found = {}
    for name, tensor in model.state_dict().items():
        stored = revert_weight_conversion(model, {name: tensor})
        if len(stored) == 1:
            file_name, saved = next(iter(stored.items()))
            if saved.shape == tensor.shape:
                found[name] = file_name
    return found


if __name__ == "__main__":
    main()
