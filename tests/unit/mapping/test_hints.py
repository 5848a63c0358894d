"""What a person is told who wrote a mapping almost right: the next thing to type, not only what is wrong."""

from __future__ import annotations

import pytest

from sync_hub.errors import ConfigError
from tests.unit.mapping.conftest import compiled


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("key: [id]\nfields: {id: id, n: array_length(data)}", "write cardinality(array)"),
        ("key: [id]\nfields:\n  id: id\n  n: nvl(name, code)", "write coalesce(value, otherwise)"),
        ("key: [id]\nfields: {id: id, n: coalesce(name, code)}", "a comma ends the expression"),
        ("key: [id]\nfields: {id: id, system: webshop}", "alone {value: webshop}"),
        ("key: [id]\nfields: {id: id, system: nmae}", "did you mean name?"),
        ("key: [name]\ncopy: [id, name]", "use the source's key: id"),
        ("key: [who]\nfields: {who: upper(name)}", "use the source's key: id"),
    ],
)
def test_a_mapping_that_is_almost_right_is_told_what_to_write(body: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compiled(body)
    assert says in caught.value.hint
