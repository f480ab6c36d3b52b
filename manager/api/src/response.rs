//! Answers to changes: committed together with the change, stored for repetitions, and without effect in a dry run.

use crate::error::ApiError;
use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use kubenova_api_types::{
    applications::ApplicationAccepted,
    clusters::{ClusterCreated, Enrollment},
    tenants::TenantAccepted,
};
use kubenova_store::{idempotency::ResponseRecord, outbox::EnqueuedCommand, write_tx::WriteTx};
use serde::Serialize;

const OPERATION_LOCATION: HeaderName = HeaderName::from_static("operation-location");

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

impl MutationBody for Enrollment {
    fn without_commands(self) -> Self {
        self
    }
}

/// An answer to a change.
#[derive(Debug, Clone)]
pub struct MutationResponse {
    status: StatusCode,
    headers: Vec<(String, String)>,
}

impl MutationResponse {
    /// 201: the object exists and no cluster is concerned, or none has to act first.
    #[must_use]
    pub const fn created() -> Self {
        Self { status: StatusCode::CREATED, headers: Vec::new() }
    }

    /// 200: nothing is left to do.
    #[must_use]
    pub const fn done() -> Self {
        Self { status: StatusCode::OK, headers: Vec::new() }
    }

    /// 202: stored; the commands for the clusters are enqueued.
    #[must_use]
    pub const fn accepted() -> Self {
        Self { status: StatusCode::ACCEPTED, headers: Vec::new() }
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

    /// Commits, then answers. `kept` is the answer to a repetition: the body without what is shown only once.
    pub async fn commit<T: MutationBody>(
        self,
        tx: WriteTx,
        dry_run: bool,
        body: &T,
        kept: &T,
    ) -> Result<Response, ApiError> {
        let text = |body: &T| serde_json::to_string(body).expect("answers are plain data");
        if dry_run {
            // Dropping the transaction rolls it back.
            drop(tx);
            return Ok(dry_run_answer(text(&kept.clone().without_commands())));
        }
        let mut headers = self.headers;
        headers.push((header::CONTENT_TYPE.to_string(), "application/json".to_owned()));
        let answer = ResponseRecord { status: self.status.as_u16(), headers, body: text(kept) };
        tx.commit(&answer).await?;
        let mut response = (self.status, text(body)).into_response();
        response.headers_mut().remove(header::CONTENT_TYPE);
        for (name, value) in &answer.headers {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
                response.headers_mut().append(name, value);
            }
        }
        Ok(response)
    }
}

/// 200 instead of 201 or 202, without the paths of objects that do not exist.
fn dry_run_answer(body: String) -> Response {
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], body).into_response()
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
