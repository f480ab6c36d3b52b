//! The Manager's REST API as curl sees it: JSON in, JSON out, status and headers kept.
//!
//! Guarantees: trusts only the Manager's own CA; a failed expectation prints method, path, status and the whole body.
//! Must not: know the Manager's types. Scenarios read what any client would read.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kubenova_env::poll::{self, Step};
use kubenova_runtime::random;
use reqwest::Method;
use serde_json::Value;

/// A client with one token.
#[derive(Debug, Clone)]
pub struct Rest {
    base: String,
    token: String,
    http: reqwest::Client,
}

/// One answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers by lower-case name.
    pub headers: reqwest::header::HeaderMap,
    /// The body; `Null` when it is empty, a string when it is no JSON.
    pub body: Value,
    request: String,
}

impl Answer {
    /// The body, if the status is this one.
    pub fn expect(self, status: u16) -> Result<Value> {
        if self.status != status {
            bail!("{}: expected {status}, got {}: {}", self.request, self.status, self.body);
        }
        Ok(self.body)
    }

    /// The body, if the answer is a success.
    pub fn accepted(self) -> Result<Value> {
        if !(200..=299).contains(&self.status) {
            bail!("{}: {}: {}", self.request, self.status, self.body);
        }
        Ok(self.body)
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Rest {
    /// A client of `base` (`https://host:port`) that trusts the CA in `ca_file`.
    pub fn new(base: &str, ca_file: &Path, token: &str) -> Result<Self> {
        let pem = std::fs::read(ca_file).with_context(|| format!("could not read the CA {}", ca_file.display()))?;
        let authorities = reqwest::Certificate::from_pem_bundle(&pem).context("the CA file holds no certificate")?;
        let http = reqwest::Client::builder().tls_certs_only(authorities).timeout(Duration::from_secs(40)).build()?;
        Ok(Self { base: base.trim_end_matches('/').to_owned(), token: token.trim().to_owned(), http })
    }

    /// The same client with another token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: token.trim().to_owned(), ..self.clone() }
    }

    /// `GET`.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.send(self.http.get(self.url(path)), format!("GET {path}")).await
    }

    /// `POST` with a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send(self.http.post(self.url(path)).json(body), format!("POST {path}")).await
    }

    /// `PUT` with a JSON body.
    pub async fn put(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send(self.http.put(self.url(path)).json(body), format!("PUT {path}")).await
    }

    /// `DELETE`.
    pub async fn delete(&self, path: &str) -> Result<Answer> {
        self.send(self.http.delete(self.url(path)), format!("DELETE {path}")).await
    }

    /// `POST` with any body and further headers.
    pub async fn post_raw(
        &self,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
        headers: &[(&str, &str)],
    ) -> Result<Answer> {
        let mut request = self.http.post(self.url(path)).header("content-type", content_type).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request, format!("POST {path}")).await
    }

    /// A write that outlives its Manager: repeated with the same `Idempotency-Key` until an answer comes that is not about
    /// the server's own state; that answer is 2xx, or an error.
    pub async fn write_through(&self, method: Method, path: &str, body: &Value, within: Duration) -> Result<Value> {
        self.write_until_answered(method, path, body, within).await?.accepted()
    }

    /// [`Rest::write_through`] that also returns a refusal.
    pub async fn write_until_answered(
        &self,
        method: Method,
        path: &str,
        body: &Value,
        within: Duration,
    ) -> Result<Answer> {
        let key = random::uuid_v4().to_string();
        let asked = format!("{method} {path}");
        poll::until(format!("an answer to {asked}"), within, || async {
            let request = self.http.request(method.clone(), self.url(path)).header("idempotency-key", &key).json(body);
            let answer = match self.send(request, asked.clone()).await {
                Ok(answer) => answer,
                Err(error) => return Ok(Step::Waiting(format!("{error:#}"))),
            };
            let again = answer.status >= 500 || answer.body["retryable"] == true;
            let seen = format!("{} {}", answer.status, answer.body);
            Ok(Step::when(!again, answer, seen))
        })
        .await
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    async fn send(&self, request: reqwest::RequestBuilder, asked: String) -> Result<Answer> {
        let response =
            request.bearer_auth(&self.token).send().await.with_context(|| format!("{asked} got no answer"))?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let text = response.text().await.with_context(|| format!("{asked}: the answer broke off"))?;
        let body =
            if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap_or(Value::String(text)) };
        Ok(Answer { status, headers, body, request: asked })
    }
}
