"""The four arrays of a prompt keep one order and one set of names."""

import numpy as np

from ois_client.contract.clicks import PROMPT_NAMES, Prompts

PROMPTS = Prompts(np.zeros((1, 48, 2)), np.zeros((1, 48)), np.zeros((1, 3, 4)), np.zeros(1))


def test_the_names_and_the_iteration_have_the_order_of_the_fields():
    assert PROMPT_NAMES == ("points", "labels", "coverage", "has_previous")
    assert tuple(PROMPTS.named()) == PROMPT_NAMES
    for name, array, value in zip(PROMPT_NAMES, PROMPTS, PROMPTS.named().values(), strict=True):
        assert array is value is getattr(PROMPTS, name)


def test_a_function_is_applied_to_each_array():
    shapes = PROMPTS.map(np.shape)
    assert isinstance(shapes, Prompts)
    assert tuple(shapes) == ((1, 48, 2), (1, 48), (1, 3, 4), (1,))
