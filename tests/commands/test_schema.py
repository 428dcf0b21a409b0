"""``contrastive schema``."""

from __future__ import annotations

import json

import pytest

from contrastive.cli import main

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_schema_is_a_json_schema(capsys: pytest.CaptureFixture[str]):
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert "nt_xent" in json.dumps(schema)
