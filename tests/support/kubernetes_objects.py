"""What a Kubernetes API server does with its objects: kmock's emulator, and what that leaves out.

That is who may do what, strategic merges, the `status` subresource, label selectors, validation,
and errors in the words of the real server. It knows no sockets: `kubernetes_api` serves it.
"""

import copy
import datetime as dt
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp.web
import kmock
from kmock import KubernetesEmulator, KubernetesError, action, resource

STRATEGIC = "application/strategic-merge-patch+json"
MERGE = "application/merge-patch+json"

NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
"""A DNS subdomain, which most objects' names must be."""

QUALIFIED = re.compile(
    r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)
"""The key of a label or annotation, or the type of a condition."""

VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
"""The value of a label."""

ANNOTATIONS_BYTES = 256 << 10

VERBS = {
    action.LIST: "list",
    action.WATCH: "watch",
    action.FETCH: "get",
    action.CREATE: "create",
    action.UPDATE: "patch",
    action.DELETE: "delete",
}

ANONYMOUS_PATHS = ("/version", "/livez", "/readyz", "/healthz")


class Objects(KubernetesEmulator):
    """The objects, and the HTTP handler in front of them. `token` and `rules` count at once."""

    def __init__(self) -> None:
        super().__init__()
        self.resources.load_path(Path(kmock.__file__).parent / "_internal" / "resources.json.gz")
        self.token = ""
        self.rules: Sequence[Mapping[str, Any]] | None = None
        self.drops: set[str] = set()
        self._version = 0

    def add(self, obj: Mapping[str, Any]) -> dict[str, Any]:
        """Store an object, as `kubectl create` does; raises `KubernetesError`."""
        obj = copy.deepcopy(dict(obj))
        where = self._resource_of(obj)
        namespace = obj.get("metadata", {}).get("namespace", "default")
        return self._create(where, namespace if self.resources[where].namespaced else None, obj)

    def find(self, kind: str, name: str, namespace: str | None) -> dict[str, Any] | None:
        """Return a copy of an object, none where there is no such."""
        key = self._key(kind, name, namespace)
        return copy.deepcopy(dict(self.objects[key].raw)) if key else None

    def remove(self, kind: str, name: str, namespace: str | None) -> None:
        """Take an object away, if it is there."""
        if key := self._key(kind, name, namespace):
            del self.objects[key]

    def _key(
        self, kind: str, name: str, namespace: str | None
    ) -> tuple[resource, str | None, str] | None:
        for (where, space, called), obj in self.objects.items():
            same = self.resources[where].kind == kind and called == name
            if same and space in {None, namespace} and not obj.deleted:
                return where, space, called
        return None

    def every(self, where: str) -> list[dict[str, Any]]:
        """Return copies of all objects of a resource, as in `v1/events`."""
        found = [obj for (kind, _, _), obj in self.objects.items() if kind == resource(where)]
        return [copy.deepcopy(dict(obj.raw)) for obj in found if not obj.deleted]

    async def _handle(self, request: kmock.Request) -> aiohttp.web.StreamResponse:
        if request.url.path not in ANONYMOUS_PATHS:
            self._authenticate(request)
        if request.resource is None or request.resource.plural is None:
            return await super()._handle(request)
        self._authorize(request)
        if request.resource not in self.resources:
            raise error(404, "NotFound", "the server could not find the requested resource")
        match request.action:
            case action.CREATE if request.subresource is None:
                return _answer(self._create(request.resource, request.namespace, request.data), 201)
            case action.UPDATE:
                return _answer(await self._patch(request))
            case action.LIST:
                return _answer(self._list(request))
            case action.FETCH:
                return _answer(self._existing(request))
        return await super()._handle(request)

    async def _render_error(self, exc: Exception) -> aiohttp.web.StreamResponse:
        if not isinstance(exc, KubernetesError):
            exc = error(500, "InternalError", f"Internal error occurred: {exc!r}")
        body = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": exc.message,
            "reason": exc.reason,
            "details": exc.details,
            "code": exc.status,
        }
        return _answer({key: value for key, value in body.items() if value is not None}, exc.status)

    def _authenticate(self, request: kmock.Request) -> None:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            raise error(401, "Unauthorized", "Unauthorized")

    def _authorize(self, request: kmock.Request) -> None:
        where = request.resource
        plural = "/".join(filter(None, (where.plural, request.subresource)))
        verb = VERBS.get(request.action, "update")
        if self.rules is None or any(
            _allows(rule, where.group, plural, verb, request.name) for rule in self.rules
        ):
            return
        named = f'"{request.name}" ' if request.name else ""
        raise error(
            403,
            "Forbidden",
            f"{where.plural} {named}is forbidden: User "
            f'"system:serviceaccount:{request.namespace}:app" cannot {verb} resource "{plural}" '
            f'in API group "{where.group}" in the namespace "{request.namespace}"',
            {"name": request.name, "kind": where.plural},
        )

    def _create(self, where: resource, namespace: str | None, obj: Any) -> dict[str, Any]:
        if not isinstance(obj, dict):
            raise error(400, "BadRequest", "the object provided is unrecognized")
        about = obj.setdefault("metadata", {})
        if where.group:
            obj.setdefault("apiVersion", f"{where.group}/{where.version}")
        obj.setdefault("apiVersion", where.version)
        obj.setdefault("kind", self.resources[where].kind)
        if "generateName" in about and "name" not in about:
            about["name"] = about["generateName"] + uuid.uuid4().hex[:5]
        if namespace is not None and about.setdefault("namespace", namespace) != namespace:
            raise error(400, "BadRequest", "the namespace of the provided object does not match")
        _validate(where, obj)
        key = (where, namespace, about["name"])
        if key in self.objects and not self.objects[key].deleted:
            raise error(
                409, "AlreadyExists", f'{where.plural} "{about["name"]}" already exists',
                {"name": about["name"], "kind": where.plural},
            )  # fmt: skip
        about |= {"uid": str(uuid.uuid4()), "creationTimestamp": _now()}
        self._store(key, obj)
        return obj

    def _existing(self, request: kmock.Request) -> dict[str, Any]:
        key = (request.resource, request.namespace, request.name)
        if key not in self.objects or self.objects[key].deleted:
            raise error(
                404, "NotFound", f'{request.resource.plural} "{request.name}" not found',
                {"name": request.name, "kind": request.resource.plural},
            )  # fmt: skip
        return dict(self.objects[key].raw)

    async def _patch(self, request: kmock.Request) -> dict[str, Any]:
        kind = request.headers.get("Content-Type", "").partition(";")[0]
        if kind not in {STRATEGIC, MERGE}:
            raise error(415, "UnsupportedMediaType", f"the body of the request was in {kind!r}")
        if not isinstance(request.data, dict):
            raise error(400, "BadRequest", "cannot unmarshal into a map")
        before, patch = self._existing(request), copy.deepcopy(request.data)
        for field in self.drops:  # what an admission webhook takes away
            patch.get("metadata", {}).pop(field, None)
        after = merged(before, patch, strategic=kind == STRATEGIC)
        # The status subresource changes no spec, the object itself no status.
        kept = "spec" if request.subresource == "status" else "status"
        after.pop(kept, None)
        after |= {kept: before[kept]} if kept in before else {}
        for field in ("name", "namespace", "uid", "creationTimestamp"):
            after["metadata"][field] = before["metadata"].get(field)
        if after["metadata"].get("resourceVersion") != before["metadata"]["resourceVersion"]:
            raise error(
                409, "Conflict", f'Operation cannot be fulfilled on {request.resource.plural} '
                f'"{request.name}": the object has been modified',
            )  # fmt: skip
        _validate(request.resource, after)
        if after != before:
            self._store((request.resource, request.namespace, request.name), after)
            await self._buses[request.resource].put({"type": "MODIFIED", "object": after})
        return after

    def _store(self, key: tuple[resource, str | None, str], obj: dict[str, Any]) -> None:
        self._version += 1
        obj["metadata"]["resourceVersion"] = str(self._version)
        self.objects[key] = obj

    def _list(self, request: kmock.Request) -> dict[str, Any]:
        asked = request.params.get("labelSelector", "")
        items = [
            dict(obj.raw)
            for (where, namespace, _), obj in self.objects.items()
            if where == request.resource and request.namespace in {None, namespace}
            if not obj.deleted and selects(asked, obj.raw["metadata"].get("labels") or {})
        ]
        return {
            "apiVersion": "/".join(
                filter(None, (request.resource.group, request.resource.version))
            ),
            "kind": f"{self.resources[request.resource].kind}List",
            "metadata": {"resourceVersion": str(self._version)},
            "items": items,
        }

    def _resource_of(self, obj: Mapping[str, Any]) -> resource:
        group, _, version = obj["apiVersion"].rpartition("/")
        for where, about in self.resources.items():
            if (where.group, where.version, about.kind) == (group, version, obj["kind"]):
                return where
        raise error(
            404, "NotFound", f"no matches for kind {obj['kind']!r} in {obj['apiVersion']!r}"
        )


