"""Reads clusters, creates a tenant and an application, and reads a refusal, with a client made from the OpenAPI document.

mypy checks this file and the client in strict mode before it runs.
"""

import os

from kubenova_client import AuthenticatedClient
from kubenova_client.api.applications import create_application
from kubenova_client.api.clusters import list_clusters
from kubenova_client.api.tenants import create_tenant
from kubenova_client.models import (
    ApplicationAccepted,
    ApplicationForm,
    ClusterList,
    ClusterState,
    Problem,
    QuotaChange,
    TenantAccepted,
    TenantCreate,
)

TENANT = "from-python"


def main() -> None:
    cluster = os.environ["KUBENOVA_CLUSTER"]
    client = AuthenticatedClient(base_url=os.environ["KUBENOVA_URL"], token=os.environ["KUBENOVA_TOKEN"])

    clusters = list_clusters.sync(client=client)
    assert isinstance(clusters, ClusterList), clusters
    found = next(one for one in clusters.items if one.name == cluster)
    assert found.state is ClusterState.ENROLLED, found

    body = TenantCreate(name=TENANT, clusters=[cluster], quota=QuotaChange(pods=5))
    dry_run = create_tenant.sync_detailed(client=client, body=body, dry_run=True)
    assert dry_run.status_code == 200, dry_run
    assert isinstance(dry_run.parsed, TenantAccepted) and dry_run.parsed.commands == [], dry_run

    created = create_tenant.sync_detailed(client=client, body=body)
    assert created.status_code == 202, created
    assert isinstance(created.parsed, TenantAccepted), created
    assert created.parsed.quota.pods == 5 and created.parsed.commands[0].cluster_id == found.id, created

    again = create_tenant.sync_detailed(client=client, body=body)
    assert again.status_code == 409, again
    assert isinstance(again.parsed, Problem) and again.parsed.reason == "NAME_TAKEN", again
    assert again.parsed.fields and again.parsed.fields[0].pointer == "/name", again

    form = ApplicationForm(name="shop", image="nginx:1.29", replicas=2)
    application = create_application.sync_detailed(TENANT, client=client, body=form)
    assert application.status_code == 202, application
    assert isinstance(application.parsed, ApplicationAccepted), application
    assert application.parsed.spec.components[0].type_ == "webservice", application

    print(f"{len(clusters.items)} clusters; {created.parsed.name}: {len(created.parsed.commands)} command")


main()
