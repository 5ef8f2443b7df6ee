"""Settings as a user writes them: YAML, and single values that take precedence."""

from __future__ import annotations

from typing import Any

from crystalformers.errors import ConfigError
from crystalformers.extras import optional

with optional("train", "a recipe"):
    import yaml


class _PlainLoader(yaml.SafeLoader):
    """YAML's plain values without aliases, by which a few lines could stand for more than a memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse an alias."""
        if self.check_event(yaml.AliasEvent):
            next_event: Any = self.peek_event
            raise yaml.YAMLError(
                f"line {next_event().start_mark.line + 1}: aliases such as *name are not read; write the value again"
            )
        return super().compose_node(parent, index)


def read_yaml(text: str, source: str) -> Any:
    """The value of a YAML text.

    Raises:
        ConfigError: naming `source` and what is wrong.
    """
    try:
        return yaml.load(text, _PlainLoader)
    except RecursionError:
        raise ConfigError(f"{source}: not a YAML file (lists within lists too deep to read).") from None
    except (yaml.YAMLError, ValueError) as error:  # of dates and numbers that are none
        raise ConfigError(f"{source}: not a YAML file ({' '.join(str(error).split())}).") from None


def with_overrides(settings: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Settings with others in front, where `init.model` names a setting of a section."""
    merged = dict(settings)
    for name, value in overrides.items():
        section, dot, inner = name.partition(".")
        if dot:
            present = merged.get(section) or {}
            if section == "init" and isinstance(present, str):
                present = {"model": present}
            merged[section] = with_overrides(present if isinstance(present, dict) else {}, {inner: value})
        else:
            merged[section] = value
    return merged
