//! How much of its quota a tenant uses: the resource that is nearest to its end, in a word for a column of kubectl.

use k8s_openapi::api::core::v1::ResourceQuota;
use kubenova_schema::quantity::Quantity;

/// Such as `75% cpu`; empty until Kubernetes has counted.
#[must_use]
pub fn used(quota: &ResourceQuota) -> String {
    let Some(status) = &quota.status else { return String::new() };
    let (Some(hard), Some(used)) = (&status.hard, &status.used) else { return String::new() };
    let shares = hard.iter().filter_map(|(resource, hard)| {
        let hard = Quantity::parse(&hard.0).ok()?.nano();
        let used = Quantity::parse(&used.get(resource)?.0).ok()?.nano();
        // Of nothing, nothing can be used.
        let share = used.checked_mul(100)?.checked_div(hard)?;
        Some((share, resource.strip_prefix("requests.").unwrap_or(resource)))
    });
    // Of equal ones the first by name.
    let nearest = shares.fold(None, |nearest: Option<(i128, &str)>, share| match nearest {
        Some(nearest) if nearest.0 >= share.0 => Some(nearest),
        _ => Some(share),
    });
    nearest.map(|(share, resource)| format!("{share}% {resource}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(hard: &serde_json::Value, used_of_it: &serde_json::Value) -> String {
        used(&serde_json::from_value(json!({"status": {"hard": hard, "used": used_of_it}})).unwrap())
    }

    #[test]
    fn the_resource_that_is_nearest_to_its_end_counts() {
        let hard = || json!({"pods": "50", "requests.cpu": "8", "requests.memory": "16Gi"});
        assert_eq!(of(&hard(), &json!({"pods": "5", "requests.cpu": "6", "requests.memory": "1Gi"})), "75% cpu");
        assert_eq!(of(&hard(), &json!({"pods": "50", "requests.cpu": "7999m", "requests.memory": "0"})), "100% pods");
        assert_eq!(of(&hard(), &json!({"pods": "0", "requests.cpu": "0", "requests.memory": "0"})), "0% pods");
    }

    #[test]
    fn what_is_not_counted_or_not_allowed_at_all_is_left_out() {
        assert_eq!(used(&ResourceQuota::default()), "");
        assert_eq!(of(&json!({"pods": "0", "x": "2"}), &json!({"pods": "0", "x": "1"})), "50% x");
        assert_eq!(of(&json!({"pods": "1"}), &json!({})), "");
    }
}
