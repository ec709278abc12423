"""A forward pass with tensors that pretend to be on a GPU: each stays there, and kernels take their types.

PyTorch checks devices, shapes and arguments, and computes no number. It needs a build of PyTorch with CUDA, but no GPU.
"""

from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bertsmith.data.batch import Batch
from bertsmith.model import attention, new_config, new_model
from bertsmith.objective import count_targets, sum_losses

ROWS, LENGTH, SEQUENCES, PREDICTIONS = 4, 64, 16, 40


def pretended_batch() -> Batch:
    def ids(*shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
        return torch.zeros(*shape, dtype=dtype, device="cuda")

    places = ROWS * LENGTH
    starts, masked = ids(SEQUENCES + 1, dtype=torch.int32), ids(PREDICTIONS)
    return Batch(ids(places), ids(places), ids(places), starts, masked, masked, ids(SEQUENCES), LENGTH, places)


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="this build of PyTorch is without CUDA")
@pytest.mark.parametrize("generation", [8, 9])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", ["bert", "modernbert"])
def test_a_pass_stays_on_the_gpu(
    model_type: str, precision: str, dropout: float, generation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.nn.attention.varlen import varlen_attn

    called = []

    def counted(*arguments: object, **options: object) -> object:
        called.append(len(arguments))
        return varlen_attn(*arguments, **options)

    monkeypatch.setattr(attention, "varlen_attn", counted, raising=False)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _device: SimpleNamespace(major=generation, minor=0))
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
    config = new_config(
        model_type,
        special_ids={"pad_token_id": 0},
        max_position_embeddings=LENGTH,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        vocab_size=200,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=128,
    )
    with FakeTensorMode():
        with torch.device("cuda"):
            model = new_model(config, next_sentence=model_type == "bert")
        batch = pretended_batch()
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            sums = sum_losses(model, batch)
        loss = (sums.losses / count_targets(batch).clamp(min=1)).sum()
    assert (loss.device.type, loss.dtype, loss.requires_grad) == ("cuda", torch.float32, True)
    takes_packed = precision == "bfloat16" and not dropout and generation == 8  # the next one has cuDNN for short rows
    assert len(called) == (config.num_hidden_layers if takes_packed else 0)
