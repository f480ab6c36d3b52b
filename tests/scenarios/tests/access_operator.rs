//! The Operator and the components as attackers: with their own tokens, on a real API server with the whole chart, nothing leads them to
//! an administrator's rights, to a node, or to what others have. `docs/attacks.md` has the table.

use std::collections::BTreeSet;

use anyhow::Result;
use kubenova_scenarios::attempts::Attacked;
use kubenova_test_attacks::cluster::{OPERATOR, TENANT};

#[tokio::test(flavor = "multi_thread")]
async fn access_operator_is_held_by_roles_and_policies() -> Result<()> {
    let attacked = Attacked::start("alpha").await?;
    let attempts = [OPERATOR, TENANT].into_iter().flat_map(|source| source.groups()).flat_map(|group| group.tried);
    let tried: BTreeSet<String> = attempts.filter_map(|attempt| attempt.policy().map(str::to_owned)).collect();
    assert_eq!(&tried, attacked.policies(), "each policy of the chart stops an attempt, which succeeds without it");
    attacked.try_all(OPERATOR).await
}
