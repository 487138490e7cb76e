"""Small random checkpoints of the architectures that `earmark model import` takes, saved as transformers saves them."""

import json

from earmark_shared.settings import go_offline

go_offline()

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

torch.set_num_threads(1)  # two would wait for each other on a busy machine

SENTENCES = ("dog barking", "This is a sound of rain on a tin roof", "church bells", "a siren", "footsteps on gravel", "wind")
AST_NAMES = ("Dog", "Rain", "Siren", "Church bell", "Wind noise (microphone)")


def _lively(model, seed):
    """Weights as spread out as trained ones, so that different sounds give different outputs."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            weight.data = torch.randn(weight.shape, generator=generator) * weight[0].numel() ** -0.5
        elif name.endswith("bias"):
            weight.data = torch.randn(weight.shape, generator=generator) * 0.1
    return model


def make_ast(folder, *, seed=1, names=AST_NAMES, frames=100, **how):
    """An AST of two layers that hears about a second."""
    config = transformers.ASTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, num_mel_bins=32, max_length=frames,
        id2label=dict(enumerate(names)), label2id={name: at for at, name in enumerate(names)}, **how,
    )  # fmt: skip
    _lively(transformers.ASTForAudioClassification(config), seed).save_pretrained(folder)
    transformers.ASTFeatureExtractor(num_mel_bins=32, max_length=frames).save_pretrained(folder)
    return folder


def make_clap(folder, *, seed=2, truncation="rand_trunc", padding="repeatpad"):
    """A CLAP of two stages that hears two seconds, with a tokenizer of a few hundred words."""
    is_fused = truncation == "fusion"
    tokenizer = make_tokenizer()
    config = transformers.ClapConfig(
        text_config={
            "vocab_size": tokenizer.get_vocab_size(), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 48, "max_position_embeddings": 70, "projection_dim": 24,
        },
        audio_config={
            "window_size": 4, "num_mel_bins": 16, "spec_size": 64, "patch_size": 4, "patch_stride": [4, 4], "hidden_size": 32,
            "patch_embeds_hidden_size": 16, "depths": [2, 2], "num_attention_heads": [2, 2], "projection_dim": 24,
            "enable_fusion": is_fused, "aff_block_r": 2,
        },
        projection_dim=24,
    )  # fmt: skip
    _lively(transformers.ClapModel(config), seed).save_pretrained(folder)
    transformers.ClapFeatureExtractor(
        feature_size=16, max_length_s=2, truncation=truncation, padding=padding, frequency_min=50
    ).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder


def make_tokenizer():
    """Byte pairs as RoBERTa has them: `<s> words </s>`."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


def make_whisper(folder, *, seed=3):
    """A Whisper of two layers that hears two seconds."""
    config = transformers.WhisperConfig(
        vocab_size=64, num_mel_bins=16, d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=48,
        decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=48, max_source_positions=100, max_target_positions=16,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3,
    )  # fmt: skip
    _lively(transformers.WhisperModel(config), seed).save_pretrained(folder)
    transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=2).save_pretrained(folder)
    return folder


def edit_json(path, **changes):
    """Change a JSON file's keys; None takes one out."""
    table = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in table.items() if value is not None}))
