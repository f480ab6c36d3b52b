//! Answers to changes: committed together with the change, stored for repetitions, and without effect in a dry run.

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use kubenova_api_types::{
    applications::ApplicationAccepted,
    cluster_components::ComponentAccepted,
    clusters::{Cluster, ClusterChanged, ClusterCreated, ClusterPurged, DeletionConfirmation},
    commands::{Command, OperationAccepted},
    dead_letters::DeadLetter,
    enrollments::{Enrollment, EnrollmentState},
    rollouts::Rollout,
    tenants::TenantAccepted,
};
use kubenova_store::{idempotency::ResponseRecord, outbox::EnqueuedCommand};
use serde::Serialize;

const OPERATION_LOCATION: HeaderName = HeaderName::from_static("operation-location");
const DRY_RUN: HeaderName = HeaderName::from_static("dry-run");

/// The version of an object as a strong ETag.
#[must_use]
pub fn etag(id: &impl std::fmt::Display, generation: i64) -> String {
    format!("\"{id}.{generation}\"")
}

/// The body of an answer to a change.
pub trait MutationBody: Serialize + Clone {
    /// The body in a dry run: without the commands that were only enqueued in a transaction that is rolled back.
    #[must_use]
    fn without_commands(self) -> Self;
}

impl MutationBody for ClusterCreated {
    fn without_commands(self) -> Self {
        Self { commands: Vec::new(), ..self }
    }
}

impl MutationBody for Cluster {
    fn without_commands(self) -> Self {
        self
    }
}

impl MutationBody for ClusterChanged {
    fn without_commands(self) -> Self {
        Self { commands: Vec::new(), ..self }
    }
}

impl MutationBody for ComponentAccepted {
    fn without_commands(self) -> Self {
        Self { commands: Vec::new(), ..self }
    }
}

impl MutationBody for Rollout {
    fn without_commands(self) -> Self {
        self
    }
}

impl MutationBody for ClusterPurged {
    fn without_commands(self) -> Self {
        self
    }
}

impl MutationBody for DeletionConfirmation {
    fn without_commands(self) -> Self {
        self
    }
}

impl MutationBody for TenantAccepted {
    fn without_commands(self) -> Self {
        Self { commands: Vec::new(), ..self }
    }
}

impl MutationBody for ApplicationAccepted {
    fn without_commands(self) -> Self {
        Self { commands: Vec::new(), ..self }
    }
}

impl MutationBody for OperationAccepted {
    fn without_commands(self) -> Self {
        Self { commands: Vec::new(), ..self }
    }
}

impl MutationBody for Command {
    fn without_commands(self) -> Self {
        self
    }
}

impl MutationBody for DeadLetter {
    fn without_commands(self) -> Self {
        self
    }
}

impl MutationBody for EnrollmentState {
    fn without_commands(self) -> Self {
        self
    }
}

impl MutationBody for Enrollment {
    fn without_commands(self) -> Self {
        self
    }
}

/// An answer to a change; [`crate::request_context::RequestContext::write`] commits it with the change.
#[derive(Debug, Clone)]
pub struct MutationResponse {
    status: StatusCode,
    headers: Vec<(String, String)>,
    body: String,
    repeated: String,
    dry_run: String,
}

impl MutationResponse {
    /// 201: the object exists and no cluster is concerned, or none has to act first.
    #[must_use]
    pub fn created(body: &impl MutationBody) -> Self {
        Self::new(StatusCode::CREATED, body)
    }

    /// 200: nothing is left to do.
    #[must_use]
    pub fn done(body: &impl MutationBody) -> Self {
        Self::new(StatusCode::OK, body)
    }

    /// 202: stored; the commands for the clusters are enqueued.
    #[must_use]
    pub fn accepted(body: &impl MutationBody) -> Self {
        Self::new(StatusCode::ACCEPTED, body)
    }

    fn new(status: StatusCode, body: &impl MutationBody) -> Self {
        Self { status, headers: Vec::new(), body: text(body), repeated: String::new(), dry_run: String::new() }
            .repeated_as(body)
    }

    /// The body without what is shown only once, for a repetition of the request and for a dry run.
    #[must_use]
    pub fn repeated_as<T: MutationBody>(mut self, body: &T) -> Self {
        self.repeated = text(body);
        self.dry_run = text(&body.clone().without_commands());
        self
    }

    /// Path of the object.
    #[must_use]
    pub fn location(mut self, path: String) -> Self {
        self.headers.push((header::LOCATION.to_string(), path));
        self
    }

    /// Version of the object.
    #[must_use]
    pub fn etag(mut self, etag: String) -> Self {
        self.headers.push((header::ETAG.to_string(), etag));
        self
    }

    /// Path of each command, and when to look at them.
    #[must_use]
    pub fn operations(mut self, commands: &[EnqueuedCommand]) -> Self {
        let path = |command: &EnqueuedCommand| {
            (OPERATION_LOCATION.to_string(), format!("/api/v1/commands/{}", command.command_id))
        };
        self.headers.extend(commands.iter().map(path));
        if !commands.is_empty() {
            self.headers.push((header::RETRY_AFTER.to_string(), "1".to_owned()));
        }
        self
    }

    /// What is stored for repetitions.
    #[must_use]
    pub fn stored(&self) -> ResponseRecord {
        let mut headers = self.headers.clone();
        headers.push((header::CONTENT_TYPE.to_string(), "application/json".to_owned()));
        ResponseRecord { status: self.status.as_u16(), headers, body: self.repeated.clone() }
    }

    /// 200 instead of 201 or 202, without the paths of objects that do not exist. A header says that it is a dry run: the body is the
    /// one of a real answer, and so may be the status.
    #[must_use]
    pub fn of_dry_run(self) -> Response {
        let headers = [(header::CONTENT_TYPE, "application/json"), (DRY_RUN, "true")];
        (StatusCode::OK, headers, self.dry_run).into_response()
    }
}

impl IntoResponse for MutationResponse {
    fn into_response(self) -> Response {
        let mut response = (self.status, [(header::CONTENT_TYPE, "application/json")], self.body).into_response();
        for (name, value) in &self.headers {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
                response.headers_mut().append(name, value);
            }
        }
        response
    }
}

fn text(body: &impl MutationBody) -> String {
    serde_json::to_string(body).expect("answers are plain data")
}

/// The answer to a read of an object, with its version.
#[must_use]
pub fn with_etag<T: Serialize>(etag: &str, body: T) -> Response {
    let mut response = axum::Json(body).into_response();
    if let Ok(value) = HeaderValue::from_str(etag) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response
}
