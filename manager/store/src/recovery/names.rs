//! Names for the ids that the database lost, out of the documents that a diverged cluster holds: for a person to read, nothing is
//! decided by them.

use crate::diverged_records::StoredRecord;
use kubenova_core::tenant::TenantName;
use kubenova_schema::{kinds::ObjectKey, message, v1::Command};
use serde_json::Value;
use std::collections::BTreeMap;

/// Names of tenants by their ids.
pub(super) type TenantNames = BTreeMap<String, TenantName>;

/// The tenants that the records are about.
pub(super) fn of_tenants(records: &[&StoredRecord]) -> TenantNames {
    records.iter().filter_map(|record| of_tenant(record)).collect()
}

/// A body that has not come as a whole, or is no command, names none.
fn of_tenant(record: &StoredRecord) -> Option<(String, TenantName)> {
    let key = ObjectKey::parse(&record.listed.key)?;
    let command: Command = message::from_json(&record.body).ok()?;
    let document: Value = serde_json::from_str(&command.document).ok()?;
    let metadata = &document["metadata"];
    let (id, name) = match key {
        ObjectKey::Tenant { tenant_id } => (tenant_id, metadata["name"].as_str()?),
        // Its namespace is named after its tenant, by `TenantName::apps_namespace`.
        ObjectKey::Application { tenant_id, .. } => (tenant_id, metadata["namespace"].as_str()?.strip_suffix("-apps")?),
        ObjectKey::ClusterConfig | ObjectKey::Operation { .. } => return None,
    };
    Some((id, TenantName::parse(name).ok()?))
}

/// The name of an object.
pub(super) fn of_object(key: &str, tenants: &TenantNames) -> String {
    let name = match ObjectKey::parse(key) {
        Some(ObjectKey::Tenant { tenant_id }) => tenants.get(&tenant_id).map(ToString::to_string),
        Some(ObjectKey::Application { tenant_id, name }) => {
            tenants.get(&tenant_id).map(|tenant| format!("{tenant}/{name}"))
        }
        Some(ObjectKey::ClusterConfig | ObjectKey::Operation { .. }) | None => None,
    };
    name.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_core::{command::CommandId, recovery::ListedRecord};
    use uuid::Uuid;

    const ONE: &str = "00000000-0000-0000-0000-000000000001";
    const TWO: &str = "00000000-0000-0000-0000-000000000002";

    fn record(key: &str, metadata: &str) -> StoredRecord {
        let command = Command { document: format!(r#"{{"metadata":{metadata}}}"#), ..Command::default() };
        StoredRecord {
            listed: ListedRecord {
                key: key.to_owned(),
                kind: "apply-tenant".to_owned(),
                revision: 1,
                command_id: CommandId(Uuid::nil()),
                document_sha256: String::new(),
            },
            is_lacking: true,
            signature: String::new(),
            body: message::to_json(&command),
            problem: String::new(),
        }
    }

    #[test]
    fn tenants_are_named_by_their_own_documents_or_those_of_their_applications() {
        let (shop, web) = (format!("tenant/{ONE}"), format!("application/{TWO}/web"));
        let records = [record(&shop, r#"{"name":"shop"}"#), record(&web, r#"{"name":"web","namespace":"lost-apps"}"#)];
        let names = of_tenants(&records.iter().collect::<Vec<_>>());
        assert_eq!(of_object(&shop, &names), "shop");
        assert_eq!(of_object(&format!("application/{ONE}/old"), &names), "shop/old");
        assert_eq!(of_object(&web, &names), "lost/web");
        assert_eq!(of_object("cluster-config/default", &names), "");
    }

    #[test]
    fn what_is_no_name_or_has_not_come_is_not_shown() {
        let key = format!("tenant/{ONE}");
        let absent = StoredRecord { body: Vec::new(), ..record(&key, "{}") };
        let records = [record(&key, r#"{"name":"\u001b[31m"}"#), absent];
        let names = of_tenants(&records.iter().collect::<Vec<_>>());
        assert_eq!(of_object(&key, &names), "");
    }
}
