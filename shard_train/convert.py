"""Write the embedded model as a Hugging Face checkpoint, the starting point for training it.

    python -m shard_train.convert OUT_FOLDER

The weights are the dequantised Q4_1 ones (269 MB in bf16): arms trained from them are compared with this checkpoint
on the same engine, never with the GGUF on llama.cpp.
"""

from __future__ import annotations

import sys
from pathlib import Path

from shard_eval.embedded import weights
from shard_eval.errors import UsageError


def embedded_checkpoint(folder: Path) -> Path:
    """Convert the embedded model's GGUF file.

    Args:
        folder: where to; must not exist yet, or be empty.

    Returns:
        The folder, with safetensors in bf16, the tokenizer and the chat template.

    Raises:
        UsageError: if the folder holds something, or the extra is not installed.
        DataError: if the embedded model cannot be fetched.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty. Name a new folder.")
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    except ImportError as error:
        raise UsageError("converting needs torch and transformers: pip install 'shard-eval[train]'.") from error
    source = weights()
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    model = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        dtype=torch.bfloat16,
        # Without it the model stays marked as quantised and cannot be saved.
        quantization_config=GgufConfig(dequantize=True),
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    print(embedded_checkpoint(Path(sys.argv[1])))
