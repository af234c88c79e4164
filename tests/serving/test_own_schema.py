"""schemathesis against the server's own OpenAPI document: nothing it thinks of breaks the server or its promises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import schemathesis
from fastapi.testclient import TestClient
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import Status, events, from_schema

OPERATIONS = {"POST /forecast", "GET /health", "GET /metrics", "GET /model"}
CHECKS = {
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "positive_data_acceptance",
    "unsupported_method",
}
CONFIG = {
    # rows may keep to the schema and still be no history that is long enough (422), or one of centuries (413)
    "checks": {
        "positive_data_acceptance": {"expected-statuses": ["2xx", "413", "422"]},
        "negative_data_rejection": {"expected-statuses": ["400", "405", "415", "422"]},
    },
    "generation": {"max-examples": 25, "deterministic": True, "database": "none"},
    "phases": {"stateful": {"enabled": False}},
}


@pytest.mark.parametrize("name", ["rich", pytest.param("plain", marks=pytest.mark.slow)])
def test_the_server_keeps_to_its_schema(
    name: str, request: pytest.FixtureRequest, start: Callable[..., TestClient]
) -> None:
    served = request.getfixturevalue(name)
    app = start(served).app
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=SchemathesisConfig.from_dict(CONFIG))
    operations, statuses, checks, phases, problems = set(), Counter(), Counter(), set(), []
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            problems.append(str(getattr(event, "info", None) or event.exception))
        if not isinstance(event, events.ScenarioFinished):
            continue
        phases.add(event.phase.value)
        for case_id, node in event.recorder.cases.items():
            operations.add(node.value.operation.label)
            interaction = event.recorder.interactions.get(case_id)
            if interaction is not None and interaction.response is not None:
                statuses[node.value.operation.label, interaction.response.status_code] += 1
        for found in event.recorder.checks.values():
            for check in found:
                checks[check.name] += 1
                if check.status is not Status.SUCCESS:
                    problems.append(f"{event.recorder.label}: {check.name}: {check.failure_info.failure.message}")
    assert problems == []
    assert operations == OPERATIONS
    assert phases == {"examples", "coverage", "fuzzing"}
    assert {name for name, count in checks.items() if count} >= CHECKS
    assert statuses["POST /forecast", 200] >= 1, "the example of the document is a good request"
    assert statuses["POST /forecast", 422] >= 25
    assert {status for _, status in statuses} <= {200, 400, 405, 413, 415, 422}
    print(f"{name}: {sum(statuses.values())} requests, {sum(checks.values())} checks: {dict(statuses)}")
