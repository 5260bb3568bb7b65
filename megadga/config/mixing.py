"""The `mixing` section of a run: built-in rules by `type`, or an installed extension's."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union, cast

from pydantic import (
    BaseModel,
    Field,
    GetCoreSchemaHandler,
    PrivateAttr,
    PydanticUserError,
    ValidationError,
    ValidatorFunctionWrapHandler,
    create_model,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from megadga.config.validation import choice_issue, issues_from_validation, validation_error
from megadga.mixers.extension import (
    BrokenExtensionError,
    Extension,
    Installed,
    installed_extensions,
)
from megadga.mixers.probing import Probe, find_direction_inconsistencies
from megadga.mixers.rule import RuleOptions, built_in_rules
from megadga.section import ConfigIssue, KeyPath, PositiveInt, Section

if TYPE_CHECKING:
    BuiltIn = RuleOptions
else:  # the rules there are decide which sections there are
    BuiltIn = Annotated[
        Union[tuple(rule.options for rule in built_in_rules().values())],  # noqa: UP007
        Field(discriminator="type"),
    ]
"""The section of a built-in rule, chosen by its ``type``."""


_TYPE: KeyPath = ("mixing", "type")


class ExtensionOptions(RuleOptions):
    """A rule from another package; its options are keys of this section."""

    type: str
    """How the domains' weights are set."""
    interval: PositiveInt | None = None
    """Optimizer steps between updates of the weights, at least 1; null: they never move."""
    probe: Probe | None = None
    """How alignments are measured, if the rule observes them, as of type dga; null: as the default
    there."""

    _installed: Installed = PrivateAttr()
    _extension: Extension[Any] = PrivateAttr()

    def find_inconsistencies(self, specific: Sequence[str] | None) -> Iterator[ConfigIssue]:  # noqa: ARG002
        """Yield what the probe cannot do, whatever the rule observes."""
        if self.probe is not None:
            yield from find_direction_inconsistencies(self.probe)

    def brought_by(self, installed: Installed, extension: Extension[Any]) -> Self:
        """Note where the rule comes from, and what makes it of these options."""
        self._installed, self._extension = installed, extension
        return self

    def origin(self) -> tuple[Installed, Extension[Any]]:
        """Return where the rule comes from, and what makes it of these options."""
        return self._installed, self._extension


_RESERVED = frozenset({*dir(ExtensionOptions), *ExtensionOptions.model_fields} - {*dir(Section)})
"""What options of an extension must not be called."""


class WithExtensions:
    """Annotates the mixture of a run: a section of ours, or else one that an extension brings."""

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Return a schema that looks for extensions only where the type is none of ours."""
        return core_schema.no_info_wrap_validator_function(
            _validate,
            handler.generate_schema(BuiltIn),
            # Written as what it is: keys that an extension's options add are keys of the section.
            serialization=core_schema.simple_ser_schema("any"),
        )


def _validate(value: object, built_in: ValidatorFunctionWrapHandler) -> Any:
    if isinstance(value, ExtensionOptions):
        return value
    if not isinstance(value, Mapping):
        return built_in(value)
    values = cast("Mapping[str, object]", value)
    name = values.get("type")
    if not isinstance(name, str) or name in built_in_rules():
        return built_in(value)
    installed = _find(name)
    try:
        extension = installed.load()
        section = _section_of(name, extension.options)
    except BrokenExtensionError as error:
        raise _issue("an extension that can be loaded", f"{installed}: {error}") from None
    try:
        chosen = section.model_validate(values)
    except ValidationError as error:
        issues = issues_from_validation(error, section)
        raise validation_error([replace(m, path=("mixing", *m.path)) for m in issues]) from None
    return chosen.brought_by(installed, extension)


def _find(name: str) -> Installed:
    """Return the one extension of a name."""
    extensions = installed_extensions()
    found = [each for each in extensions if each.name == name]
    if not found:
        theirs = (each.name for each in extensions if each.name not in built_in_rules())
        raise validation_error(
            [choice_issue(_TYPE, dict.fromkeys([*built_in_rules(), *theirs]), name)]
        )
    if len(found) > 1:
        raise _issue("an extension that one distribution brings", _listed(found))
    return found[0]


def _listed(extensions: Iterable[Installed]) -> str:
    return " and ".join(map(str, extensions))


def _issue(expected: str, found: str) -> PydanticCustomError:
    return validation_error([ConfigIssue(_TYPE, expected, found)])


@cache  # sections of one class are equal or not by their values
def _section_of(name: str, options: type[BaseModel]) -> type[ExtensionOptions]:
    """Return the section of an extension: its options, and what every rule has.

    Of what a class and `ExtensionOptions` both configure, the latter's counts: no unknown key, no
    number that is not finite, nothing that changes.

    Raises:
        BrokenExtensionError: If the options cannot be keys of a section.
    """
    if taken := sorted(_RESERVED & options.model_fields.keys()):
        raise BrokenExtensionError(f"options with the reserved key {taken[0]!r}")
    if renamed := [key for key, field in options.model_fields.items() if _has_alias(field)]:
        raise BrokenExtensionError(f"options with an alias for {renamed[0]!r}")
    meaning = ExtensionOptions.model_fields["type"].description
    chosen: Any = Literal[name]
    bases: Any = (options, ExtensionOptions)
    try:
        section: Any = create_model(
            options.__name__,
            __base__=bases,
            __module__=options.__module__,
            __doc__=options.__doc__,
            type=(chosen, Field(description=meaning)),
        )
    except (TypeError, PydanticUserError) as error:
        text = " ".join(str(error).split())
        raise BrokenExtensionError(f"options that are no model of keys: {text}") from None
    return cast("type[ExtensionOptions]", section)


def _has_alias(field: FieldInfo) -> bool:
    """Return whether a key is written otherwise than the field is called."""
    return any((field.alias, field.validation_alias, field.serialization_alias))


Mixing = Annotated[BuiltIn | ExtensionOptions, WithExtensions()]
"""What sets the weights of a run's domains."""
