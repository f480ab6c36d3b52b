//! Answers to changes: committed with the change, repeated with it, and only imagined in a dry run.

use crate::error::ApiError;
use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use kubenova_store::{idempotency::ResponseRecord, outbox::EnqueuedCommand, write_tx::WriteTx};
use serde::Serialize;

const OPERATION_LOCATION: HeaderName = HeaderName::from_static("operation-location");

/// Version of a resource as a strong ETag.
#[must_use]
pub fn etag(id: &impl std::fmt::Display, generation: i64) -> String {
    format!("\"{id}.{generation}\"")
}

/// An answer to a change.
#[derive(Debug, Clone)]
pub struct MutationResponse {
    status: StatusCode,
    headers: Vec<(String, String)>,
}

impl MutationResponse {
    /// 201: it exists now.
    #[must_use]
    pub const fn created() -> Self {
        Self { status: StatusCode::CREATED, headers: Vec::new() }
    }

    /// 200: nothing is left to do.
    #[must_use]
    pub const fn done() -> Self {
        Self { status: StatusCode::OK, headers: Vec::new() }
    }

    /// 202: clusters will hear of it.
    #[must_use]
    pub const fn accepted() -> Self {
        Self { status: StatusCode::ACCEPTED, headers: Vec::new() }
    }

    /// Where the resource is.
    #[must_use]
    pub fn location(mut self, path: String) -> Self {
        self.headers.push((header::LOCATION.to_string(), path));
        self
    }

    /// The resource's version.
    #[must_use]
    pub fn etag(mut self, etag: String) -> Self {
        self.headers.push((header::ETAG.to_string(), etag));
        self
    }

    /// Where each of the commands is.
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

    /// Commits, then answers. `kept` is what a repetition is told: the body without what is shown once.
    ///
    /// # Errors
    /// When the change could not be committed; nothing happened then.
    pub async fn commit<T: Serialize>(
        self,
        tx: WriteTx,
        dry_run: bool,
        body: &T,
        kept: &T,
    ) -> Result<Response, ApiError> {
        let text = |body: &T| serde_json::to_string(body).expect("answers are plain data");
        if dry_run {
            // The tx is dropped here: nothing of it happened.
            drop(tx);
            return Ok(self.imagined(text(kept)));
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

    /// 200 instead of 201 or 202, and no place where anything could be found.
    fn imagined(self, body: String) -> Response {
        let json = [(header::CONTENT_TYPE, "application/json")];
        (StatusCode::OK, json, body).into_response()
    }
}

/// Answers a read with its version.
#[must_use]
pub fn with_etag<T: Serialize>(etag: &str, body: T) -> Response {
    let mut response = axum::Json(body).into_response();
    if let Ok(value) = HeaderValue::from_str(etag) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response
}
