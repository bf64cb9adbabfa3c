"""The small world's tokenizer: a Hugging Face fast tokenizer whose tokens are two-digit numbers, digits and symbols.

Knows text and ids only; what the text means is in ``arithmetic.py``.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, BOX = "<pad>", "<bos>", "<eos>", "\\boxed{"
NUMBERS = tuple(f"{value:02d}" for value in range(100))
VOCABULARY = (PAD, BOS, EOS, *"0123456789", *"+-*", "=", ";", BOX, "}", *NUMBERS)
TOKEN_IDS = {token: index for index, token in enumerate(VOCABULARY)}
DIGIT_IDS = np.array([TOKEN_IDS[digit] for digit in "0123456789"])  # digit → id
NUMBER_IDS = np.array([TOKEN_IDS[number] for number in NUMBERS])  # value → id
OPERATION_IDS = np.array([TOKEN_IDS[symbol] for symbol in "+-*"])  # operation → id


def make_tokenizer(model_max_length: int = 64) -> "PreTrainedTokenizerFast":
    """A tokenizer that prepends BOS, inserts no spaces, and decodes exactly what it encoded.

    The vocabulary has no unknown token: a character outside it is an error instead of a silent substitute.
    """
    from tokenizers import Regex, Tokenizer
    from tokenizers.decoders import Fuse
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(WordLevel(dict(TOKEN_IDS)))
    tokenizer.pre_tokenizer = Split(Regex(r"\\boxed\{|[0-9]{2}|."), "isolated")
    tokenizer.decoder = Fuse()
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, TOKEN_IDS[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        model_max_length=model_max_length,
        clean_up_tokenization_spaces=False,
    )
