"""LiteLLM's model groups as Pointsman has them: a name for a target, or a policy where there is more to a group.

A group of several deployments shares its load, and its fallbacks follow in order: that is a rule with rungs. What a
deployment is, and whose, is in `fromlitellm`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gateway.init.draft import Draft
from gateway.yamltext import comment, entry, flow

_HEAD = "# yaml-language-server: $schema=../schemas/policy.json\n#\n"
_GROUP = (
    "The model group {name} of a LiteLLM configuration: its deployments share the load, its fallbacks follow in order."
)
_DEFAULT = "What `model: auto` means until you say more: the cheapest of all models that can serve a request."


class Shares(NamedTuple):
    """What of a deployment may say its share of the group's load, 0 where it does not, and where that stands."""

    path: str
    weight: float = 0.0
    rpm: float = 0.0
    tpm: float = 0.0


@dataclass(slots=True)
class Groups:
    """The groups of one file, in its order."""

    draft: Draft
    note: Callable[[str, str], None]
    members: dict[str, dict[int, dict[str, Shares]]] = field(default_factory=dict)  # group -> order -> target
    paths: dict[str, str] = field(default_factory=dict)
    follows: dict[str, list[str]] = field(default_factory=dict)  # group -> the groups that are its fallbacks
    everyone: list[str] = field(default_factory=list)

    def add(self, name: str, target: str, order: int, shares: Shares, path: str) -> None:
        """One deployment. Another server of the same target has a share of its own."""
        self.paths.setdefault(name, path)
        there = self.members.setdefault(name, {}).setdefault(order, {})
        before = there.get(target, Shares(path))
        there[target] = Shares(before.path, *(mine + its for mine, its in zip(before[1:], shares[1:], strict=True)))

    def fallbacks(self, written: Any, path: str) -> None:
        """`fallbacks` and `context_window_fallbacks`, which become one list: what fits is asked of every target."""
        for index, one in enumerate(written if isinstance(written, list) else [written]):
            where = f"{path}[{index}]" if isinstance(written, list) else path
            if not isinstance(one, dict):
                self.note(where, "not carried over: it is no mapping of a group to a list of groups")
                continue
            for name, others in one.items():
                if name == "*":
                    self.default_fallbacks(others, where)
                elif name not in self.members:
                    self.note(f"{where}.{name}", f"not carried over: no deployment of {name!r:.80} was")
                else:
                    known = self.follows.setdefault(name, [])
                    known += [other for other in self._known(others, f"{where}.{name}") if other not in known]

    def default_fallbacks(self, written: Any, path: str) -> None:
        """The fallbacks of every group, behind its own."""
        self.everyone += [name for name in self._known(written, path) if name not in self.everyone]

    def aliases(self, written: Any, path: str) -> None:
        """Other names of groups."""
        if not isinstance(written, dict):
            self.note(path, "not carried over: it is no mapping")
            return
        for alias, meaning in written.items():
            group = meaning.get("model") if isinstance(meaning, dict) else meaning
            if not isinstance(group, str) or group not in self.members:
                self.note(f"{path}.{alias}", "not carried over: it names no group that was")
            else:
                self.draft.models[alias] = group  # finished below

    def _known(self, written: Any, path: str) -> list[str]:
        found = []
        for name in written if isinstance(written, list) else [written]:
            if isinstance(name, str) and name in self.members:
                found.append(name)
            else:
                what = f"{name!r:.80} is no group that was carried over" if isinstance(name, str) else "it is no name"
                self.note(path, f"not carried over: {what}")
        return found

    def finish(self) -> None:
        """Write the groups into the draft: its `models:`, and a policy for each group that needs one."""
        aliases, meanings = dict(self.draft.models), {}
        closed = sorted(
            {str(one["family"]) for one in self.draft.unknown_models.values() if one.get("open_weights") is False}
        )
        for name, orders in self.members.items():
            others = [one for one in (*self.follows.get(name, ()), *self.everyone) if one != name]
            targets = [target for order in orders.values() for target in order]
            if len(targets) == 1 and not others:
                meanings[name] = targets[0]
                continue
            slug = self._slug(name)
            meanings[name] = f"auto/{slug}"
            self.draft.policies[slug] = self._policy(name, slug, orders, others, closed)
        if self.draft.policies or closed:
            default = self._slug("litellm")
            self.draft.default_policy = default
            self.draft.policies[default] = _text(default, _DEFAULT, closed, ['{family: "*"}'])
        self.draft.models.clear()
        for name in (*meanings, *aliases):
            meaning = meanings.get(name) or meanings[aliases[name]]
            if name == "auto" or name.startswith("auto/"):
                self.note(self.paths.get(name, "router_settings"), f"not carried over: {name!r:.80} has a meaning here")
            elif name != meaning:
                self.draft.models[name] = meaning

    def _slug(self, name: str) -> str:
        base = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:56] or "group"
        slug, number = base, 2
        while slug in self.draft.policies or slug == "lexicon":
            slug, number = f"{base}-{number}", number + 1
        return slug

    def _policy(
        self, name: str, slug: str, orders: dict[int, dict[str, Shares]], others: list[str], closed: list[str]
    ) -> str:
        rungs = [self._rung(orders[order]) for order in sorted(orders)]
        for other in others:
            rungs += [self._rung(self.members[other][order]) for order in sorted(self.members[other])]
        return _text(slug, _GROUP.format(name=name), closed, list(dict.fromkeys(rungs)))

    def _rung(self, targets: dict[str, Shares]) -> str:
        """One step of a group. One measure holds for all of it: weight, else rpm, else tpm, as in `simple_shuffle` of
        litellm 1.106.2, which sends nothing to a deployment that does not say it."""
        names = list(targets)
        if len(names) == 1:
            return flow({"target.name": names[0]})
        measure = next((of for of in ("weight", "rpm", "tpm") if any(getattr(x, of) for x in targets.values())), None)
        if measure is not None:
            shares = {name: getattr(one, measure) for name, one in targets.items()}
            least = min(share for share in shares.values() if share > 0)
            for name, share in shares.items():
                if not share and "weight" not in self.draft.targets[name]:
                    what = f"says no {measure}, by which others of its group share the load: it has the least weight, 1"
                    self.note(targets[name].path, f"{what} (LiteLLM sends it nothing)")
                self.draft.targets[name]["weight"] = min(1000, max(1, round(share / least)))
        return flow({"target.name": names, "rank": "weighted"})


def _text(slug: str, says: str, closed: list[str], rungs: list[str]) -> str:
    """A policy file with one rule."""
    lines = [_HEAD + comment(says), entry("policy", slug)]
    if closed:
        lines.append(entry("allow_closed", [*closed, "llama", "qwen"]))
    lines.append("rules:\n  - id: group\n    use:\n" + "".join(f"      - {rung}\n" for rung in rungs))
    lines.append("thinking:\n  - {id: asked, set: client}\n")
    return "".join(lines)
