//! Reads clusters, creates a tenant and an application, and reads a refusal, with a client made from the OpenAPI document.

mod api;

use anyhow::{Context as _, Result, bail, ensure};
use api::{
    ApiResponse, ApplicationBody, ApplicationForm, Cluster, ClusterState, CreateApplicationRequest,
    CreateApplicationRequestPath, CreateTenantRequest, CreateTenantRequestQuery, KubeNovaManagerClient,
    ListClustersRequest, QuotaChange, TenantAccepted, TenantCreate,
};

const TENANT: &str = "from-rust";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let variable = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set"));
    let client = KubeNovaManagerClient::with_base_url(variable("KUBENOVA_URL")?)?.with_bearer(variable("KUBENOVA_TOKEN")?);

    let ApiResponse::Ok(clusters) = client.list_clusters(ListClustersRequest::default()).await? else {
        bail!("clusters were refused")
    };
    let name = variable("KUBENOVA_CLUSTER")?;
    let enrolled = |cluster: &&Cluster| cluster.name == name && cluster.state == ClusterState::Enrolled;
    let cluster = clusters.body.items.iter().find(enrolled).context("the cluster is not enrolled")?;

    let tenant = create_tenant(&client, cluster).await?;
    create_application(&client).await?;
    println!("{} clusters; {}: {} command", clusters.body.items.len(), tenant.name, tenant.commands.len());
    Ok(())
}

/// Creates it in a dry run, then really, then again, which is refused.
async fn create_tenant(client: &KubeNovaManagerClient, on: &Cluster) -> Result<TenantAccepted> {
    let request = |dry_run: Option<bool>| CreateTenantRequest {
        query: CreateTenantRequestQuery { dry_run },
        body: TenantCreate {
            name: TENANT.to_owned(),
            clusters: Some(vec![on.name.clone()]),
            quota: Some(QuotaChange { pods: Some(5), ..QuotaChange::default() }),
            ..TenantCreate::default()
        },
        ..CreateTenantRequest::default()
    };
    match client.create_tenant(request(Some(true))).await? {
        ApiResponse::Ok(dry_run) => ensure!(dry_run.body.commands.is_empty(), "a dry run has commands"),
        _ => bail!("the dry run is not 200"),
    }
    let ApiResponse::Accepted(created) = client.create_tenant(request(None)).await? else { bail!("not accepted") };
    ensure!(created.body.quota.pods == 5 && created.body.commands[0].cluster_id == on.id, "another tenant was created");
    let ApiResponse::Conflict(problem) = client.create_tenant(request(None)).await? else { bail!("not refused") };
    let fields = problem.body.fields.unwrap_or_default();
    ensure!(problem.body.reason == "NAME_TAKEN" && fields[0].pointer == "/name", "the name is not refused as taken");
    Ok(created.body)
}

async fn create_application(client: &KubeNovaManagerClient) -> Result<()> {
    let form = ApplicationForm { name: "shop".into(), image: "nginx:1.29".into(), ..ApplicationForm::default() };
    let request = CreateApplicationRequest {
        path: CreateApplicationRequestPath { tenant: TENANT.to_owned() },
        body: ApplicationBody::ApplicationForm(form),
        ..CreateApplicationRequest::default()
    };
    let ApiResponse::Accepted(created) = client.create_application(request).await? else { bail!("not accepted") };
    ensure!(created.body.spec.components[0].r#type == "webservice", "another application was created");
    Ok(())
}
