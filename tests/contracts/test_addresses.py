"""Addresses with passwords: how they are shown, kept and compared."""

from __future__ import annotations

from dataclasses import replace

import pytest

from optimizers.contract.addresses import (
    problem_of,
    resolved_address,
    without_masked_password,
    without_password,
)
from optimizers.contract.errors import InvalidDocument, NotSupported
from optimizers.contract.host import this_host
from optimizers.contract.job import job_id
from optimizers.contract.profile import Profile, Task, profile_document
from optimizers.contract.runtime import SessionSpec
from optimizers.search.storage import engine_address

SECRET = "pa:ss/w0rd"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (f"postgresql://u:{SECRET}@h:5432/n", "postgresql://u:***@h:5432/n"),
        (f"postgresql+psycopg://:{SECRET}@h/n", "postgresql+psycopg://:***@h/n"),
        (
            f"postgresql://h/n?user=u&password={SECRET}&x=1",
            "postgresql://h/n?user=u&password=***&x=1",
        ),
        (f"postgresql:/u:{SECRET}@h/n", "postgresql:/u:***@h/n"),
        (f"cannot reach postgresql://u:{SECRET}@h/n", "cannot reach postgresql://u:***@h/n"),
        ("postgresql://u@h:5432/n", "postgresql://u@h:5432/n"),
        ("sqlite:////home/a@b/study.sqlite", "sqlite:////home/a@b/study.sqlite"),
        ("postgresql://u:my secret word@h/n", "postgresql://u:***@h/n"),
        ("postgresql://h/n?password=my secret&x=1", "postgresql://h/n?password=***&x=1"),
        ("s3://bucket/folder", "s3://bucket/folder"),
        ("env:NAME", "env:NAME"),
    ],
)
def test_an_address_is_shown_without_its_password(address: str, shown: str) -> None:
    assert without_password(address) == shown
    assert without_password(shown) == shown


def test_an_address_kept_without_its_password_asks_the_driver_for_one() -> None:
    assert without_masked_password("postgresql://u:***@h/n") == "postgresql://u@h/n"
    assert without_masked_password("postgresql://u@h/n") == "postgresql://u@h/n"
    shown = "postgresql://h/n?password=***&user=u&sslpassword=***"
    assert without_masked_password(shown) == "postgresql://h/n?user=u"
    assert without_masked_password("postgresql://h/n?password=***") == "postgresql://h/n"


def test_an_address_may_lie_in_the_environment() -> None:
    environment = {"HERE": "postgresql://u:p@h/n", "EMPTY": "", "LINE": "s3://bucket\n"}
    assert resolved_address("env:LINE", environment, "artefacts") == "s3://bucket"
    assert resolved_address("env:HERE", environment, "storage") == environment["HERE"]
    assert resolved_address("s3://bucket", environment, "storage") == "s3://bucket"
    for name in ("NOWHERE", "EMPTY"):
        with pytest.raises(NotSupported, match=f"the environment variable {name} is not set"):
            resolved_address(f"env:{name}", environment, "storage")


@pytest.mark.parametrize(
    "address", ["postgresql://u:s3cret@tail@h/n", "postgresql://u:pa/ss@tail@h/x?a=b"]
)
def test_an_address_with_a_second_at_is_refused_before_a_driver_shows_the_rest(
    address: str,
) -> None:
    with pytest.raises(NotSupported, match="write one in a password as %40") as refused:
        engine_address(address)
    assert "search.storage (postgresql://u:***@h/" in str(refused.value)
    assert "tail" not in str(refused.value)


def test_an_at_elsewhere_is_no_mistake() -> None:
    for right in ("postgresql://u:s3%40cret@h/n", "sqlite:////home/a@b/c@d.sqlite", "s3://b/a@b@c"):
        assert not problem_of(right)


def _profile(storage: str) -> Profile:
    text = f"search: {{storage: '{storage}', artefacts: 'ftp://u:{SECRET}@h/x'}}"
    return profile_document(text, "edge.yaml", "edge")


def test_what_is_kept_beside_results_has_no_password_and_is_the_same_wish() -> None:
    profile = _profile(f"postgresql://u:{SECRET}@h/n")
    kept = profile.without_secrets()
    assert SECRET not in str(kept)
    assert SECRET not in str(kept.to_data())
    assert kept == profile
    assert _profile("env:HONE_STORAGE").to_data()["search"]["storage"] == "env:HONE_STORAGE"


def test_a_new_password_asks_for_no_new_work() -> None:
    def name(profile: Profile) -> str:
        return job_id(
            model="m",
            version=1,
            profile=profile,
            task=Task.OTHER,
            original_sha256="",
            original_session=SessionSpec(),
            data_sha256={},
            models_sha256={},
            host=this_host(),
        )

    profile = _profile("postgresql://u:old@h/n")
    assert name(profile) == name(_profile("postgresql://u:new@h/n"))
    assert profile.search is not None
    assert name(profile) != name(replace(profile, search=replace(profile.search, seed=1)))


def test_a_storage_that_is_no_address_is_refused_without_showing_its_password() -> None:
    with pytest.raises(InvalidDocument, match="or env:NAME") as refused:
        _profile(f"postgresql:/u:{SECRET}@h/n")
    assert SECRET not in str(refused.value)
    with pytest.raises(InvalidDocument, match="or env:NAME") as refused:
        _profile("postgresql://u:my secret word@h/n")
    assert "secret" not in str(refused.value)
