//! A tenant as attacker: with its kubeconfigs, and with what its Applications make. `docs/attacks.md` has the table.

use anyhow::Result;
use kubenova_scenarios::attempts::Attacked;
use kubenova_test_attacks::cluster::TENANT;

#[tokio::test(flavor = "multi_thread")]
async fn access_tenant_ends_at_its_namespaces_and_at_what_the_site_opened() -> Result<()> {
    Attacked::start("alpha").await?.try_all(TENANT).await
}
