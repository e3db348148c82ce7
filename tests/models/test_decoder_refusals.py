"""What methods inside the language model refuse: other layers, backends, counts; and what a failure leaves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from transformers import LlavaForConditionalGeneration

from evoprune import DART, FastV, FitPrune, Random, apply
from evoprune.models import UnsupportedModel
from evoprune.models.decoder_cache import Columns, Memory
from evoprune.recipes import Recipe, identify
from tests import builders
from tests.models.by_hand import TEXTS, inputs, model, sliding

SIZES: dict[str, Any] = {
    "vocab_size": 261, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LEFT = (40, 30, 20)


def around(config: str, **extra: Any) -> Any:
    """Return a tiny LLaVA whose language model is of another family."""
    whole = builders.config()
    whole.text_config = getattr(transformers, config)(**SIZES, **extra)
    torch.manual_seed(0)
    built = LlavaForConditionalGeneration._from_config(whole, attn_implementation="sdpa").eval()
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.15)
    return built


def recipe(language: Any, *left: int) -> FitPrune:
    return FitPrune(Recipe(64, left, identify(language.config)))


@pytest.mark.parametrize("config", ["MistralConfig", "Phi3Config", "StableLmConfig", "HeliumConfig"])
@torch.no_grad()
def test_layers_that_drop_inside_leave_the_rest_as_it_was(config: str) -> None:
    """What the first layer drops goes behind its attention, so that the last token leaves it as natively."""
    language = around(config, **({"head_dim": 8} if config == "HeliumConfig" else {}))
    x = inputs(TEXTS[:1], [1])
    native = language(**x, output_hidden_states=True).hidden_states[1]
    with apply(language, recipe(language, *LEFT)):
        found = language(**x, output_hidden_states=True).hidden_states[1]
    assert native.shape[1] - found.shape[1] == 64 - LEFT[0]
    torch.testing.assert_close(found[:, -1], native[:, -1], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "extra", "words"),
    [
        ("GraniteConfig", {"residual_multiplier": 0.22}, "has residual_multiplier"),
        ("Glm4Config", {"head_dim": 8}, "has post_self_attn_layernorm and post_mlp_layernorm"),
        ("Olmo2Config", {}, "has post_feedforward_layernorm"),
        ("CohereConfig", {}, "has no post_attention_layernorm"),
    ],
)
@torch.no_grad()
def test_layers_of_another_form_are_refused_where_it_matters(config: str, extra: Any, words: str) -> None:
    language, x = around(config, **extra), inputs(TEXTS[:1], [1])
    with pytest.raises(UnsupportedModel, match=words):
        apply(language, recipe(language, *LEFT))
    with apply(language, FastV(8, layer=1)) as handle:  # behind a layer its form is of no matter
        assert torch.isfinite(language(**x).logits).all()
        assert handle.stats.decoder_tokens == ((8, 8, 8),)


def _fail(*args: Any) -> None:
    raise RuntimeError("on purpose")


@torch.no_grad()
def test_a_failure_between_norm_and_mlp_leaves_nothing_behind() -> None:
    language, x, words = model(), inputs(TEXTS[:1], [1]), inputs(["hello there"], [])
    native = language(**words).logits
    with apply(language, recipe(language, 40, 30, 20, 10)):
        for layer in language.model.language_model.layers[:2]:
            hook = layer.mlp.register_forward_pre_hook(_fail)
            with pytest.raises(RuntimeError, match="on purpose"):
                language(**x)
            hook.remove()
            assert torch.equal(language(**words).logits, native)


def test_another_backend_after_apply_is_noticed() -> None:
    language, x = model("eager"), inputs(TEXTS[:1], [1])
    with apply(language, FastV(8)):
        language.model.language_model.set_attn_implementation("sdpa")
        with pytest.raises(RuntimeError, match="changed from 'eager' to 'sdpa' after the pruner was applied"):
            language(**x)


def test_flash_attention_with_windows_is_refused() -> None:
    language = sliding(16)
    language.model.language_model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ValueError, match="would count its sliding window in the tokens that are left"):
        apply(language, FastV(8))


def test_fewer_than_the_least_is_refused_by_apply_on_every_family() -> None:
    with pytest.raises(ValueError, match="keep=3 is less than the 4 tokens that dart with these settings leaves"):
        apply(model(), DART(3))


@torch.no_grad()
def test_embeddings_with_pictures_in_them_are_told_of() -> None:
    language, x = model(), inputs(TEXTS[:1], [1])
    embeds = language.get_input_embeddings()(x["input_ids"])
    with apply(language, FastV(8)) as handle, pytest.warns(UserWarning, match="which of the inputs_embeds are visual"):
        language(inputs_embeds=embeds)
    assert handle.stats.decoder_tokens == ()


@torch.no_grad()
def test_a_second_turn_whose_rows_shrink_unequally_is_refused() -> None:
    """The cached columns of a row would have to move: natively they stay where they are."""
    language, x = builders.model(), builders.inputs(["a <image> b", "cd <image>"], [1, 2])
    more = builders.inputs([" <image> x", " y" + " z" * 40], [3])
    with apply(language, Random(16)):
        first = language.generate(**x, max_new_tokens=2, do_sample=False, return_dict_in_generate=True)
        ids = torch.cat((first.sequences, more["input_ids"]), dim=1)
        mask = torch.cat((x["attention_mask"], torch.ones(2, 2, dtype=torch.long), more["attention_mask"]), dim=1)
        with pytest.raises(ValueError, match="rows of this turn lose different numbers of visual tokens"):
            language.generate(
                input_ids=ids, attention_mask=mask, pixel_values=more["pixel_values"], max_new_tokens=2,
                do_sample=False, past_key_values=first.past_key_values,
            )  # fmt: skip


def test_layers_that_hold_the_same_share_what_is_noted() -> None:
    one, other = Columns(torch.tensor([[0, 2]]), 3), Columns(torch.tensor([[0]]), 3)
    memory = Memory.after(None, {4: one, 5: one, 6: other}, 3, False)
    assert memory.held[4] is memory.held[5] is not memory.held[6]
    wide = memory.checked(3, 2)
    assert wide.held[4] is wide.held[5] and wide.held[4].values.tolist() == [[0, 2], [0, 2]]
    with pytest.raises(ValueError, match=r"held 2 rows .* and 3 are asked for"):
        wide.checked(3, 3)
    with pytest.raises(ValueError, match="holds 2 tokens but held 3"):
        memory.checked(2, 1)
