"""A checkpoint's network: as a torch module from 16 kHz waveforms to one vector each, and as transformers itself would run it.

The second is the reference of the parity check: the checkpoint's own feature extractor, sound by sound, and its own model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from earmark_shared.errors import ModelError
from earmark_shared.settings import go_offline

go_offline()

import torch  # noqa: E402
import transformers  # noqa: E402
from torch import nn  # noqa: E402
from transformers.audio_utils import mel_filter_bank, window_function  # noqa: E402

from earmark_client.importing import frontends  # noqa: E402
from earmark_client.importing.frontends import RATE_HZ, Framing  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from earmark_client.importing.checkpoint import Checkpoint
    from earmark_client.importing.sounds import Floats

AST_WINDOW, AST_FFT, AST_HOP = 400, 512, 160
KALDI_FLOOR, DECIBEL_FLOOR = 1.192092955078125e-07, 1e-10
WHISPER_STEP = 320
"""Samples under one output of Whisper's encoder."""


@dataclass(frozen=True)
class Network:
    """What an import exports, and what it is compared with."""

    module: nn.Module
    """`(n, samples) float32` -> `(n, dim)`."""
    samples: int
    """A segment's length at 16 kHz."""
    reference: Callable[[Floats], Floats]
    """One sound `(up to samples,)` -> `(dim,)`, by the checkpoint's own feature extractor and transformers."""
    model: Any
    text: nn.Module | None = None
    """Token ids and mask `(n, t)` -> `(n, dim)`, where the checkpoint reads words itself."""
    read: Callable[[str], Floats] | None = None
    """One text -> `(dim,)`, by the checkpoint's own tokenizer and transformers."""


class _Chain(nn.Module):
    """A front end and what comes after it."""

    def __init__(self, frontend: nn.Module, body: Callable[[torch.Tensor], torch.Tensor], model: nn.Module) -> None:
        super().__init__()
        self.frontend, self.body, self.model = frontend, body, model

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """What the class says."""
        found: torch.Tensor = self.body(self.frontend(waveform))
        return found


class _WhisperEncoder(nn.Module):
    """The mean of the encoder's outputs under the sound; the silence after it is left out."""

    def __init__(self, frontend: nn.Module, encoder: Any) -> None:  # noqa: ANN401  transformers has no types of use
        super().__init__()
        self.frontend, self.encoder = frontend, encoder

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """What the class says."""
        states = self.encoder(self.frontend(waveform)).last_hidden_state
        lengths = frontends.sound_lengths(waveform)
        heard = torch.div(lengths + (WHISPER_STEP - 1), WHISPER_STEP, rounding_mode="floor")
        places = torch.arange(states.shape[1], dtype=torch.int64)[None]
        weights = (places < heard).to(states.dtype) / heard.to(states.dtype)
        found: torch.Tensor = (states * weights[..., None]).sum(dim=1)
        return found


