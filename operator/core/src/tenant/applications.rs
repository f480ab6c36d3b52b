//! What a NovaTenant says about its applications: how many are ready, and why the first one is not. The objects themselves are
//! KubeVela's; whoever describes the tenant finds the cause without knowing of them.

use super::apps_namespace;
use crate::{application::status, conditions::ConditionSet};
use jiff::Timestamp;
use kubenova_crds::tenant::{TenantStatus, condition};
use kubenova_schema::{kinds::ObjectKey, v1::ObjectStatus};

/// The applications of one tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applications {
    total: usize,
    /// Name, reason and message of each that is not ready, by name.
    not_ready: Vec<(String, String, String)>,
}

impl Applications {
    /// Of the statuses of one tenant's applications, in the order of their keys.
    #[must_use]
    pub fn of<'a>(statuses: impl IntoIterator<Item = &'a ObjectStatus>) -> Self {
        let mut applications = Self::default();
        for one in statuses {
            applications.total += 1;
            if status::is_ready(one) {
                continue;
            }
            let name = match ObjectKey::parse(&one.key) {
                Some(ObjectKey::Application { name, .. }) => name,
                _ => one.key.clone(),
            };
            let ready = one.conditions.iter().find(|found| found.r#type == status::READY);
            let (reason, message) =
                ready.map_or(("NotReported", ""), |ready| (ready.reason.as_str(), ready.message.as_str()));
            applications.not_ready.push((name, reason.to_owned(), message.to_owned()));
        }
        applications
    }

    /// Writes them into a status; whether anything differs. A tenant without applications has no condition about them.
    #[must_use]
    pub fn write_into(&self, status: &mut TenantStatus, tenant: &str, generation: Option<i64>, now: Timestamp) -> bool {
        let text = format!("{}/{}", self.total - self.not_ready.len(), self.total);
        let mut changed = status.applications_ready != text;
        status.applications_ready = text;
        if self.total == 0 {
            let before = status.conditions.len();
            status.conditions.retain(|found| found.type_ != condition::APPLICATIONS_READY);
            return changed || status.conditions.len() != before;
        }
        changed |= self.condition(tenant).merge_into(&mut status.conditions, generation, now).changed;
        changed
    }

    fn condition(&self, tenant: &str) -> ConditionSet {
        let mut set = ConditionSet::new();
        let Some((name, reason, message)) = self.not_ready.first() else {
            set.set_true(condition::APPLICATIONS_READY, "Ready", "every application is ready");
            return set;
        };
        let cause = if message.is_empty() { String::new() } else { format!(": {message}") };
        let others = match self.not_ready.len() - 1 {
            0 => String::new(),
            1 => "; another one is not ready either".to_owned(),
            others => format!("; {others} others are not ready either"),
        };
        let namespace = apps_namespace(tenant);
        let see = format!("kubectl describe applications.core.oam.dev {name} -n {namespace}");
        let reason = if reason.is_empty() { "NotReady" } else { reason };
        set.set_false(
            condition::APPLICATIONS_READY,
            reason,
            format!("application \"{name}\" is not ready{cause}{others}; see: {see}"),
        );
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_schema::v1::Condition;

    fn application(name: &str, ready: &str, reason: &str, message: &str) -> ObjectStatus {
        let ready = Condition {
            r#type: status::READY.to_owned(),
            status: ready.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            ..Condition::default()
        };
        ObjectStatus { key: format!("application/t/{name}"), conditions: vec![ready], ..ObjectStatus::default() }
    }

    fn write(status: &mut TenantStatus, applications: &[ObjectStatus]) -> bool {
        Applications::of(applications).write_into(status, "acme", Some(1), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn the_first_that_is_not_ready_is_named_with_its_cause_and_where_to_look() {
        let mut status = TenantStatus::default();
        let applications = [
            application("blog", "True", "Running", ""),
            application("shop", "False", "ImagePullBackOff", "pod \"shop-1\" cannot pull image \"x\""),
            application("wiki", "False", "Unhealthy", ""),
        ];
        assert!(write(&mut status, &applications));
        assert_eq!(status.applications_ready, "1/3");
        let said = &status.conditions[0];
        assert_eq!((said.status.as_str(), said.reason.as_str()), ("False", "ImagePullBackOff"));
        assert_eq!(
            said.message,
            "application \"shop\" is not ready: pod \"shop-1\" cannot pull image \"x\"; another one is not ready either; see: \
             kubectl describe applications.core.oam.dev shop -n acme-apps"
        );
        assert!(!write(&mut status, &applications), "the same again");
    }

    #[test]
    fn a_tenant_without_applications_has_no_condition_about_them() {
        let mut status = TenantStatus::default();
        assert!(write(&mut status, &[]));
        assert_eq!((status.applications_ready.as_str(), status.conditions.len()), ("0/0", 0));
        assert!(write(&mut status, &[application("shop", "True", "Running", "")]));
        assert_eq!((status.applications_ready.as_str(), status.conditions[0].status.as_str()), ("1/1", "True"));
        assert!(write(&mut status, &[]));
        assert_eq!(status.conditions, []);
        assert!(!write(&mut status, &[]));
    }

    #[test]
    fn one_that_was_not_reported_yet_is_not_ready() {
        let mut status = TenantStatus::default();
        let unreported = ObjectStatus { key: "application/t/shop".to_owned(), ..ObjectStatus::default() };
        assert!(write(&mut status, &[unreported]));
        assert_eq!(status.conditions[0].reason, "NotReported");
    }
}
