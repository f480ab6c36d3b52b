//! What was applied for a component, in a ConfigMap beside the Operator: the status of NovaClusterConfig is for people, and
//! a hundred lines of names would hide its conditions.

use crate::apiserver::{self, verbs};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, api::ObjectMeta};
use kubenova_operator_core::components::Component;

/// One line an object, `<group>/<version>/<kind>/<namespace>/<name>`.
const OBJECTS: &str = "objects";

/// Name of a component's ConfigMap; the chart's Role names it.
fn name(component: Component) -> String {
    format!("kubenova-inventory-{}", component.name())
}

/// The lines that are recorded.
pub(super) async fn read(
    client: &Client,
    namespace: &str,
    component: Component,
) -> Result<Vec<String>, apiserver::Error> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let stored = verbs::get(&api, &name(component)).await?;
    let lines = stored.and_then(|stored| stored.data).and_then(|mut data| data.remove(OBJECTS)).unwrap_or_default();
    Ok(lines.lines().map(str::to_owned).collect())
}

/// Records these lines in the place of the former ones.
pub(super) async fn write(
    client: &Client,
    namespace: &str,
    component: Component,
    former: &[String],
    lines: &[String],
) -> Result<(), apiserver::Error> {
    if former == lines {
        return Ok(());
    }
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let config_map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(name(component)),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some([(OBJECTS.to_owned(), lines.join("\n"))].into()),
        ..ConfigMap::default()
    };
    verbs::apply(&api, &config_map).await.map(drop)
}
