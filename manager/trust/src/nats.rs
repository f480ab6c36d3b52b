//! The broker's operator, accounts, roles and users.
//!
//! Guarantees: `CORE` owns every stream; `EDGE`, `BILL` and `OPS` see only imported services, so a reply never lands in
//! a stream (the attack on one shared account, reference NATS §2.2). A user of a role has exactly the role's template:
//! a request has no influence on it. The subjects are in `kubenova_schema::subjects::accounts`.

mod accounts;

use crate::{
    TrustError,
    authority::Validity,
    claims::{
        AccountClaims, Claims, FullUserClaims, OperatorClaims, Permission, ScopedUserClaims, SigningKey, Template,
        encode, sha256,
    },
};
use accounts::{
    account, billing_template, cluster_template, core_exports, edge_imports, ops_imports, reader_template,
    service_import,
};
use jiff::Timestamp;
use kubenova_schema::{mutant, nats_files, subjects};
use nkeys::{KeyPair, KeyPairType};
use std::collections::BTreeMap;

/// Name of the read-only user of the `nats` CLI.
const OPS_NAME: &str = "ops";
/// Name of the Manager's user.
const MANAGER_NAME: &str = "manager";
/// Name of the user that pushes account JWTs.
const SYSTEM_NAME: &str = "manager-system";

macro_rules! identities {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal, $kind:ident;)*) => {
        /// Every nkey of the broker's trust.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum NatsIdentity { $($(#[doc = $doc])* $name,)* }

        impl NatsIdentity {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name in the store.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            fn kind(self) -> KeyPairType {
                match self { $(Self::$name => KeyPairType::$kind,)* }
            }
        }
    };
}

identities! {
    /// The operator.
    Operator = "nats.operator", Operator;
    /// Signs account JWTs for the operator.
    OperatorSigning = "nats.operator.signing", Operator;
    /// The system account.
    System = "nats.account.system", Account;
    /// Owns every stream.
    Core = "nats.account.core", Account;
    /// Operators, leaf nodes and bridge sessions.
    Edge = "nats.account.edge", Account;
    /// Signs users of the role `cluster`, and can sign nothing else.
    EdgeCluster = "nats.account.edge.cluster", Account;
    /// Billing subscribers.
    Bill = "nats.account.bill", Account;
    /// Signs users of the role `billing`.
    BillBilling = "nats.account.bill.billing", Account;
    /// Users of the `nats` CLI.
    Ops = "nats.account.ops", Account;
    /// Signs users of the role `reader`.
    OpsReader = "nats.account.ops.reader", Account;
    /// The Manager in CORE.
    ManagerUser = "nats.user.manager", User;
    /// The Manager in SYS.
    SystemUser = "nats.user.system", User;
    /// Users of the `nats` CLI in OPS.
    OpsUser = "nats.user.ops", User;
}

impl NatsIdentity {
    /// Public half and seed of a new key.
    pub(crate) fn new_key(self) -> Result<(String, String), TrustError> {
        let failed = |source| TrustError::Nkey { what: self.as_str(), source };
        let pair = KeyPair::new_from_raw(self.kind(), kubenova_runtime::random::bytes::<32>()).map_err(failed)?;
        Ok((pair.public_key(), pair.seed().map_err(failed)?))
    }
}

/// A user's JWT with the seed of its nkey.
#[derive(Clone)]
pub struct UserCredentials {
    /// The JWT.
    pub user_jwt: String,
    /// `SU...`.
    pub seed: String,
}

impl std::fmt::Debug for UserCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UserCredentials(***)")
    }
}

impl UserCredentials {
    /// As a credentials file.
    #[must_use]
    pub fn to_file(&self) -> String {
        nats_files::credentials(&self.user_jwt, &self.seed)
    }
}

/// Which users' JWTs are void, by account: public nkey to the second up to which they are.
#[derive(Debug, Clone, Default)]
pub struct Revocations {
    /// In EDGE.
    pub edge: BTreeMap<String, i64>,
    /// In BILL.
    pub bill: BTreeMap<String, i64>,
    /// In OPS.
    pub ops: BTreeMap<String, i64>,
}

/// An account's JWT as it was signed last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedAccount {
    /// Who signed what, without the time: while it is the same, so is the JWT.
    pub claims_sha256: [u8; 32],
    /// `iat`, to the second.
    pub issued_at: Timestamp,
    /// The JWT.
    pub jwt: String,
}

/// An account as the broker gets it.
#[derive(Debug, Clone)]
pub struct AccountJwt {
    /// Its name.
    pub name: &'static str,
    /// Public key.
    pub public: String,
    /// Its JWT.
    pub signed: SignedAccount,
}

