"""How an ONNX graph of a bundle is opened: one thread, one device, and only if its inputs and outputs are the manifest's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from earmark_shared.errors import ModelError, SettingsError
from earmark_shared.settings import go_offline

go_offline()

import onnxruntime  # noqa: E402

if TYPE_CHECKING:
    from earmark_client.model.bundle import Bundle

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
ERRORS_ONLY = 3
OLDEST = "1.12"  # the first that reads graphs of opset 17


def open_session(bundle: Bundle, file: str, device: str = "cpu", *, threads: int = 1) -> onnxruntime.InferenceSession:
    """A session on the bundle's graph `file`, verified first; `device` is ``"cpu"`` or ``"cuda"``.

    Raises:
        SettingsError: there is no such device here.
        ModelError: the file is not the manifest's, or is no graph.
    """
    providers = _providers(device)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    # Weights are stored as int8 and used as float32. With this the runtime turns them into floats once, at the start;
    # without it, it would look for int8 kernels and run five times slower.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    graph = bundle.read(file)
    try:
        return onnxruntime.InferenceSession(graph, options, providers=providers)
    except Exception as error:  # the runtime's exceptions share no base but this
        raise ModelError(
            f"The model file {file} can't be opened: {error}", hint=f"It needs onnxruntime {OLDEST} or newer."
        ) from error


def _providers(device: str) -> list[str]:
    if device not in PROVIDERS:
        raise SettingsError(f"There is no device {device!r}.", hint=f"Use one of: {', '.join(PROVIDERS)}.")
    wanted = PROVIDERS[device]
    if wanted not in onnxruntime.get_available_providers():
        raise SettingsError(
            f"This machine's ONNX Runtime can't use {device!r}.",
            hint="Leave the device at cpu, or install onnxruntime-gpu in place of onnxruntime.",
        )
    return [wanted] if device == "cpu" else [wanted, PROVIDERS["cpu"]]


def check_output(session: onnxruntime.InferenceSession, name: str, dim: int) -> None:
    """The graph's output `name` has `dim` columns.

    Raises:
        ModelError: it has not, or there is no such output.
    """
    shapes = {output.name: output.shape for output in session.get_outputs()}
    if name not in shapes or list(shapes[name])[1:] != [dim]:
        raise ModelError(f"The model's graph gives {shapes}, its manifest promises {name} with {dim} columns.")


def check_inputs(session: onnxruntime.InferenceSession, wanted: dict[str, tuple[int | None, ...]]) -> None:
    """The graph takes exactly the inputs `wanted`, each with those lengths of its axes (None: any length).

    Raises:
        ModelError: it takes others.
    """
    found = {
        tensor.name: tuple(length if isinstance(length, int) else None for length in tensor.shape)
        for tensor in session.get_inputs()
    }
    if found != wanted:
        raise ModelError(f"The model's graph takes {found}, its manifest promises {wanted}.")
