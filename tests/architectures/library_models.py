"""timm's and transformers' families from small configurations; nothing is downloaded."""

from functools import partial

import timm
import transformers
from torch import nn


def _timm(name: str, **options: object) -> nn.Module:
    return timm.create_model(name, pretrained=False, num_classes=5, **options)


def timm_vit() -> nn.Module:
    return _timm("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=24, num_heads=2)


def timm_vit_registers() -> nn.Module:
    """Register tokens, scaled layers, and a head over averaged tokens."""
    options = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2, "reg_tokens": 2}
    return _timm("vit_tiny_patch16_224", init_values=0.1, class_token=False, global_pool="avg", **options)


def timm_swin() -> nn.Module:
    options = {
        "img_size": 32,
        "patch_size": 2,
        "window_size": 4,
        "embed_dim": 12,
        "depths": (2, 2),
        "num_heads": (2, 3),
    }
    return _timm("swin_tiny_patch4_window7_224", **options)


def timm_convnext() -> nn.Module:
    return _timm("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))


def timm_convnext_v2() -> nn.Module:
    return _timm("convnextv2_atto", depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))


def timm_mixer() -> nn.Module:
    return timm.models.MlpMixer(num_classes=5, img_size=32, patch_size=8, num_blocks=2, embed_dim=24)


def timm_efficientnet() -> nn.Module:
    blocks = [["ds_r1_k3_s1_e1_c8_se0.25"], ["ir_r1_k3_s2_e4_c12_se0.25"], ["ir_r1_k5_s2_e4_c16_se0.25"]]
    arguments = timm.models._efficientnet_builder.decode_arch_def(blocks)
    return timm.models.EfficientNet(arguments, num_classes=5, num_features=32, stem_size=8)


def timm_resnet() -> nn.Module:
    """Squeeze and excitation, a deep stem, average pooling in its shortcuts."""
    options = {"layers": (1, 1, 1, 1), "channels": (8, 16, 24, 32), "stem_width": 8, "stem_type": "deep"}
    return _timm("seresnet18", avg_down=True, **options)


def timm_resnetv2() -> nn.Module:
    """Weight-standardized convolutions and group normalization before them."""
    norm = partial(timm.layers.GroupNormAct, num_groups=4)
    options = {"conv_layer": timm.layers.StdConv2d, "norm_layer": norm, "stem_type": "fixed"}
    return timm.models.ResNetV2((1, 1), (32, 64), num_classes=5, stem_chs=16, **options)


def timm_beit() -> nn.Module:
    """Tables of relative positions, queries and values with a bias and keys without."""
    options = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2}
    return _timm("beit_base_patch16_224", **options)


def timm_deit_distilled() -> nn.Module:
    options = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2}
    return _timm("deit_tiny_distilled_patch16_224", **options)


_SMALL = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
_SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=40, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2
    )
    return transformers.GPT2LMHeadModel(config)


def bert() -> nn.Module:
    config = transformers.BertConfig(**_SMALL, intermediate_size=32, max_position_embeddings=16)
    return transformers.BertForSequenceClassification(config)


def bert_masked() -> nn.Module:
    config = transformers.BertConfig(**_SMALL, intermediate_size=32, max_position_embeddings=16)
    return transformers.BertForMaskedLM(config)


def t5() -> nn.Module:
    config = transformers.T5Config(
        vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config)


def llama() -> nn.Module:
    config = transformers.LlamaConfig(
        **_SMALL, intermediate_size=32, num_key_value_heads=1, max_position_embeddings=32, **_SPECIAL
    )
    return transformers.LlamaForCausalLM(config)


def mixtral(experts: str) -> nn.Module:
    config = transformers.MixtralConfig(
        **_SMALL,
        intermediate_size=32,
        num_key_value_heads=1,
        num_local_experts=4,
        max_position_embeddings=32,
        **_SPECIAL,
    )
    config._experts_implementation = experts
    return transformers.MixtralForCausalLM(config)


def mamba() -> nn.Module:
    config = transformers.MambaConfig(vocab_size=40, hidden_size=16, state_size=4, num_hidden_layers=2, **_SPECIAL)
    return transformers.MambaForCausalLM(config)


def hf_vit() -> nn.Module:
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    return transformers.ViTForImageClassification(config)


def wav2vec2() -> nn.Module:
    """Convolutions on sound, and position embeddings by a convolution with weight normalization."""
    config = transformers.Wav2Vec2Config(
        **_SMALL,
        intermediate_size=32,
        conv_dim=(8, 8),
        conv_stride=(4, 2),
        conv_kernel=(8, 4),
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        num_feat_extract_layers=2,
        apply_spec_augment=False,
        layerdrop=0.0,
    )
    return transformers.Wav2Vec2ForSequenceClassification(config)