def error(status: int, reason: str, message: str, details: Any = None) -> KubernetesError:
    """Return what is raised to answer with a `Status` object of the real API."""
    return KubernetesError(status, reason, message, details)


def merged(old: Any, patch: Any, *, strategic: bool) -> Any:
    """Merge a patch: null takes away, and strategically, conditions are merged by their type."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = copy.deepcopy(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif strategic and key == "conditions":
            result[key] = _conditions(result.get(key) or [], value)
        else:
            result[key] = merged(result.get(key), value, strategic=strategic)
    return result


def selects(selector: str, labels: Mapping[str, str]) -> bool:
    """Say whether a label selector (`a=b,c!=d,e,!f`) fits."""
    for term in filter(None, selector.split(",")):
        name, operator, value = re.fullmatch(r"(!?[^=!]+)(?:(==?|!=)(.*))?", term).groups()
        if operator == "!=":
            fits = labels.get(name) != value
        elif operator:
            fits = labels.get(name) == value
        else:
            fits = (name.removeprefix("!") in labels) != name.startswith("!")
        if not fits:
            return False
    return True


def _conditions(old: list[dict[str, Any]], patch: list[dict[str, Any]]) -> list[dict[str, Any]]:
    result = {condition["type"]: condition for condition in old}
    for condition in patch:
        kind = condition["type"]
        result[kind] = merged(result.get(kind, {}), condition, strategic=True)
    return list(result.values())


def _allows(
    rule: Mapping[str, Any], group: str | None, plural: str, verb: str, name: str | None
) -> bool:
    def holds(field: str, asked: str | None) -> bool:
        return bool({"*", asked} & set(rule.get(field, ())))

    named = not rule.get("resourceNames") or name in rule["resourceNames"]
    return (
        named and holds("apiGroups", group) and holds("resources", plural) and holds("verbs", verb)
    )


def _validate(where: resource, obj: Mapping[str, Any]) -> None:
    problems = list(_problems(where, obj))
    if problems:
        name = obj["metadata"].get("name")
        raise error(422, "Invalid", f'{obj["kind"]} "{name}" is invalid: {"; ".join(problems)}')


def _problems(where: resource, obj: Mapping[str, Any]) -> Iterator[str]:
    if not NAME.fullmatch(obj["metadata"].get("name", "")):
        yield f"metadata.name: Invalid value: {obj['metadata'].get('name')!r}"
    yield from _bad_metadata(obj["metadata"])
    if where == resource("v1/pods"):
        yield from _bad_conditions(obj.get("status", {}).get("conditions", ()))
    if where == resource("v1/events"):
        involved = obj.get("involvedObject", {}).get("namespace")
        if involved != obj["metadata"]["namespace"]:
            yield f"involvedObject.namespace: Invalid value: {involved!r}: does not match"


def _bad_metadata(about: Mapping[str, Any]) -> Iterator[str]:
    labels, annotations = about.get("labels") or {}, about.get("annotations") or {}
    for key in (*labels, *annotations):
        if not QUALIFIED.fullmatch(key):
            yield f"metadata: Invalid key: {key!r}"
    for value in labels.values():
        if not isinstance(value, str) or not VALUE.fullmatch(value):
            yield f"metadata.labels: Invalid value: {value!r}"
    if not all(isinstance(value, str) for value in annotations.values()):
        yield "metadata.annotations: Invalid value: no string"
    elif sum(len((k + v).encode()) for k, v in annotations.items()) > ANNOTATIONS_BYTES:
        yield "metadata.annotations: Too long"


def _bad_conditions(conditions: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for condition in conditions:
        if not QUALIFIED.fullmatch(condition["type"]):
            yield f"status.conditions: Invalid type: {condition['type']!r}"
        if condition.get("status") not in {"True", "False", "Unknown"}:
            yield f"status.conditions: Invalid status: {condition.get('status')!r}"


def _answer(body: Mapping[str, Any], status: int = 200) -> aiohttp.web.Response:
    return aiohttp.web.json_response(body, status=status)


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
