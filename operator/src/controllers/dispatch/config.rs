//! `apply-cluster-config`: the document becomes the spec of `NovaClusterConfig/default`.

use super::{CONFLICTS_MAX, Dispatcher, Task, annotations, error::DispatchError, replaced};
use crate::apiserver::verbs;
use kube::{Api, api::ObjectMeta};
use kubenova_crds::cluster_config::{ClusterConfigSpec, NAME, NovaClusterConfig, condition};
use kubenova_operator_core::{observed, outcome::CommandProgress, unknown_fields};
use kubenova_runtime::failpoint;
use serde::Deserialize as _;
use serde_json::Value;

/// The spec of a document, or what is wrong with it. A field that this Operator does not know is refused: who wrote it would
/// believe that it works.
fn read(document: &str) -> Result<ClusterConfigSpec, String> {
    let refused = |error| format!("the document is not a NovaClusterConfig: {error}");
    let document: Value = serde_json::from_str(document).map_err(refused)?;
    let unknown = unknown_fields::of_spec::<NovaClusterConfig>(&document["spec"]);
    if !unknown.is_empty() {
        return Err(format!(
            "this Operator does not know {}; leave it out, or upgrade the Operator to the release of the Manager",
            unknown.join(", ")
        ));
    }
    ClusterConfigSpec::deserialize(&document["spec"]).map_err(refused)
}

impl Dispatcher<'_> {
    pub(super) async fn apply_config(&self, task: &Task<'_>) -> Result<CommandProgress, DispatchError> {
        let spec = match read(&task.command.document) {
            Ok(spec) => spec,
            Err(problem) => return Ok(CommandProgress::failed("BadDocument", problem)),
        };
        let api: Api<NovaClusterConfig> = Api::all(self.ctx.apiserver.client());
        let mut desired = NovaClusterConfig::new(NAME, spec);
        for _ in 0..CONFLICTS_MAX {
            let live = verbs::get(&api, NAME).await?;
            if let Some(live) =
                live.as_ref().filter(|live| observed::command_of(*live) == task.command.id && live.spec == desired.spec)
            {
                return Ok(progress(live).about(&live.metadata));
            }
            if let Some(live) = &live
                && self.is_replaced(task, live).await?
            {
                return Ok(replaced());
            }
            let (uid, resource_version) =
                live.map(|live| (live.metadata.uid, live.metadata.resource_version)).unwrap_or_default();
            let name = Some(NAME.to_owned());
            desired.metadata = ObjectMeta {
                name,
                annotations: Some(annotations(task)),
                uid,
                resource_version,
                ..ObjectMeta::default()
            };
            match verbs::apply(&api, &desired).await {
                Ok(written) => {
                    failpoint::passing("dispatch.applied");
                    return Ok(CommandProgress::running("Applied", "the cluster's configuration is applied")
                        .at("applied")
                        .about(&written.metadata));
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(CommandProgress::running("Contended", "other clients keep changing the object; trying again"))
    }
}

fn progress(live: &NovaClusterConfig) -> CommandProgress {
    let status = live.status.clone().unwrap_or_default();
    for component in [condition::CAPSULE_READY, condition::CAPSULE_PROXY_READY, condition::KUBEVELA_READY] {
        let found = status.conditions.iter().find(|condition| condition.type_ == component);
        let Some(found) = found.filter(|condition| condition.observed_generation == live.metadata.generation) else {
            return CommandProgress::running(
                "Applied",
                format!("waiting for condition {component} of this configuration"),
            )
            .at("applied");
        };
        if found.status != "True" {
            return CommandProgress::running(found.reason.clone(), format!("{component}: {}", found.message))
                .at("applied");
        }
    }
    CommandProgress::succeeded("Ready", "every component is as configured").at("ready")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_operator_does_not_know_is_refused_by_name() {
        let document = |capsule: &str| format!(r#"{{"spec":{{"components":{{"capsule":{capsule}}}}}}}"#);
        let spec = read(&document(r#"{"enabled":true,"images":{"registry":"r.test"}}"#)).unwrap();
        assert_eq!(spec.components.unwrap().capsule.component.images.registry, "r.test");
        let unknown = read(&document(r#"{"image":{"registry":"r.test"}}"#)).unwrap_err();
        assert!(unknown.contains("spec.components.capsule.image;"), "{unknown}");
        assert!(read(&document(r#"{"replicas":"two"}"#)).unwrap_err().contains("not a NovaClusterConfig"));
    }
}
