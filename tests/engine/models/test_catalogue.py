"""Names of models: which one answers to each, and when the disk is read for them."""

from __future__ import annotations

import asyncio
import shutil
import threading
from pathlib import Path

import pytest

from budmlx.config import Config, ModelConfig
from budmlx.engine.load.library.library import Library
from budmlx.engine.load.library.local_model import LocalModel
from budmlx.engine.models.catalogue import Catalogue, demo, offered
from budmlx.engine.models.models import Models
from budmlx.errors import ModelLoadError, ModelNotFoundError
from budmlx.testing.tiny_random import LLAMA
from tests.models import tiny_model_dir


class Watched(Library):
    """A library that notes the threads that read it."""

    def __init__(self, *arguments: object):
        super().__init__(*arguments, lm_studio=[])  # type: ignore[arg-type]
        self.threads: list[int] = []

    def models(self) -> list[LocalModel]:
        self.threads.append(threading.get_ident())
        return super().models()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(tiny_model_dir(), tmp_path / "org" / "small")
    return tmp_path


def catalogue(folder: Path, **settings: object) -> Catalogue:
    config = Config(models_dir=(str(folder),), **settings)
    library = Library([folder], hub_cache=folder / "hub", lm_studio=[])
    specs, all_local = offered(config, library)
    return Catalogue(config, specs, library if all_local else None)


def test_the_last_model_goes(folder: Path) -> None:
    with Models(Config(models_dir=(str(folder),))) as models:
        assert "org/small" in models.names and models.only is None
        shutil.rmtree(folder / "org")
        models.refresh()
        assert "org/small" not in models.names and models.only is None


def test_which_model_answers(folder: Path) -> None:
    names = catalogue(
        folder,
        aliases={"gpt-*": "org/small", "claude-*": "own", "gpt-5*": "own"},
        models={
            "own": ModelConfig(
                model=str(tiny_model_dir()), adapter=("a=/a", "b=/b"), alias=("mine",)
            )
        },
    )

    def found(name: str) -> tuple[str, str]:
        resident, adapter = names.find(name)
        return resident.name, adapter

    small, own = ("org/small", ""), names.find("own")[0].name
    assert found("gpt-4o") == found("gpt-4o:latest") == small
    assert found("gpt-5") == found("mine") == found("claude-x") == (own, "")
    assert found("own:a") == found("mine:a") == found("claude-x:a") == (own, "a")
    for name, words in (
        ("own:c", r"own has no adapter 'c'\. Its adapters: a, b\."),
        ("claude-x:c", r"claude-x has no adapter 'c'\. Its adapters: a, b\."),
        ("org/small:a", r"org/small has no adapter 'a'\. Its adapters: none\."),
        ("smal", r"No model named 'smal' is served here\."),
        ("org/smal", r"Did you mean org/small\?"),
        ("", "No model named ''"),
        (":", "No model named ':'"),
    ):
        with pytest.raises(ModelNotFoundError, match=words):
            names.find(name)


def test_the_default_answers_for_unknown_names_only(folder: Path) -> None:
    shutil.copytree(tiny_model_dir(), folder / "org" / "broken")
    (folder / "org" / "broken" / "model.safetensors").unlink()
    names = catalogue(folder, default_model="org/small")
    with pytest.raises(ModelNotFoundError, match=r"model\.safetensors is missing"):
        names.find("org/broken")
    assert names.find("anything")[0].name == names.find("any:thing")[0].name == "org/small"
    with pytest.raises(ModelNotFoundError, match="No model named 'anything'"):
        names.find("anything", default=False)
    with pytest.raises(ModelNotFoundError, match="no adapter 'thing'"):
        names.find("org/small:thing")


def test_the_demo_model_answers_to_every_name() -> None:
    config = Config(demo=True, adapter=("a=/a",))
    names = Catalogue(config, [demo(config)], any_name=True)
    assert names.find("gpt-4:x") == (names.find("demo")[0], "")
    assert names.find("gpt-4:a") == (names.find("demo")[0], "a")


def test_names_with_ollamas_tag(folder: Path) -> None:
    names = catalogue(folder)
    assert names.find("org/small:latest") == names.find("org/small")
    for name in ("org/small:7b", "nothing:latest"):
        with pytest.raises(ModelNotFoundError):
            names.find(name)


def test_what_tables_name_is_known_before_it_is_loaded(folder: Path) -> None:
    """Their bytes count in the memory that models share, wherever the models are."""
    path = str(folder / "org" / "small")
    names = catalogue(
        folder,
        models={"org/small": ModelConfig(), "two": ModelConfig(model=path), "x/y": ModelConfig()},
    )
    for name in ("org/small", "two"):
        resident = names.find(name)[0]
        assert resident.spec.weights > 400_000 and resident.longest == 8192
        assert resident.created > 1_700_000_000
    assert names.find("x/y")[0].spec.weights == 0


def test_a_model_that_is_gone_is_told_without_its_place(folder: Path) -> None:
    with Models(Config(models_dir=(str(folder),), engine_host="thread")) as models:
        shutil.copytree(tiny_model_dir(), folder / "org" / "late")
        models.refresh()
        served = models.find("org/late")
        shutil.rmtree(folder / "org" / "late")
        with pytest.raises(ModelLoadError) as caught, served.engine():
            pass
        assert caught.value.message == "org/late is not on this machine any more."
        models.refresh()
        with pytest.raises(ModelNotFoundError):
            models.find("org/late")


def test_files_that_changed_are_seen_until_a_model_is_loaded(folder: Path) -> None:
    names = catalogue(folder)
    resident, _ = names.find("org/small")
    before = resident.claim.weights
    shutil.rmtree(folder / "org" / "small")
    wide = {**LLAMA, "intermediate_size": 2 * LLAMA["intermediate_size"]}
    shutil.copytree(tiny_model_dir(wide), folder / "org" / "small")
    names.refresh()
    assert names.find("org/small")[0] is resident and resident.claim.weights > before
    resident.state = "loading"
    shutil.rmtree(folder / "org" / "small")
    shutil.copytree(tiny_model_dir(), folder / "org" / "small")
    names.refresh()
    assert resident.claim.weights > before


def test_models_are_loaded_from_the_start(folder: Path) -> None:
    for settings, expected in (
        ({}, []),
        ({"preload": ("org/small",)}, ["org/small"]),
        ({"preload": ("demo",), "demo": True}, ["budmlx-tiny"]),
        ({"demo": True}, ["budmlx-tiny"]),
    ):
        shutil.copytree(tiny_model_dir(), folder / "org" / "other", dirs_exist_ok=True)
        with Models(Config(models_dir=(str(folder),), **settings)) as models:
            assert [each.name for each in models.to_preload] == expected


async def test_an_event_loop_does_not_read_the_disk(folder: Path) -> None:
    config = Config(models_dir=(str(folder),), engine_host="thread")
    with Models(config) as models:
        library = Watched([folder], folder / "hub")
        models._catalogue._library = library
        models._catalogue._read_at -= 60
        assert (await models.afind("org/small")).name == "org/small" and not library.threads
        shutil.copytree(tiny_model_dir(), folder / "org" / "late")
        asked = [models.afind(name) for name in ("org/late", "x", "y", "z")]
        late, *unknown = await asyncio.gather(*asked, return_exceptions=True)
        assert not isinstance(late, BaseException) and late.name == "org/late"
        assert all(isinstance(each, ModelNotFoundError) for each in unknown)
        # Once for all of them, and not on this thread.
        assert len(library.threads) == 1 and threading.get_ident() not in library.threads
