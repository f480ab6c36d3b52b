//! Attacks on the bridge, and on the endpoints of enrollment and renewal.

use crate::{Defence, Target};

const TOKEN: &str = "the request to enroll that a cluster sends, no token";
const STOLEN: &str = "a stolen enrollment token";
const ENROLLMENT: &str = "Manager: enrollment";
const RENEWAL: &str = "Manager: renewal";
const KEY: &str = "the keys of a cluster";
const COPY: &str = "a copy of the keys of a cluster";
const WATCHED: &str = "a renewal of the cluster that it saw";

pub(crate) const TARGETS: &[Target] = &[
    Target {
        title: "The bridge, and whoever has it",
        test: "manager/bridge/tests/attacks/mod.rs",
        defences: &[
            Defence {
                holds: "the network of the bridge",
                stopped_by: "bridge: mutual TLS",
                says: "CertificateRequired",
                tried: &[("A-106", "connects without a certificate")],
            },
            Defence {
                holds: "the network of the bridge, and JWT and nkey of a cluster",
                stopped_by: "bridge: mutual TLS",
                says: "ClientCertificate",
                tried: &[
                    ("A-107", "connects with a certificate of another authority for the cluster's name"),
                    ("A-108", "connects with a certificate of the cluster that has expired"),
                    ("A-279", "connects with a certificate of the cluster that is not valid yet"),
                ],
            },
            Defence {
                holds: "the network of the broker, and JWT and nkey of a cluster",
                stopped_by: "broker: mutual TLS of the WebSocket listener",
                says: "ClientCertificate",
                tried: &[("A-109", "connects by WebSocket with a certificate of another authority")],
            },
            Defence {
                holds: "a certificate of the authority that is none of a cluster",
                stopped_by: "bridge: the SPIFFE id in the certificate",
                says: "ClientCertificate",
                tried: &[
                    ("A-110", "connects with the certificate of the `nats` CLI"),
                    ("A-111", "connects with the certificate of a cluster of another trust domain"),
                ],
            },
            Defence {
                holds: "the bridge, through which logins pass",
                stopped_by: "broker: the signature over its nonce, with the nkey of the JWT",
                says: "Authorization Violation",
                tried: &[
                    ("A-112", "repeats the login of a cluster in another session"),
                    ("A-113", "changes the nonce that the cluster signs"),
                    ("A-114", "puts the JWT of another cluster into a login"),
                    ("A-115", "reports in a session before its login"),
                    ("A-116", "connects to the broker with the bridge's certificate and no login"),
                ],
            },
            Defence {
                holds: "the bridge, and a session of cluster A",
                stopped_by: "broker: the role of cluster A",
                says: "Permissions Violation for Publish",
                tried: &[("A-117", "reports in it as cluster B"), ("A-118", "sends a command in it")],
            },
            Defence {
                holds: "the bridge, and a session of cluster A",
                stopped_by: "broker: the role of cluster A",
                says: "Permissions Violation for Subscription",
                tried: &[("A-119", "listens in it to what the Manager asks of cluster B")],
            },
            Defence {
                holds: "the credentials of a cluster",
                stopped_by: "broker: the limit of the role `cluster`",
                says: "Maximum Payload Violation",
                tried: &[("A-120", "sends a report that is larger than a cluster may send")],
            },
            Defence {
                holds: "the certificate of a cluster",
                stopped_by: "bridge: the limit of a frame",
                says: "1 session was lost",
                tried: &[("A-121", "sends a frame that would fill the bridge's memory")],
            },
            Defence {
                holds: "the certificate of a cluster",
                stopped_by: "bridge: the limit of sessions of one cluster",
                says: "this cluster has 8 sessions already",
                tried: &[("A-122", "opens sessions until there is none for another cluster")],
            },
            Defence {
                holds: "the certificate of a cluster",
                stopped_by: "bridge: the limit of connections of one cluster",
                says: "58 of 70 connections are closed",
                tried: &[("A-281", "opens connections without a byte until no other cluster can connect")],
            },
            Defence {
                holds: "the certificate of a cluster",
                stopped_by: "bridge: the time for a session to begin on a connection",
                says: "2 unused connections are closed",
                tried: &[("A-282", "keeps connections that have no session")],
            },
            Defence {
                holds: "the network of the bridge",
                stopped_by: "bridge: the limit of handshakes of one address",
                says: "more are closed at once",
                tried: &[("A-283", "opens TCP connections without a byte until no other address can connect")],
            },
        ],
    },
    Target {
        title: "Enrollment",
        test: "manager/api/src/attacks/enrollment.rs",
        defences: &[
            Defence {
                holds: TOKEN,
                stopped_by: "Manager: the hash of the token's secret",
                says: "401 ENROLLMENT_TOKEN_UNKNOWN",
                tried: &[
                    ("A-123", "enrolls without a token"),
                    ("A-124", "guesses a token"),
                    ("A-125", "shows a token that was cut"),
                    ("A-127", "shows the API token of an administrator instead"),
                ],
            },
            Defence {
                holds: "the token of cluster A",
                stopped_by: "Manager: the cluster of the token",
                says: "the token is for another cluster than the request",
                tried: &[("A-126", "enrolls as cluster B")],
            },
            Defence {
                holds: "an old token",
                stopped_by: ENROLLMENT,
                says: "ENROLLMENT_TOKEN_EXPIRED: the token expired",
                tried: &[("A-128", "enrolls after the end of its life")],
            },
            Defence {
                holds: STOLEN,
                stopped_by: ENROLLMENT,
                says: "ENROLLMENT_TOKEN_REVOKED: the token was revoked",
                tried: &[("A-129", "enrolls after it was revoked")],
            },
            Defence {
                holds: STOLEN,
                stopped_by: "Manager: the state of the cluster",
                says: "CLUSTER_NOT_USABLE",
                tried: &[("A-130", "enrolls as a cluster that was detached")],
            },
            Defence {
                holds: STOLEN,
                stopped_by: "Manager: a token is for one installation; the second use is raised",
                says: "ENROLLMENT_TOKEN_USED: the token was already used by another installation",
                tried: &[
                    ("A-131", "enrolls with keys of its own after the cluster has"),
                    ("A-134", "enrolls twenty times at once with other keys: one wins, and nineteen are refused"),
                ],
            },
            Defence {
                holds: "a stolen token, and the request that the cluster sent",
                stopped_by: "Manager: the nkey's signature over cluster and UID",
                says: "signature is not that of the cluster's nkey over this key and cluster",
                tried: &[("A-132", "sends it again with the UID of its own Kubernetes cluster")],
            },
            Defence {
                holds: "a stolen token, and the request that the cluster sent",
                stopped_by: "Manager: an answer is repeated until the cluster has connected",
                says: "ENROLLMENT_TOKEN_USED: the token was already used by this installation, which has connected since",
                tried: &[("A-133", "sends it again to get another certificate")],
            },
            Defence {
                holds: STOLEN,
                stopped_by: "Manager: a token is for one installation; the second use is raised",
                says: "ENROLLMENT_TOKEN_USED: the token was already shown by another installation",
                tried: &[
                    ("A-135", "shows it while another installation waits for approval"),
                    ("A-137", "shows it once another installation was approved, before that has its answer"),
                ],
            },
            Defence {
                holds: "an administrator who approves without comparing",
                stopped_by: "Manager: the fingerprint of the keys",
                says: "ENROLLMENT_FINGERPRINT_MISMATCH",
                tried: &[("A-136", "has its own fingerprint approved for the installation that waits")],
            },
            Defence {
                holds: STOLEN,
                stopped_by: "Manager: the UID of the Kubernetes cluster; the record is quarantined",
                says: "CLUSTER_UID_MISMATCH",
                tried: &[
                    ("A-138", "enrolls another Kubernetes cluster as one that is enrolled"),
                    ("A-140", "enrolls one Kubernetes cluster as a second cluster"),
                ],
            },
            Defence {
                holds: "an unused token of before a quarantine",
                stopped_by: "Manager: an administrator ends a quarantine",
                says: "was quarantined, at",
                tried: &[("A-139", "ends the quarantine with it")],
            },
            Defence {
                holds: "a token, and the public certificate key of another",
                stopped_by: "Manager: the signature of the signing request",
                says: "its signature does not verify with its key",
                tried: &[("A-141", "has a certificate issued for a key that it does not hold")],
            },
            Defence {
                holds: "a token",
                stopped_by: "Manager: who signs the sealing key enrolls",
                says: "which is not the one that enrolls",
                tried: &[("A-142", "enrolls a sealing key that another nkey has signed")],
            },
            Defence {
                holds: "a token",
                stopped_by: "Manager: the nkey's signature over cluster and UID",
                says: "signature is not that of the cluster's nkey",
                tried: &[("A-143", "enrolls a sealing key that was signed for another cluster")],
            },
            Defence {
                holds: "a token",
                stopped_by: "Manager: the form of keys",
                says: "publicKey is not 32 bytes",
                tried: &[("A-144", "enrolls the sealing key whose shared secret everybody knows")],
            },
            Defence {
                holds: "a token, and the nkey of another cluster",
                stopped_by: "Manager: an nkey is enrolled once",
                says: "this nkey was enrolled before",
                tried: &[("A-145", "enrolls with it, to be revoked with neither or both")],
            },
            Defence {
                holds: "a token",
                stopped_by: "Manager: the form of a cluster's id",
                says: "clusterId is not the id of a cluster",
                tried: &[("A-146", "enrolls as `*`, which in a subject is every cluster")],
            },
            Defence {
                holds: "a token",
                stopped_by: "Manager: the kind of the nkey",
                says: "422 ENROLLMENT_REQUEST_INVALID",
                tried: &[("A-147", "enrolls the nkey of an account as its user's")],
            },
            Defence {
                holds: "the token of cluster A",
                stopped_by: "Manager: of a signing request only the key is read",
                says: r#"the certificate names ["spiffe://test/cluster/the cluster of the token/1"] alone"#,
                tried: &[("A-148", "asks for a certificate of cluster B, of the Manager, and of its server name")],
            },
            Defence {
                holds: "a token",
                stopped_by: "Manager: the limit of a body",
                says: "413 BODY_TOO_LARGE",
                tried: &[("A-149", "sends a request that would fill the Manager's memory")],
            },
            Defence {
                holds: "an address that reaches the endpoint",
                stopped_by: "Manager: the limit of refused requests; a good token gets through",
                says: "429 TOO_MANY_REQUESTS: too many requests from this address",
                tried: &[("A-150", "guesses tokens until one is right")],
            },
            Defence {
                holds: "a token that was used",
                stopped_by: "Manager: the limit of one token",
                says: "429 TOO_MANY_REQUESTS: this token, or key, is shown too often",
                tried: &[("A-151", "shows it again and again to keep the endpoint busy")],
            },
        ],
    },
    Target {
        title: "Renewal",
        test: "manager/api/src/attacks/renewal.rs",
        defences: &[
            Defence {
                holds: WATCHED,
                stopped_by: "Manager: the signature over the request",
                says: "401 RENEWAL_UNVERIFIED: the message has no Kn-Signature header",
                tried: &[("A-152", "renews without a signature")],
            },
            Defence {
                holds: WATCHED,
                stopped_by: "Manager: the signature over the request",
                says: "401 RENEWAL_UNVERIFIED: Kn-Signature is not of the form",
                tried: &[("A-153", "renews with something else as the signature")],
            },
            Defence {
                holds: "an nkey of its own",
                stopped_by: "Manager: the key that the incarnation enrolled with",
                says: "401 RENEWAL_UNVERIFIED: no incarnation of this cluster was enrolled with the key",
                tried: &[
                    ("A-154", "signs the renewal with it"),
                    ("A-159", "renews with the key of the cluster an incarnation that there is not"),
                ],
            },
            Defence {
                holds: "the keys of cluster A",
                stopped_by: "Manager: the key that the incarnation enrolled with",
                says: "401 RENEWAL_UNVERIFIED: no incarnation of this cluster was enrolled with the key",
                tried: &[("A-158", "renews cluster B")],
            },
            Defence {
                holds: "something else that the cluster signed",
                stopped_by: "Manager: the signature over the request",
                says: "does not fit the message",
                tried: &[
                    ("A-155", "uses a signature of the kind that is under usage"),
                    ("A-156", "uses the signature of another renewal"),
                    ("A-160", "sends a renewal without its last byte"),
                ],
            },
            Defence {
                holds: "the keys of cluster B",
                stopped_by: "Manager: the signature over the request",
                says: "does not fit the message",
                tried: &[("A-157", "signs the renewal of cluster A, and names A's key as the signer")],
            },
            Defence {
                holds: "the keys of cluster A",
                stopped_by: "Manager: a key may stand once in a body",
                says: "stands twice in one object",
                tried: &[("A-161", "names cluster B first and itself second in one signed request")],
            },
            Defence {
                holds: "a nonce",
                stopped_by: "Manager: the time and the authentication of a nonce",
                says: "RENEWAL_NONCE_INVALID",
                tried: &[
                    ("A-162", "renews with one that is older than two minutes, as a recorded request has"),
                    ("A-163", "renews with one of a Manager whose clock is a minute ahead"),
                    ("A-164", "changes the time in it"),
                    ("A-165", "renews with one of another installation"),
                ],
            },
            Defence {
                holds: KEY,
                stopped_by: "Manager: of a signing request only the key is read",
                says: r#"the certificate names ["spiffe://test/cluster/the cluster of the key/1"] alone"#,
                tried: &[("A-166", "renews with a signing request for the SAN of another cluster and of the Manager")],
            },
            Defence {
                holds: WATCHED,
                stopped_by: "Manager: the certificate is for the key in the request",
                says: "a certificate for the key in the request",
                tried: &[("A-167", "sends the same bytes again within two minutes")],
            },
            Defence {
                holds: COPY,
                stopped_by: RENEWAL,
                says: "CREDENTIALS_REVOKED",
                tried: &[("A-168", "renews after the cluster was revoked")],
            },
            Defence {
                holds: COPY,
                stopped_by: RENEWAL,
                says: "CLUSTER_NOT_USABLE",
                tried: &[("A-169", "renews after the cluster was detached")],
            },
            Defence {
                holds: "the keys of a former incarnation",
                stopped_by: RENEWAL,
                says: "INCARNATION_REPLACED",
                tried: &[("A-170", "renews after the cluster was enrolled again")],
            },
            Defence {
                holds: "keys from an old backup",
                stopped_by: RENEWAL,
                says: "CREDENTIALS_TOO_OLD",
                tried: &[("A-171", "renews more than ninety days after their end")],
            },
            Defence {
                holds: COPY,
                stopped_by: "Manager: the UID of the Kubernetes cluster; the record is quarantined",
                says: "CLUSTER_UID_MISMATCH",
                tried: &[("A-172", "renews from another Kubernetes cluster")],
            },
            Defence {
                holds: COPY,
                stopped_by: "Manager: the limit of one key",
                says: "429 TOO_MANY_REQUESTS: the key of this cluster renews too often",
                tried: &[("A-173", "has the Manager sign without end")],
            },
        ],
    },
];