/// Public keys that users of the role `cluster` may be signed with beside [`NatsIdentity::EdgeCluster`], during a rotation.
#[derive(Debug, Clone, Default)]
pub struct ClusterSigners(pub Vec<String>);

/// All nkeys of the broker's trust, opened.
pub struct Nkeys {
    pairs: BTreeMap<NatsIdentity, KeyPair>,
    cluster_signers: ClusterSigners,
}

impl std::fmt::Debug for Nkeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Nkeys(***)")
    }
}

impl Nkeys {
    /// From seeds.
    ///
    /// # Errors
    /// When one is missing or of another kind.
    pub fn open(
        seed: impl Fn(NatsIdentity) -> Result<String, TrustError>,
        cluster_signers: ClusterSigners,
    ) -> Result<Self, TrustError> {
        let mut pairs = BTreeMap::new();
        for identity in NatsIdentity::ALL {
            let pair = KeyPair::from_seed(&seed(*identity)?)
                .map_err(|source| TrustError::Nkey { what: identity.as_str(), source })?;
            if pair.key_pair_type() != identity.kind() {
                return Err(TrustError::DamagedKey(identity.as_str()));
            }
            pairs.insert(*identity, pair);
        }
        Ok(Self { pairs, cluster_signers })
    }

    fn pair(&self, identity: NatsIdentity) -> &KeyPair {
        self.pairs.get(&identity).expect("open() filled every identity")
    }

    /// Public key of one identity.
    #[must_use]
    pub fn public(&self, identity: NatsIdentity) -> String {
        self.pair(identity).public_key()
    }

