"""What schemathesis may report of this API that is no fault, each with its reason.

"Schema-valid request rejected" is right where a schema could have said so. It cannot say what is stored: whether a cluster of
that name exists, on which clusters a tenant is, which cursors were issued, which Idempotency-Keys were used; nor what a part of
the request means for another one. Any other refusal of a valid request is a finding.
"""

import json
import os
import re
import uuid

import schemathesis
from schemathesis.openapi.checks import RejectedPositiveData

# Decided by what is stored, or by another part of the same request.
STORED = {
    "IDEMPOTENCY_KEY_REUSED",  # the key was used for another request
    "CURSOR_INVALID",  # no list has issued this cursor
    "PLACEMENT_REQUIRED",  # the tenant is on several clusters, the request names none
    "NOT_PLACED",  # the tenant is not on the cluster that the request names
    "ETAG_MISMATCH",  # the object has another version than the one in If-Match
    "APPLICATION_NAMESPACE",  # the namespace follows from the tenant in the path
}
# Two parts of a request that contradict each other, by what the problem says of them.
CONTRADICTIONS = (
    "which is after to",  # usage from a time that is after the end
    "clusters stands in the body and in the query",
    "; a name cannot change",  # the body names another application than the path
)
# A cluster that is named in a body and does not exist; its field is the only one that refers to another object.
REFERENCES = {"/cluster", "/clusters"}


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """Whether it is a finding. What is left out is counted by its reason in the file that KUBENOVA_LEFT_OUT names."""
    if not isinstance(failure, RejectedPositiveData):
        return True
    problem = response.json()
    reason = left_out(problem)
    if reason is None:
        return True
    with open(os.environ["KUBENOVA_LEFT_OUT"], "a", encoding="utf-8") as file:
        file.write(f"{reason}\n")
    return False


def left_out(problem):
    """Why this refusal is no finding; None when it is one."""
    if problem["reason"] in STORED:
        return problem["reason"]
    if any(text in problem["detail"] for text in CONTRADICTIONS):
        return "contradiction"
    pointers = {field["pointer"] for field in problem.get("fields", [])}
    if problem["reason"] == "FIELD_INVALID" and pointers & REFERENCES and "there is no cluster" in problem["detail"]:
        return "no such cluster"
    return None


@schemathesis.hook
def before_call(context, case, kwargs):
    """Lets requests through to what they are about.

    schemathesis sends one Idempotency-Key with most of its requests, which is refused whatever the rest says, and all optional
    parameters, some of which exclude each other. Its coverage phase (4.32) finds no valid value for a header that begins with a
    quotation mark, as an ETag does; it then sends an invalid one, the number 0, and takes the request for a valid one.
    """
    if case.meta is None or not case.headers or is_about(case.meta, {"header", "query"}):
        return
    if matches(case, "Idempotency-Key"):
        case.headers["Idempotency-Key"] = str(uuid.uuid4())
    if "If-Match" in case.headers and not matches(case, "If-Match"):
        del case.headers["If-Match"]
    # The clusters of an application stand in the body or in the query, not in both.
    if isinstance(case.body, dict) and "clusters" in case.body and "clusters" in (case.query or {}):
        del case.query["clusters"]


def is_about(meta, locations):
    """Whether the request is meant to be refused because of one of these."""
    if meta.generation.mode.is_positive:
        return False
    coverage = meta.phase.name == "coverage"
    return not coverage or meta.phase.data.parameter_location in locations


def matches(case, name):
    """Whether the request has this header, with a value that matches the pattern in the document."""
    value = case.headers.get(name)
    patterns = [header.definition["schema"]["pattern"] for header in case.operation.headers if header.name == name]
    return value is not None and all(re.search(pattern, str(value)) for pattern in patterns)


# schemathesis takes the first that it finds for any name of YAML, so all of them are replaced.
YAML = ("text/yaml", "text/x-yaml", "text/vnd.yaml", "text/yml", "application/yaml", "application/x-yaml")


@schemathesis.serializer(*YAML)
def yaml(context, value):
    """Writes YAML as JSON, which is YAML, too.

    PyYAML leaves texts such as 1e+100 or 0o7 unquoted, because YAML 1.1 takes them for texts. kubectl, and so this API,
    takes them for numbers: the request would not be the one that was generated. Characters that YAML does not allow as
    they are, are escaped.
    """
    if isinstance(value, bytes):
        return value
    text = json.dumps(value, ensure_ascii=False)
    return "".join(one if one.isprintable() else escaped(one) for one in text).encode()


def escaped(character):
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