class _ClapText(nn.Module):
    """CLAP's text encoder with its projection, unit length."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """What the class says."""
        found: torch.Tensor = self.model.get_text_features(input_ids=input_ids, attention_mask=attention_mask).pooler_output
        return found


def open_network(checkpoint: Checkpoint) -> Network:
    """Load a checkpoint into its network.

    Raises:
        ModelError: weights are missing or don't fit, or the front end is one we can't make.
    """
    logging: Any = transformers.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return {"clap": _clap, "ast": _ast, "whisper": _whisper}[checkpoint.kind](checkpoint)


def _load(checkpoint: Checkpoint, kind: Any, needed: str = "") -> Any:  # noqa: ANN401
    """The model in float32, every weight that begins with `needed` from the checkpoint and none made up."""
    model, report = kind.from_pretrained(
        checkpoint.folder,
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
        dtype=torch.float32,
        attn_implementation="eager",
    )
    missing = sorted(name for name in report["missing_keys"] if name.startswith(needed))
    if missing:
        lacks = f"{checkpoint.folder} lacks {len(missing)} of the network's weights, such as {missing[0]}."
        raise ModelError(lacks, hint="Take the whole checkpoint: one that was trained as " + kind.__name__ + ".")
    return model.eval()


def _clap(checkpoint: Checkpoint) -> Network:
    extractor = transformers.ClapFeatureExtractor(**checkpoint.preprocessor)
    factor = _factor(checkpoint, extractor.sampling_rate)
    model = _load(checkpoint, transformers.ClapModel)
    is_fused = extractor.truncation == "fusion"
    mel = extractor.mel_filters if is_fused else extractor.mel_filters_slaney
    window = window_function(extractor.fft_window_size, "hann")
    framing = Framing(window, extractor.fft_window_size, extractor.hop_length, mel, DECIBEL_FLOOR, is_centred=True)
    frontend = frontends.ClapFrontend(framing, factor=factor, padding=extractor.padding, is_fused=is_fused)
    # The four pictures of a fused model are for sound that is longer than a segment; ours never is.
    not_longer = torch.zeros((1, 1), dtype=torch.bool)

    def embed(pictures: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = model.get_audio_features(input_features=pictures, is_longer=not_longer).pooler_output
        return found

    def reference(sound: Floats) -> Floats:
        inputs = extractor(_resampled(sound, factor), sampling_rate=extractor.sampling_rate, return_tensors="pt")
        return _row(embed(inputs["input_features"].float()))

    tokenizer = _tokenizer(checkpoint)

    def read(text: str) -> Floats:
        inputs = tokenizer([text], return_tensors="pt")
        return _row(model.get_text_features(inputs["input_ids"], attention_mask=inputs["attention_mask"]).pooler_output)

    samples = int(extractor.nb_max_samples) // factor
    return Network(_Chain(frontend, embed, model), samples, reference, model, text=_ClapText(model), read=read)


def _ast(checkpoint: Checkpoint) -> Network:
    extractor: Any = transformers.ASTFeatureExtractor(**checkpoint.preprocessor)  # type: ignore[no-untyped-call]
    _factor(checkpoint, extractor.sampling_rate, only=1)
    model = _load(checkpoint, transformers.ASTForAudioClassification)
    mel = mel_filter_bank(
        num_frequency_bins=AST_FFT // 2 + 1,
        num_mel_filters=extractor.num_mel_bins,
        min_frequency=20,
        max_frequency=RATE_HZ // 2,
        sampling_rate=RATE_HZ,
        norm=None,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    window = window_function(AST_WINDOW, "hann", periodic=False)
    framing = Framing(window, AST_FFT, AST_HOP, mel, KALDI_FLOOR, is_centred=False, preemphasis=0.97, removes_mean=True)
    scale = (extractor.mean, extractor.std) if extractor.do_normalize else (0.0, 0.5)
    frontend = frontends.AstFrontend(framing, mean=scale[0], std=scale[1])

    def embed(picture: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = model.classifier.layernorm(model.audio_spectrogram_transformer(picture).pooler_output)
        return found

    def reference(sound: Floats) -> Floats:
        inputs = extractor(sound, sampling_rate=RATE_HZ, return_tensors="pt")
        return _row(embed(inputs["input_values"].float()))

    samples = (extractor.max_length - 1) * AST_HOP + AST_WINDOW
    return Network(_Chain(frontend, embed, model), samples, reference, model)


def _whisper(checkpoint: Checkpoint) -> Network:
    extractor: Any = transformers.WhisperFeatureExtractor(**checkpoint.preprocessor)  # type: ignore[no-untyped-call]
    _factor(checkpoint, extractor.sampling_rate, only=1)
    encoder = _load(checkpoint, transformers.WhisperModel, "encoder.").get_encoder()
    window = window_function(extractor.n_fft, "hann")
    mel = extractor.mel_filters
    framing = Framing(window, extractor.n_fft, extractor.hop_length, mel, DECIBEL_FLOOR, is_centred=True)

    def reference(sound: Floats) -> Floats:
        inputs = extractor(sound, sampling_rate=RATE_HZ, return_tensors="pt")
        with torch.no_grad():
            states = encoder(inputs["input_features"].float()).last_hidden_state[0]
        found: Floats = states[: -(-len(sound) // WHISPER_STEP)].mean(dim=0).numpy()
        return found

    return Network(_WhisperEncoder(frontends.WhisperFrontend(framing), encoder), int(extractor.n_samples), reference, encoder)


def open_tokenizer(checkpoint: Checkpoint) -> bytes:
    """The checkpoint's tokenizer as tokenizer.json.

    Raises:
        ModelError: it has none that can be written as one.
    """
    tokenizer = _tokenizer(checkpoint)
    if not tokenizer.is_fast:
        raise ModelError(f"{checkpoint.folder} has no tokenizer.json.", hint="Save its tokenizer with transformers 5.")
    text: str = tokenizer.backend_tokenizer.to_str()
    return text.encode()


def _tokenizer(checkpoint: Checkpoint) -> Any:  # noqa: ANN401
    # Said outright: not told, transformers would ask the person whether code beside the tokenizer may run.
    kind: Any = transformers.AutoTokenizer
    return kind.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)


def _factor(checkpoint: Checkpoint, rate_hz: int, *, only: int = 0) -> int:
    """How many times 16 kHz the checkpoint's rate is."""
    factor, rest = divmod(int(rate_hz), RATE_HZ)
    if rest or not factor or (only and factor != only):
        raise ModelError(
            f"{checkpoint.folder / 'preprocessor_config.json'} wants {rate_hz} samples a second.",
            hint="Earmark hears 16000 a second, and makes whole multiples of that for CLAP.",
        )
    return factor


def _resampled(sound: Floats, factor: int) -> Floats:
    """The same sound at `factor` times its rate, by the definition: zeros in between, then the kernel, in float64."""
    if factor == 1:
        return sound
    stuffed = np.zeros(len(sound) * factor)
    stuffed[::factor] = sound
    kernel = frontends.resampling_kernel(factor)
    side = len(kernel) // 2
    smooth = np.convolve(stuffed, kernel)[side : side + len(stuffed)]
    return smooth.astype(np.float32)


def _row(found: torch.Tensor) -> Floats:
    row: Floats = found.detach()[0].numpy()
    return row
