"""Other loaders of safetensors, for gpu.py: all bytes of some members onto a device, no sums.

Each is measured where it is installed (`pip install fastsafetensors runai-model-streamer
instanttensor`). They load tensors of one model; nothing is done with these.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

Loader = Callable[[Sequence[Path], torch.device], int]
"""Loads the files of one model onto a device; returns the bytes of its tensors."""


def fastsafetensors(files: Sequence[Path], device: torch.device) -> int:
    """By reads into buffers of its own; without GPUDirect storage, which disks rarely have."""
    from fastsafetensors import SafeTensorsFileLoader

    loader = SafeTensorsFileLoader(None, device=str(device), nogds=True)
    try:
        loader.add_filenames({0: list(map(str, files))})
        held = loader.copy_files_to_device()
        try:
            return sum(held.get_tensor(name).nbytes for name in loader.get_keys())
        finally:
            held.close()
    finally:
        loader.close()


def streamer(files: Sequence[Path], device: torch.device) -> int:
    """Run:ai's model streamer."""
    from runai_model_streamer import SafetensorsStreamer

    total = 0
    with SafetensorsStreamer() as found:
        found.stream_files(list(map(str, files)), device=str(device))
        for _, tensor in found.get_tensors():
            total += tensor.to(device).nbytes
    return total


def instanttensor(files: Sequence[Path], device: torch.device) -> int:
    """InstantTensor, which knows no other devices than CUDA's."""
    from instanttensor import safe_open

    with safe_open(list(map(str, files)), framework="pt", device=device) as found:
        return sum(tensor.nbytes for _, tensor in found.tensors())


LOADERS: dict[str, Loader] = {
    "fastsafetensors": fastsafetensors,
    "runai_model_streamer": streamer,
    "instanttensor": instanttensor,
}
"""By the name of the package."""


def installed() -> dict[str, Loader]:
    """Those that can be imported here."""
    return {name: loader for name, loader in LOADERS.items() if find_spec(name) is not None}


def loaded(loader: Loader, members: Sequence[Sequence[Path]], device: torch.device) -> None:
    """Load one member after the other.

    Raises:
        RuntimeError: not all of their bytes came.
    """
    for files in members:
        total = loader(files, device)
        there = sum(file.stat().st_size for file in files)
        if not 0.9 * there < total <= there:  # but for the headers
            raise RuntimeError(f"{total} of {there} bytes came")
