//! The broker's JWTs, version 2: what they say and how they are signed.
//!
//! Guarantees: a JWT made here is accepted by nats-server 2.12 and newer (proved against the real one in
//! `tests/access_list.rs`). Before it: `nats.rs`, which decides what is in them.

use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use serde::Serialize;
use std::collections::BTreeMap;

/// No limit, in nats-server's configuration.
const UNLIMITED: i64 = -1;

/// The outer part of every JWT.
#[derive(Debug, Serialize)]
pub(crate) struct Claims<T> {
    /// Hash of the rest.
    pub(crate) jti: String,
    /// Seconds since the Unix epoch.
    pub(crate) iat: i64,
    /// Public key of the signer.
    pub(crate) iss: String,
    /// Name that the broker shows; for a scoped user the value of `{{name()}}`.
    pub(crate) name: String,
    /// Public key this is about.
    pub(crate) sub: String,
    /// Seconds since the Unix epoch; absent: no end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exp: Option<i64>,
    pub(crate) nats: T,
}

/// What an operator JWT says.
#[derive(Debug, Serialize)]
pub(crate) struct OperatorClaims {
    pub(crate) signing_keys: Vec<String>,
    pub(crate) system_account: String,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) version: u32,
}

/// What an account JWT says.
#[derive(Debug, Serialize)]
pub(crate) struct AccountClaims {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) imports: Vec<Import>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) exports: Vec<Export>,
    pub(crate) limits: AccountLimits,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) signing_keys: Vec<SigningKey>,
    /// Public key of a user to the second up to which its JWTs are void.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) revocations: BTreeMap<String, i64>,
    pub(crate) default_permissions: NoPermissions,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) version: u32,
}

/// A subject of this account that others may use.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Export {
    pub(crate) name: String,
    pub(crate) subject: String,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) response_type: Option<&'static str>,
}

/// A subject of another account that this one uses.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Import {
    pub(crate) name: String,
    /// The other account's subject.
    pub(crate) subject: String,
    pub(crate) account: String,
    /// The subject it has here, when it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) local_subject: Option<String>,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
}

/// A key that may sign users of one role only.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SigningKey {
    pub(crate) kind: &'static str,
    pub(crate) key: String,
    pub(crate) role: String,
    pub(crate) description: String,
    pub(crate) template: Template,
}

/// What users of a role may do.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Template {
    #[serde(rename = "pub")]
    pub(crate) publish: Permission,
    #[serde(rename = "sub")]
    pub(crate) subscribe: Permission,
    pub(crate) subs: i64,
    pub(crate) data: i64,
    pub(crate) payload: i64,
    pub(crate) allowed_connection_types: Vec<&'static str>,
}

/// Allowed subjects; an empty list of a role that should do nothing is written as a denial of everything.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Permission {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) allow: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) deny: Vec<String>,
}

/// `{"pub":{},"sub":{}}`
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct NoPermissions {
    #[serde(rename = "pub")]
    publish: Permission,
    #[serde(rename = "sub")]
    subscribe: Permission,
}

/// What an account may have.
#[derive(Debug, Serialize)]
pub(crate) struct AccountLimits {
    subs: i64,
    data: i64,
    payload: i64,
    imports: i64,
    exports: i64,
    wildcards: bool,
    conn: i64,
    leaf: i64,
    mem_storage: i64,
    disk_storage: i64,
    streams: i64,
    consumer: i64,
}

impl AccountLimits {
    /// Without limits; JetStream only where it is named.
    pub(crate) const fn new(jetstream: bool) -> Self {
        let storage = if jetstream { UNLIMITED } else { 0 };
        Self {
            subs: UNLIMITED,
            data: UNLIMITED,
            payload: UNLIMITED,
            imports: UNLIMITED,
            exports: UNLIMITED,
            wildcards: true,
            conn: UNLIMITED,
            leaf: UNLIMITED,
            mem_storage: storage,
            disk_storage: storage,
            streams: storage,
            consumer: storage,
        }
    }
}

/// What a user JWT of a scoped key says: nothing of its own, the scope decides.
#[derive(Debug, Serialize)]
pub(crate) struct ScopedUserClaims {
    pub(crate) issuer_account: String,
    #[serde(rename = "pub")]
    pub(crate) publish: Permission,
    #[serde(rename = "sub")]
    pub(crate) subscribe: Permission,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) version: u32,
}

/// What a user JWT signed by the account itself says.
#[derive(Debug, Serialize)]
pub(crate) struct FullUserClaims {
    subs: i64,
    data: i64,
    payload: i64,
    #[serde(rename = "pub")]
    publish: Permission,
    #[serde(rename = "sub")]
    subscribe: Permission,
    #[serde(rename = "type")]
    kind: &'static str,
    version: u32,
}

impl FullUserClaims {
    /// Everything within the account.
    pub(crate) fn new() -> Self {
        Self::limited(Permission::default(), Permission::default())
    }

    /// These subjects only.
    pub(crate) fn limited(publish: Permission, subscribe: Permission) -> Self {
        Self { subs: UNLIMITED, data: UNLIMITED, payload: UNLIMITED, publish, subscribe, kind: "user", version: 2 }
    }
}

const PLAIN: &str = "claims are plain structs with text keys";

/// SHA-256 of what claims say.
pub(crate) fn sha256<T: Serialize>(claims: &T) -> [u8; 32] {
    let bytes = serde_json::to_vec(claims).expect(PLAIN);
    let mut digest = [0; 32];
    digest.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes).as_ref());
    digest
}

/// What a JWT says; none when it is none. Its signature is not verified.
#[must_use]
pub fn read(jwt: &str) -> Option<serde_json::Value> {
    let body = BASE64URL_NOPAD.decode(jwt.trim().split('.').nth(1)?.as_bytes()).ok()?;
    serde_json::from_slice(&body).ok()
}

/// Whether two JWTs say the same, whenever they were issued.
#[must_use]
pub(crate) fn say_the_same(one: &str, other: &str) -> bool {
    let timeless = |jwt| {
        let mut claims = read(jwt)?;
        claims.as_object_mut()?.retain(|field, _| !matches!(field.as_str(), "iat" | "jti"));
        Some(claims)
    };
    timeless(one).is_some_and(|one| timeless(other) == Some(one))
}

/// Signs claims. `jti` is filled here: base32 of SHA-512/256 over the claims without it.
pub(crate) fn encode<T: Serialize>(
    mut claims: Claims<T>,
    signer: &nkeys::KeyPair,
) -> Result<String, nkeys::error::Error> {
    claims.jti = String::new();
    let bytes = serde_json::to_vec(&claims).expect(PLAIN);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512_256, &bytes);
    claims.jti = BASE32_NOPAD.encode(digest.as_ref());
    let header = BASE64URL_NOPAD.encode(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let body = BASE64URL_NOPAD.encode(&serde_json::to_vec(&claims).expect(PLAIN));
    let signed = format!("{header}.{body}");
    let signature = signer.sign(signed.as_bytes())?;
    Ok(format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature)))
}
