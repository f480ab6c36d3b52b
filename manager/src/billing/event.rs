//! A ledger row as a CloudEvent 1.0 in structured JSON: flat data, whole numbers as text, always the same bytes.

use kubenova_runtime::clock;
use kubenova_schema::meters::Meter;
use kubenova_store::{
    billing::NewEvent,
    ledger::{NewRow, WindowRows, event_id},
    windows,
};
use serde_json::{Map, Value, json};

/// Type of the event of one tenant, cluster and window.
pub const TYPE: &str = "io.kubenova.usage.window.v1";
/// Media type of a CloudEvent in structured JSON.
pub const CONTENT_TYPE: &str = "application/cloudevents+json";

/// The event of a row.
#[must_use]
pub fn usage(of: &WindowRows<'_>, row: &NewRow) -> NewEvent {
    let id = event_id(of.cluster, row.tenant, of.window, of.revision);
    let start = windows::start(of.window);
    let end = start + jiff::SignedDuration::from_secs(i64::from(of.window.seconds));
    let tenant_id = row.tenant.0.to_string();
    let mut data = Map::new();
    let mut set = |name: &str, value: Value| data.insert(name.to_owned(), value);
    set("tenantId", json!(tenant_id));
    set("tenantName", json!(row.tenant_name));
    set("clusterId", json!(of.cluster.as_str()));
    set("window", json!(of.window.to_string()));
    set("windowStart", json!(clock::rfc3339_ms(start)));
    set("windowEnd", json!(clock::rfc3339_ms(end)));
    set("revision", json!(of.revision));
    set("coverageMs", json!(of.coverage_ms.to_string()));
    set("quality", json!(of.quality));
    set("gaps", of.gaps.clone());
    for meter in Meter::ALL {
        set(meter.as_str(), json!(row.quantities[meter as usize].to_string()));
    }
    let event = json!({
        "specversion": "1.0",
        "id": id,
        "source": format!("/kubenova/clusters/{}", of.cluster),
        "type": TYPE,
        "subject": tenant_id,
        "time": clock::rfc3339_ms(start),
        "datacontenttype": "application/json",
        "tenantid": tenant_id,
        "clusterid": of.cluster.as_str(),
        "data": data,
    });
    NewEvent { event_id: id, tenant: row.tenant, kind: "usage", body: event.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_core::{cluster::ClusterId, tenant::TenantId};
    use kubenova_schema::window::Window;

    #[test]
    fn the_event_is_flat_exact_and_named_by_its_ledger_key() {
        let cluster = ClusterId::from_uuid(uuid::Uuid::from_u128(5));
        let gaps = json!([{"reason": "OperatorRestarted"}]);
        let of = WindowRows {
            cluster: &cluster,
            window: Window { start: 3600, seconds: 3600 },
            revision: 0,
            quality: &["gap".to_owned()],
            coverage_ms: 3_599_000,
            gaps: &gaps,
            incarnation: "1",
            received_at: jiff::Timestamp::UNIX_EPOCH,
        };
        let row = NewRow {
            tenant: TenantId(uuid::Uuid::from_u128(1)),
            tenant_name: "acme".into(),
            quantities: [i128::MAX, 2, 3, 4, 5],
            payload_sha256: String::new(),
        };
        let event = usage(&of, &row);
        let body: Value = serde_json::from_str(&event.body).unwrap();
        assert_eq!(body["id"], format!("{cluster}/00000000-0000-0000-0000-000000000001/w3600-3600/0"));
        assert_eq!(body["id"], event.event_id);
        assert_eq!(body["time"], "1970-01-01T01:00:00.000Z");
        assert_eq!(body["data"]["windowEnd"], "1970-01-01T02:00:00.000Z");
        assert_eq!(body["data"]["cpuRequestMillicoreMs"], i128::MAX.to_string());
        assert_eq!(body["data"]["gaps"][0]["reason"], "OperatorRestarted");
        assert_eq!(usage(&of, &row), event, "the same bytes again");
    }
}
