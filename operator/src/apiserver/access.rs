//! Who this is, and what a user may do.

use super::{Error, client::Apiserver, verbs};
use k8s_openapi::api::{
    authentication::v1::SelfSubjectReview,
    authorization::v1::{
        ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview,
        SubjectAccessReviewSpec,
    },
};
use kube::Api;
use kubenova_operator_core::doctor::Right;

/// The user as whom calls are made.
pub async fn user_name(apiserver: &Apiserver) -> Result<String, Error> {
    let reviewed = verbs::create(&Api::all(apiserver.client()), &SelfSubjectReview::default()).await?;
    Ok(reviewed.status.and_then(|status| status.user_info).and_then(|user| user.username).unwrap_or_default())
}

/// Whether a user may do this; without one, whoever asks.
pub async fn may(apiserver: &Apiserver, user: Option<&str>, right: Right) -> Result<bool, Error> {
    let (resource, subresource) = match right.resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (right.resource, None),
    };
    let attributes = ResourceAttributes {
        verb: Some(right.verb.to_owned()),
        group: Some(right.group.to_owned()),
        resource: Some(resource.to_owned()),
        subresource,
        namespace: right.namespace.map(str::to_owned),
        name: right.name.map(str::to_owned),
        ..ResourceAttributes::default()
    };
    let client = apiserver.client();
    let status = match user {
        None => {
            let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
            let review = SelfSubjectAccessReview { spec, ..Default::default() };
            verbs::create(&Api::all(client), &review).await?.status
        }
        Some(user) => {
            let groups = groups_of(user);
            let spec = SubjectAccessReviewSpec {
                resource_attributes: Some(attributes),
                user: Some(user.to_owned()),
                groups: Some(groups),
                ..Default::default()
            };
            let review = SubjectAccessReview { spec, ..Default::default() };
            verbs::create(&Api::all(client), &review).await?.status
        }
    };
    Ok(status.is_some_and(|status| status.allowed))
}

/// The groups that the API server adds to a ServiceAccount by itself.
fn groups_of(user: &str) -> Vec<String> {
    let mut groups = vec!["system:authenticated".to_owned(), "system:serviceaccounts".to_owned()];
    let namespace = user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split(':').next());
    groups.extend(namespace.map(|namespace| format!("system:serviceaccounts:{namespace}")));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_account_is_in_the_groups_of_its_namespace() {
        assert_eq!(groups_of("system:serviceaccount:a:b").last().unwrap(), "system:serviceaccounts:a");
        assert_eq!(groups_of("jane").len(), 2);
    }
}