    /// The operator's JWT.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn operator_jwt(&self, now: Timestamp) -> Result<String, TrustError> {
        let nats = OperatorClaims {
            signing_keys: vec![self.public(NatsIdentity::OperatorSigning)],
            system_account: self.public(NatsIdentity::System),
            kind: "operator",
            version: 2,
        };
        self.sign(NatsIdentity::Operator, "kubenova", self.public(NatsIdentity::Operator), (now, None), nats)
    }

    /// Every account's JWT: the kept one, by name, where it says the same, else a new one with a later time of issue.
    ///
    /// A server of the broker takes whatever is pushed to it, but what servers tell each other counts by the time of issue alone
    /// (`DirJWTStore.saveIfNewer`): so that of an account only rises, whatever the clock, and no two JWTs share it.
    ///
    /// # Errors
    /// When one cannot be signed.
    pub fn account_jwts(
        &self,
        revocations: &Revocations,
        kept: &BTreeMap<String, SignedAccount>,
        now: Timestamp,
    ) -> Result<Vec<AccountJwt>, TrustError> {
        let core = self.public(NatsIdentity::Core);
        let accounts = [
            ("SYS", NatsIdentity::System, account(false)),
            ("CORE", NatsIdentity::Core, AccountClaims { exports: core_exports(), ..account(true) }),
            (
                "EDGE",
                NatsIdentity::Edge,
                AccountClaims {
                    imports: edge_imports(&core),
                    signing_keys: self.cluster_signing_keys(),
                    revocations: revocations.edge.clone(),
                    ..account(false)
                },
            ),
            (
                "BILL",
                NatsIdentity::Bill,
                AccountClaims {
                    imports: subjects::accounts::BILL_API
                        .iter()
                        .map(|(subject, _)| service_import(subject, &core))
                        .collect(),
                    signing_keys: vec![role(self.public(NatsIdentity::BillBilling), "billing", billing_template())],
                    revocations: revocations.bill.clone(),
                    ..account(false)
                },
            ),
            (
                "OPS",
                NatsIdentity::Ops,
                AccountClaims {
                    imports: ops_imports(&core),
                    signing_keys: vec![role(self.public(NatsIdentity::OpsReader), "reader", reader_template())],
                    revocations: revocations.ops.clone(),
                    ..account(false)
                },
            ),
        ];
        accounts
            .into_iter()
            .map(|(name, identity, claims)| {
                let public = self.public(identity);
                let signed = self.signed_account(name, &public, claims, kept.get(name), now)?;
                Ok(AccountJwt { name, public, signed })
            })
            .collect()
    }

    fn signed_account(
        &self,
        name: &str,
        public: &str,
        claims: AccountClaims,
        kept: Option<&SignedAccount>,
        now: Timestamp,
    ) -> Result<SignedAccount, TrustError> {
        let claims_sha256 = sha256(&(self.public(NatsIdentity::OperatorSigning), public, &claims));
        if let Some(kept) = kept.filter(|kept| kept.claims_sha256 == claims_sha256) {
            return Ok(kept.clone());
        }
        let after = kept.map_or(i64::MIN, |kept| kept.issued_at.as_second().saturating_add(1));
        let issued_at = Timestamp::from_second(now.as_second().max(after)).unwrap_or(now);
        let jwt = self.sign(NatsIdentity::OperatorSigning, name, public.to_owned(), (issued_at, None), claims)?;
        Ok(SignedAccount { claims_sha256, issued_at, jwt })
    }

    /// A cluster's user JWT for the public nkey that it generated. Its permissions are the role's template with the cluster's id
    /// in it.
    ///
    /// # Errors
    /// When the key is not that of a user, or the id has a character with a meaning in subjects.
    pub fn cluster_user(&self, cluster: &str, nkey_public: &str, validity: Validity) -> Result<String, TrustError> {
        if !subjects::is_cluster_token(cluster) {
            return Err(TrustError::UserName(cluster.to_owned()));
        }
        self.scoped_user(NatsIdentity::Edge, NatsIdentity::EdgeCluster, cluster, nkey_public, validity)
    }

    /// A billing subscriber's user JWT; the name is also its durable's on KN_BILL.
    ///
    /// # Errors
    /// When the key is not that of a user, or the name has a character with a meaning in subjects.
    pub fn billing_user(&self, name: &str, nkey_public: &str, validity: Validity) -> Result<String, TrustError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let numeric = name.bytes().all(|byte| byte.is_ascii_digit());
        if numeric || !name.bytes().all(plain) {
            return Err(TrustError::UserName(name.to_owned()));
        }
        self.scoped_user(NatsIdentity::Bill, NatsIdentity::BillBilling, name, nkey_public, validity)
    }

    /// The Manager's own user in CORE.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn manager_user(&self, validity: Validity) -> Result<UserCredentials, TrustError> {
        self.full_user(NatsIdentity::Core, NatsIdentity::ManagerUser, MANAGER_NAME, FullUserClaims::new(), validity)
    }

    /// The Manager's user in the system account: it pushes account JWTs and asks the servers for them, and may do nothing else there.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn system_user(&self, validity: Validity) -> Result<UserCredentials, TrustError> {
        let allow = |subjects: &[String]| Permission { allow: subjects.to_vec(), deny: Vec::new() };
        let publish = subjects::servers::REQUESTS.map(str::to_owned);
        let subscribe = [format!("{}.>", system_inbox_prefix()), subjects::servers::STATS.to_owned()];
        let claims = FullUserClaims::limited(allow(&publish), allow(&subscribe));
        self.full_user(NatsIdentity::System, NatsIdentity::SystemUser, SYSTEM_NAME, claims, validity)
    }

    /// The read-only user of the `nats` CLI.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn ops_user(&self, validity: Validity) -> Result<UserCredentials, TrustError> {
        let public = self.public(NatsIdentity::OpsUser);
        Ok(UserCredentials {
            user_jwt: self.scoped_user(NatsIdentity::Ops, NatsIdentity::OpsReader, OPS_NAME, &public, validity)?,
            seed: self.seed(NatsIdentity::OpsUser)?,
        })
    }

    fn scoped_user(
        &self,
        account: NatsIdentity,
        role: NatsIdentity,
        name: &str,
        nkey_public: &str,
        validity: Validity,
    ) -> Result<String, TrustError> {
        let shown = KeyPair::from_public_key(nkey_public).map_err(|_| TrustError::NotAUserKey)?;
        if shown.key_pair_type() != KeyPairType::User {
            return Err(TrustError::NotAUserKey);
        }
        let nats = ScopedUserClaims {
            issuer_account: self.public(account),
            publish: Permission::default(),
            subscribe: Permission::default(),
            kind: "user",
            version: 2,
        };
        self.sign(role, name, nkey_public.to_owned(), (validity.now, Some(validity)), nats)
    }

    fn full_user(
        &self,
        account: NatsIdentity,
        user: NatsIdentity,
        name: &str,
        claims: FullUserClaims,
        validity: Validity,
    ) -> Result<UserCredentials, TrustError> {
        let user_jwt = self.sign(account, name, self.public(user), (validity.now, Some(validity)), claims)?;
        Ok(UserCredentials { user_jwt, seed: self.seed(user)? })
    }

    fn seed(&self, identity: NatsIdentity) -> Result<String, TrustError> {
        self.pair(identity).seed().map_err(|source| TrustError::Nkey { what: identity.as_str(), source })
    }

    /// In one order whichever of them signs, so that the account's JWT says the same.
    fn cluster_signing_keys(&self) -> Vec<SigningKey> {
        let mut keys = self.cluster_signers.0.clone();
        if mutant::is_on("rotation.one-signer") {
            keys.clear();
        }
        keys.push(self.public(NatsIdentity::EdgeCluster));
        keys.sort();
        keys.into_iter().map(|key| role(key, "cluster", cluster_template())).collect()
    }

    fn sign<T: serde::Serialize>(
        &self,
        signer: NatsIdentity,
        name: &str,
        subject: String,
        (now, validity): (Timestamp, Option<Validity>),
        nats: T,
    ) -> Result<String, TrustError> {
        let seconds = |validity: Validity| i64::try_from(validity.lifetime.as_secs()).unwrap_or(i64::MAX);
        let claims = Claims {
            jti: String::new(),
            iat: now.as_second(),
            iss: self.public(signer),
            name: name.to_owned(),
            sub: subject,
            exp: validity.map(|validity| now.as_second().saturating_add(seconds(validity))),
            nats,
        };
        encode(claims, self.pair(signer)).map_err(|source| TrustError::Nkey { what: signer.as_str(), source })
    }
}

