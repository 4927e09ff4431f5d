"""What a person sees when the server is ready."""

from __future__ import annotations

from runtime.gateway.registry import Registry
from runtime.project.settings import Project

_SHOWN = 5
_REASON = 80  # characters of why a function did not start


def banner(project: Project, registry: Registry, base: str, models: list[str]) -> str:
    """The URLs of at most five functions, and a curl line that runs when pasted.

    Args:
        base: scheme, host and port.
        models: names of the models that are warm.
    """
    names = sorted(registry.functions)
    url = f"{base}{project.settings.prefix}"
    lines = ["", f"Serving functions on {url}/<function-name>"]
    lines += [f" - {url}/{name}{_state(registry, name)}" for name in names[:_SHOWN]]
    if len(names) > _SHOWN:
        lines.append(f"   … and {len(names) - _SHOWN} more: functions list")
    if not names:
        lines.append(f"   none yet in {project.settings.root}/functions: functions new hello")
    lines.append(f"Models: {', '.join(models) or 'none loaded at start (functions models list)'}")
    if names:
        lines += ["", "Try it:", f"  {_curl(project, url, 'hello' if 'hello' in names else names[0])}"]
    return "\n".join([*lines, ""])


def _state(registry: Registry, name: str) -> str:
    found = registry.get(name)
    failed = "" if found is None else found[1].failure.partition("\n")[0]
    cut = f"{failed[:_REASON]}…" if len(failed) > _REASON else failed  # the log has all of it
    return f"   (did not start: {cut})" if failed else ""


def _curl(project: Project, url: str, name: str) -> str:
    """A line to paste. The key stands in it only if it is one that we made for local use."""
    settings = project.settings
    data = """ -d '{"name":"Functions"}'"""
    if not settings.needs_key(project.functions[name]):
        return f"curl -X POST {url}/{name}{data}"
    key = project.keys.anon_key if project.keys.generated else "$ANON_KEY"
    return f'curl -X POST {url}/{name} -H "Authorization: Bearer {key}"{data}'
