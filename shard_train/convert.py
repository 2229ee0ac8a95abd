"""Write a GGUF file as a Hugging Face checkpoint, the starting point for training it.

    python -m shard_train.convert OUT_FOLDER               # the embedded model
    python -m shard_train.convert OUT_FOLDER model.gguf

The weights are the dequantised ones in bf16. An adapter trained on them is scored on the GGUF itself, base and adapter
in one engine: `shard score model.gguf --adapter FOLDER`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from contextlib import redirect_stderr
from pathlib import Path

import platformdirs

from shard_eval import engine
from shard_eval.errors import DataError, UsageError
from shard_eval.packaged import SMOLLM2, file_sha, obtain

MARKER = "converted_from.json"  # only a finished conversion has it
_ASK = {
    "role": "user",
    "content": "I don't have 12345 of them: $3.50!\n\n  Naïve café 東京 —\tdef f(x):\n    return x\r\n",
}
_REPLY = {"role": "assistant", "content": "Sure, 7 things."}
_SYSTEM = {"role": "system", "content": "Be brief."}
CONVERSATIONS = ([_ASK], [_SYSTEM, _ASK], [_ASK, _REPLY, _ASK])


def embedded_checkpoint(folder: Path) -> Path:
    """Convert the embedded model; see `checkpoint_from_gguf`."""
    return checkpoint_from_gguf(obtain(SMOLLM2)[0], folder)


def checkpoint_from_gguf(gguf: Path, folder: Path) -> Path:
    """Convert a GGUF file, unless the folder holds its conversion already.

    Args:
        gguf: the file.
        folder: where to; must not exist, be empty, or hold what this function made of the same file.

    Returns:
        The folder, with safetensors in bf16, the tokenizer and the chat template.

    Raises:
        UsageError: if the folder holds something else, there is no such file, or the extra is not installed.
        DataError: if the checkpoint's tokenizer would feed a conversation otherwise than llama.cpp does.
    """
    gguf = engine.gguf_path(str(gguf))
    made = {"gguf_sha256": file_sha(gguf), "dtype": "bfloat16"}
    if folder.exists() and any(folder.iterdir()):
        if _made(folder, made):
            return folder
        raise UsageError(f"{folder} is not empty and holds no conversion of {gguf.name}. Name a new folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    engine.render(gguf, CONVERSATIONS[0])  # a file that llama.cpp cannot serve is refused at once
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        part = Path(temporary) / folder.name
        _convert(gguf, part)
        require_same_rendering(gguf, part)
        (part / MARKER).write_text(json.dumps(made))
        try:
            if folder.exists():
                folder.rmdir()
            os.replace(part, folder)  # a killed conversion leaves nothing under this name
        except OSError:
            if not _made(folder, made):  # else another process finished the same meanwhile
                raise
    return folder


def _made(folder: Path, made: dict[str, str]) -> bool:
    """Whether a folder holds the finished conversion of a file."""
    marker = folder / MARKER
    return marker.is_file() and json.loads(marker.read_text()) == made


def kept(gguf: Path) -> Path:
    """The conversion of a GGUF file in the user's cache; made once.

    Raises:
        UsageError, DataError: as `checkpoint_from_gguf`.
    """
    path = engine.gguf_path(str(gguf))
    return checkpoint_from_gguf(path, platformdirs.user_cache_path("shard-eval") / "checkpoints" / file_sha(path)[:16])


def _convert(gguf: Path, folder: Path) -> None:
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    except ImportError as error:
        raise UsageError("converting needs torch and transformers: pip install 'shard-eval[train]'.") from error
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):  # three progress bars of no use to anybody
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.bfloat16,
            # Without it the model stays marked as quantised and cannot be saved.
            quantization_config=GgufConfig(dequantize=True),
        )
        model.save_pretrained(folder)


def require_same_rendering(gguf: Path, checkpoint: Path) -> None:
    """Check that training feeds the model what serving feeds it: text and tokens of three kinds of conversation.

    Raises:
        DataError: if one differs.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    if tokenizer.chat_template is None:
        raise DataError(
            f"{gguf.name} has no chat template, so it cannot be trained as an assistant. Take another file."
        )
    for messages in CONVERSATIONS:
        ours = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        theirs = engine.render(gguf, messages)
        tokens = tokenizer(ours, add_special_tokens=False)["input_ids"]
        if ours != theirs or tokens != engine.tokenize(gguf, theirs):
            roles = ", ".join(m["role"] for m in messages)
            raise DataError(
                f"{gguf.name}: a conversation [{roles}] is fed to the model as {ours!r} in training and as {theirs!r} "
                f"in serving ({'other tokens' if ours == theirs else 'other text'}). Fix the chat template in the GGUF."
            )


if __name__ == "__main__":
    arguments = [Path(a) for a in sys.argv[1:]]
    print(checkpoint_from_gguf(arguments[1], arguments[0]) if arguments[1:] else embedded_checkpoint(arguments[0]))
