"""Configuration: all settings of one start, from flags, `BUDMLX_*` variables and the TOML file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from budmlx.config.explain import TABLES, explain
from budmlx.config.model import OF_ONE_MODEL, ModelConfig
from budmlx.config.server import ServerConfig
from budmlx.config.tables import same_place, table_for, where_is
from budmlx.errors import ConfigError

ENV_PREFIX = "BUDMLX_"


class Environment(EnvSettingsSource):
    """`BUDMLX_*` variables: one for every setting but the tables."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """See pydantic-settings; None stands for a variable that is not set."""
        if field_name == TABLES:
            return None, field_name, False
        return super().get_field_value(field, field_name)


class Config(ServerConfig, ModelConfig, BaseSettings):
    """Settings of the server and of its models, with their names as keyword arguments.

    The settings of `ModelConfig` are the defaults of all models; a table of `models` holds
    what is different for one. Field descriptions are the help texts of the flags.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    models: Mapping[str, ModelConfig] = Field(
        {}, description="Settings of single models, as tables [models.NAME]."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Keyword arguments, then the environment."""
        return init_settings, Environment(settings_cls)

    @classmethod
    def of(cls, **values: Any) -> Self:
        """Build from keyword arguments over the environment, without a TOML file.

        Raises:
            ConfigError: a setting is unknown or has an unusable value.
        """
        return cls.checked(values)

    @classmethod
    def checked(cls, values: Mapping[str, Any], places: Mapping[str, str] | None = None) -> Self:
        """Build as `of` does, with the places of the values for its errors; see `explain`.

        Raises:
            ConfigError: a setting is unknown or has an unusable value.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            raise ConfigError(explain(error, places, cls.model_fields)) from error

    def for_model(self, name: str | None = None) -> Self:
        """These settings with those of one model in place of the defaults, and no tables.

        name: a name of a model, or where it is, like `model`; `model` itself if not given, or
        else the model of the only table. A model without a table has the defaults, but for those
        `OF_ONE_MODEL`, which only the model has that is meant without a name. A table's own name
        is the model, if it says no `model`, or else one of its aliases.

        Raises:
            ConfigError: no model is named and several have tables, or several tables fit.
        """
        wanted = self.model if name is None else name
        label = table_for(self.models, wanted)
        values: dict[str, Any] = {"model": wanted, TABLES: {}}
        if not self.is_main(name):
            values |= {
                key: type(self).model_fields[key].default for key in OF_ONE_MODEL - {"model"}
            }
        if label is None:
            return self.model_copy(update=values)
        table = self.models[label]
        values |= {key: getattr(table, key) for key in table.model_fields_set}
        values["model"] = where_is(label, table, wanted)
        if label != values["model"]:
            values["alias"] = (label, *values.get("alias", self.alias))
        return self.model_copy(update=values)

    def is_main(self, name: str | None = None) -> bool:
        """Whether a name is of the model that is meant without one.

        Raises:
            ConfigError: see `for_model`.
        """
        if name is None or name == self.model:
            return True
        if self.model is None and len(self.models) != 1:
            return False
        label = table_for(self.models, self.model)
        return (
            same_place(name, self.model) if label is None else label == table_for(self.models, name)
        )
