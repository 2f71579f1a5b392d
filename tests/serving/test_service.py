"""What a service refuses before it loads anything, and what it keeps from garbage collections."""

from __future__ import annotations

import gc

import pytest
from fastapi.testclient import TestClient

from gliclass_fast.serving.app import create_app
from gliclass_fast.serving.service import Service
from gliclass_fast.serving.settings import ServeSettings


@pytest.mark.parametrize("id", ["__base__", ""])
def test_ids_that_mean_no_adapter(id: str) -> None:
    with pytest.raises(ValueError, match=f"the adapter in 'a/folder' cannot have the id '{id}'"):
        Service(ServeSettings(model="nowhere/at/all", adapters={"fine": "b/folder", id: "a/folder"}))


@pytest.mark.parametrize(
    "prefix",
    ["", "/", "gliclass", "/{x}", "/{", "/a?b", "/a#b", "/a b", "/a//b", "/a\n", "/é",
     "/a%20b", "/openapi.json", "/adapter-cache", "/classify/"],
)  # fmt: skip
def test_prefixes_that_are_no_path_of_their_own(prefix: str) -> None:
    with pytest.raises(ValueError, match="route_prefix must be a path beside our own routes"):
        create_app(ServeSettings(model="nowhere/at/all", route_prefix=prefix))


def test_garbage_collections_leave_out_what_lives_as_long_as_the_service() -> None:
    with TestClient(create_app(ServeSettings(device="cpu"))):
        assert gc.get_freeze_count() > 50_000  # the modules alone
    assert gc.get_freeze_count() == 0
