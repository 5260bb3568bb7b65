"""What the domains of a run are, from its shards and its configuration: labels and groups."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from megadga.config.run import RunConfig
from megadga.data.labels import Label, Labels, labels_path, read_labels
from megadga.report.domains import FILE, DomainInfo, read_domain_info
from megadga.section import ConfigIssue
from megadga.train.data import RunData

MAX_EXAMPLES = 4096
"""Domains of a run up to which examples of their documents are kept in its folder: 2 MB."""


def describe_domains(config: RunConfig, data: RunData, *, is_new: bool) -> DomainInfo:
    """Return what the domains of a run are; reads the labels beside the shards.

    Args:
        config: The run, with the section `data` in force.
        data: Its data.
        is_new: Whether it starts; a run that goes on had the domains in its folder before.

    Raises:
        ConfigError: If `data.groups` names what is no domain of the run, nor was one, or asks for
            parents that are not known.
        ShardError: If the labels are damaged.
    """
    names = tuple(domain.name for domain in data.domains)
    before = None if is_new else _described(config)
    labels, parents = _read_labels(config, names)
    texts = {name: label.text for name, label in labels.items() if label.words}
    if config.data.groups == "parents":
        groups = _parent_groups(config, names, parents)
        texts |= {name: parents.parents[name].text for name in groups}
    else:
        left = () if before is None else before.names
        groups = _named_groups(config, {*names, *left}, too_short=data.excluded)
    few = len(names) <= MAX_EXAMPLES
    info = DomainInfo(
        names,
        texts,
        groups,
        {name: label.examples for name, label in labels.items() if few and label.examples},
        () if data.basis is None else data.basis.mixtures.names,
    )
    return info if before is None else before.followed_by(info)


def _described(config: RunConfig) -> DomainInfo | None:
    """Return what the run's folder says; None: nothing, as of an earlier version's run."""
    return read_domain_info(config.output) if (config.output / FILE).exists() else None


def _read_labels(config: RunConfig, names: Sequence[str]) -> tuple[dict[str, Label], Labels]:
    """Return the labels of a run's domains by name, and those of their folder, if it is one."""
    where = config.data.domains
    if isinstance(where, Path):
        found = read_labels(where) or Labels({})
        return {name: found.domains[name] for name in names if name in found.domains}, found
    folders = {folder.name: folder.path for folder in where}
    beside = {folder.parent: read_labels(folder.parent) for folder in folders.values()}
    labels: dict[str, Label] = {}
    for name in names:
        folder = folders[name]
        of_folder = beside[folder.parent]
        if of_folder is not None and folder.name in of_folder.domains:
            labels[name] = of_folder.domains[folder.name]
    return labels, Labels({})


def _parent_groups(
    config: RunConfig, names: Sequence[str], labels: Labels
) -> Mapping[str, tuple[str, ...]]:
    where, there = config.data.domains, set(names)
    if not labels.parents:
        found = "none"
        if isinstance(where, Path):
            found = f"none in {labels_path(where)}"
        raise config.invalid(
            "data",
            "groups",
            expected="names of groups, or domains of which the clusters above are known "
            "(megadga data label SHARDS --clusters CLUSTERS)",
            found=f"parents, but {found}",
        )
    members = {
        parent: tuple(name for name in each.domains if name in there)
        for parent, each in labels.parents.items()
    }
    return {parent: kept for parent, kept in members.items() if kept}


def _named_groups(
    config: RunConfig, names: set[str], *, too_short: Collection[str]
) -> Mapping[str, tuple[str, ...]]:
    """Return the groups of a configuration.

    Args:
        config: The run.
        names: Of the domains that it has or had.
        too_short: Names of those that are left out.
    """
    groups = config.data.groups
    assert not isinstance(groups, str)
    if issues := list(_issues(groups, {*names, *too_short})):
        raise config.error(issues)
    members = {g: tuple(name for name in each if name in names) for g, each in groups.items()}
    return {group: kept for group, kept in members.items() if kept}


def _issues(groups: Mapping[str, Sequence[str]], known: set[str]) -> Iterator[ConfigIssue]:
    for group, members in groups.items():
        if group in known:
            key = ("data", "groups", group)
            yield ConfigIssue(key, "a name that no domain has", repr(group))
        for place, name in enumerate(members):
            if name not in known:
                close = get_close_matches(name, sorted(known), n=1)
                hint = repr(close[0]) if close else ""
                key = ("data", "groups", group, place)
                yield ConfigIssue(key, "the name of a domain", repr(name), hint)
