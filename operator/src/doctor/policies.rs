//! Admission policies of the chart, as they are in the cluster.

use crate::apiserver::{Error, client::Apiserver, verbs};
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use kube::{Api, ResourceExt as _};
use kubenova_crds::labels::FOR_COMPONENT;
use kubenova_operator_core::doctor::FoundPolicy;
use std::collections::BTreeMap;

/// What the chart's policies and bindings carry.
const OURS: &str = "app.kubernetes.io/part-of=kubenova";

/// Every policy of this and of earlier charts, by name.
pub(super) async fn found(apiserver: &Apiserver) -> Result<BTreeMap<String, FoundPolicy>, Error> {
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(apiserver.client());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(apiserver.client());
    let mut found: BTreeMap<String, FoundPolicy> = verbs::list(&policies, OURS)
        .await?
        .into_iter()
        .map(|policy| {
            let written_for = policy.labels().get(FOR_COMPONENT).cloned().unwrap_or_default();
            (policy.name_any(), FoundPolicy { written_for, actions: Vec::new() })
        })
        .collect();
    for binding in verbs::list(&bindings, OURS).await? {
        if let Some(policy) = found.get_mut(&binding.spec.policy_name) {
            policy.actions.extend(binding.spec.validation_actions);
        }
    }
    Ok(found)
}

/// Deletes policies that the chart has no more, and their bindings, which have the same names. Run by the chart with rights to these and to
/// nothing else; the Operator itself has none.
///
/// # Errors
/// When a call fails, but for what is gone already.
pub async fn delete_policies(names: &[String]) -> anyhow::Result<Vec<String>> {
    let apiserver = Apiserver::connect().await?;
    let mut deleted = Vec::new();
    for name in names {
        // A binding without its policy does nothing, the other way round the API server would log it.
        if delete::<ValidatingAdmissionPolicyBinding>(&apiserver, name).await?
            | delete::<ValidatingAdmissionPolicy>(&apiserver, name).await?
        {
            deleted.push(name.clone());
        }
    }
    Ok(deleted)
}

async fn delete<K>(apiserver: &Apiserver, name: &str) -> Result<bool, Error>
where
    K: verbs::Object + kube::Resource<Scope = k8s_openapi::ClusterResourceScope>,
    <K as kube::Resource>::DynamicType: Default,
{
    let api: Api<K> = Api::all(apiserver.client());
    let Some(object) = verbs::get(&api, name).await? else { return Ok(false) };
    verbs::delete_exact(&api, name, &object.uid().unwrap_or_default(), None).await?;
    Ok(true)
}
