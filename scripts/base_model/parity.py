"""Hold the sentence graphs against torch on a hundred texts before anything is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np

EXACT, SMALL = 0.9999, 0.99
TEXTS = Path(__file__).with_name("texts.txt").read_text(encoding="utf-8").splitlines()


class ParityError(Exception):
    """A graph gives other vectors than the model it was made from."""


def token_ids(tokenizer: bytes, texts: list[str]) -> list[np.ndarray]:
    """Each text's token ids, (t,) int64."""
    from tokenizers import Tokenizer

    tokens = Tokenizer.from_buffer(tokenizer)
    return [np.array(tokens.encode(text).ids, np.int64) for text in texts]


def torch_vectors(weights: dict[str, np.ndarray], tokenizer: bytes, texts: list[str]) -> np.ndarray:
    """(n, 384) float32 unit rows from transformers' own BERT: the oracle."""
    import torch
    from transformers import BertConfig, BertModel

    torch.set_num_threads(1)
    config = BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536, layer_norm_eps=1e-12)
    model = BertModel(config, add_pooling_layer=False).eval()
    state = {name: torch.from_numpy(value.copy()) for name, value in weights.items() if not name.startswith("pooler.")}
    state.pop("embeddings.position_ids", None)
    model.load_state_dict(state, strict=True)
    rows = []
    with torch.no_grad():
        for tokens in token_ids(tokenizer, texts):
            ids = torch.from_numpy(tokens[None])
            hidden = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            rows.append(torch.nn.functional.normalize(hidden.mean(1)).numpy()[0])
    return np.stack(rows)


def graph_vectors(model: bytes, tokenizer: bytes, texts: list[str]) -> np.ndarray:
    """(n, 384) float32 unit rows from a sentence graph, one text at a time, one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rows = []
    for tokens in token_ids(tokenizer, texts):
        ids = tokens[None]
        rows.append(session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][0])
    return np.stack(rows)


def check_sentence(exact: bytes, small: bytes, weights: dict[str, np.ndarray], tokenizer: bytes) -> None:
    """Compare the float32 and the int8 graph with torch.

    Raises:
        ParityError: a text's cosine to torch's vector is under .9999 (float32) or .99 (int8).
    """
    oracle = torch_vectors(weights, tokenizer, TEXTS)
    for name, model, least in (("float32", exact, EXACT), ("int8", small, SMALL)):
        cosine = (graph_vectors(model, tokenizer, TEXTS) * oracle).sum(axis=1)
        if cosine.min() < least:
            worst = TEXTS[int(cosine.argmin())]
            raise ParityError(f"{name}: cosine {cosine.min():.5f} to torch for {worst!r}, less than {least}")