/// Prefix under which the read-only user receives replies: `--inbox-prefix` of the `nats` CLI.
#[must_use]
pub fn ops_inbox_prefix() -> String {
    subjects::inbox_prefix(OPS_NAME)
}

/// Prefix under which the Manager's user in the system account receives replies.
#[must_use]
pub fn system_inbox_prefix() -> String {
    subjects::inbox_prefix(SYSTEM_NAME)
}

fn role(key: String, role: &str, template: Template) -> SigningKey {
    SigningKey { kind: "user_scope", key, role: role.to_owned(), description: String::new(), template }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims;
    use std::time::Duration;

    fn nkeys() -> Nkeys {
        Nkeys::open(|identity| Ok(identity.new_key()?.1), ClusterSigners::default()).unwrap()
    }

    fn validity() -> Validity {
        Validity { now: Timestamp::from_second(1_800_000_000).unwrap(), lifetime: Duration::from_secs(60) }
    }

    #[test]
    fn the_operator_says_the_same_whenever_it_is_signed() {
        let (keys, at) = (nkeys(), |second| Timestamp::from_second(second).unwrap());
        let [one, later] = [100, 200].map(|second| keys.operator_jwt(at(second)).unwrap());
        assert_ne!(one, later);
        assert!(claims::say_the_same(&one, &later));
        assert!(!claims::say_the_same(&one, &nkeys().operator_jwt(at(100)).unwrap()));
        assert!(!claims::say_the_same("", "") && !claims::say_the_same(&one, "a.b.c"));
    }

    #[test]
    fn names_that_would_mean_more_in_a_template_are_refused() {
        let user = NatsIdentity::OpsUser.new_key().unwrap().0;
        let keys = nkeys();
        for name in ["", "*", ">", "a.b", "3", "c 1", "c1"] {
            assert!(matches!(keys.cluster_user(name, &user, validity()), Err(TrustError::UserName(_))), "{name}");
        }
        for name in ["", "a.b", "12", "x*"] {
            assert!(matches!(keys.billing_user(name, &user, validity()), Err(TrustError::UserName(_))), "{name}");
        }
        let account = keys.public(NatsIdentity::Core);
        let cluster = "c0123456789abcdefghjkmnpqrs";
        assert!(matches!(keys.cluster_user(cluster, &account, validity()), Err(TrustError::NotAUserKey)));
        assert!(keys.cluster_user(cluster, &user, validity()).is_ok());
    }
    #[test]
    fn an_account_is_signed_again_when_it_says_something_else_and_never_with_an_earlier_time() {
        let keys = nkeys();
        let at = |second| Timestamp::from_second(second).unwrap();
        let signed = |revocations: &Revocations, kept: &BTreeMap<String, SignedAccount>, second| {
            let accounts = keys.account_jwts(revocations, kept, at(second)).unwrap();
            accounts.into_iter().map(|account| (account.name.to_owned(), account.signed)).collect::<BTreeMap<_, _>>()
        };
        let first = signed(&Revocations::default(), &BTreeMap::new(), 100);
        assert_eq!(signed(&Revocations::default(), &first, 200), first, "the same claims, the same bytes");
        let mut revocations = Revocations::default();
        revocations.edge.insert("U1".to_owned(), 7);
        let second = signed(&revocations, &first, 50);
        assert_eq!(second["EDGE"].issued_at, at(101), "by a clock that is behind");
        assert_ne!(second["EDGE"].jwt, first["EDGE"].jwt);
        assert_eq!(second["CORE"], first["CORE"]);
        let others = Nkeys::open(|identity| Ok(identity.new_key()?.1), ClusterSigners::default()).unwrap();
        let moved = others.account_jwts(&revocations, &second, at(300)).unwrap();
        assert!(moved.iter().all(|account| account.signed.jwt != second[account.name].jwt), "another signer");
    }
}
