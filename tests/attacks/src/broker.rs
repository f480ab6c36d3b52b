//! Attacks on the broker: directly, through a leaf node, and by way of the bridge.

use crate::{Defence, Target};

const CLUSTER: &str = "the credentials of cluster A";
const ROLE: &str = "broker: the role `cluster` of account EDGE";
const PUBLISH: &str = "permissions violation for publish";
const SUBSCRIBE: &str = "permissions violation for subscription";
const LOGIN: &str = "authorization violation";
const AUTHORIZATION: &str = "AuthorizationViolation";

pub(crate) const TARGETS: &[Target] = &[
    Target {
        title: "Logging in at the broker",
        test: "manager/trust/tests/attacks/login.rs",
        defences: &[
            Defence {
                holds: "JWT and nkey of a cluster, no certificate",
                stopped_by: "broker: mutual TLS",
                says: "CertificateRequired",
                tried: &[("A-001", "connects without a certificate")],
            },
            Defence {
                holds: "JWT and nkey of a cluster",
                stopped_by: "broker: mutual TLS",
                says: "UnknownCA",
                tried: &[("A-002", "connects with a certificate of another authority for the cluster's name")],
            },
            Defence {
                holds: "JWT and nkey of a cluster",
                stopped_by: "broker: mutual TLS",
                says: "CertificateExpired",
                tried: &[
                    ("A-003", "connects with a certificate of the authority that has expired"),
                    ("A-278", "connects with a certificate of the authority that is not valid yet"),
                ],
            },
            Defence {
                holds: "a certificate of the authority",
                stopped_by: "broker: the signature of the JWT, under the operator's key",
                says: AUTHORIZATION,
                tried: &[
                    ("A-004", "logs in with a JWT that another operator signed"),
                    ("A-006", "logs in with a JWT of the cluster that has expired"),
                    ("A-007", "logs in with its own JWT, the name in it changed to another cluster's"),
                    ("A-008", "logs in with a JWT whose header says that it needs no signature"),
                ],
            },
            Defence {
                holds: "a certificate of the authority, and a JWT that was read somewhere",
                stopped_by: "broker: the signature over its nonce, with the nkey of the JWT",
                says: AUTHORIZATION,
                tried: &[("A-005", "logs in with the JWT and an nkey of its own")],
            },
            Defence {
                holds: "the Manager's key that signs users of the role `cluster`",
                stopped_by: "broker: the key is limited to the template of its role",
                says: AUTHORIZATION,
                tried: &[
                    ("A-009", "signs a JWT that may publish everything"),
                    ("A-010", "signs a JWT that may subscribe to everything"),
                    ("A-011", "signs a JWT that needs no nkey"),
                    ("A-012", "signs a JWT for the account that has the streams"),
                ],
            },
        ],
    },
    Target {
        title: "A cluster at the broker",
        test: "manager/trust/tests/attacks/clusters.rs",
        defences: &[
            Defence {
                holds: CLUSTER,
                stopped_by: ROLE,
                says: PUBLISH,
                tried: &[
                    ("A-013", "reports an outcome as cluster B"),
                    ("A-014", "reports status as cluster B"),
                    ("A-015", "reports usage as cluster B"),
                    ("A-016", "sends a heartbeat as cluster B, which keeps its session"),
                    ("A-017", "says hello as cluster B, which takes its session"),
                    ("A-018", "sends a listing as cluster B"),
                    ("A-019", "sends inbox records as cluster B"),
                    ("A-020", "pulls commands from the durable of cluster B"),
                    ("A-021", "asks about the durable of cluster B"),
                    ("A-022", "acknowledges a command that was delivered to cluster B"),
                    ("A-023", "acknowledges it in the second form of an acknowledgement"),
                    ("A-024", "acknowledges it with its own name where the other form has another token"),
                    ("A-025", "pulls from the durable of cluster B by the API's own subject"),
                    ("A-026", "sends a command to cluster B"),
                    ("A-027", "sends a command to itself"),
                    ("A-028", "gives itself a receipt for usage"),
                    ("A-029", "publishes a billing event"),
                    ("A-030", "asks cluster B for a hello"),
                    ("A-031", "answers a request of cluster B whose inbox it knows"),
                    ("A-032", "reports under a kind that there is not"),
                    ("A-033", "asks a question that there is not"),
                ],
            },
            Defence {
                holds: CLUSTER,
                stopped_by: ROLE,
                says: SUBSCRIBE,
                tried: &[
                    ("A-034", "listens to everything in its account"),
                    ("A-035", "listens to the commands of cluster B"),
                    ("A-036", "listens to its own commands beside its durable"),
                    ("A-037", "listens to all heartbeats"),
                    ("A-038", "listens to what the Manager asks of cluster B"),
                    ("A-039", "listens to the answers to cluster B"),
                    ("A-040", "listens to the answers on their way between accounts"),
                    ("A-041", "listens to the advisories about durables of others"),
                    ("A-042", "listens to what the servers say of themselves"),
                ],
            },
            Defence {
                holds: CLUSTER,
                stopped_by: ROLE,
                says: PUBLISH,
                tried: &[
                    ("A-043", "asks about the stream, whose subjects name all clusters"),
                    ("A-044", "reads a command to another cluster from the stream"),
                    ("A-045", "lists the durables, which name all clusters"),
                    ("A-046", "pauses the durable of cluster B"),
                    ("A-047", "deletes a durable"),
                    ("A-048", "makes a durable under its own name that has the commands to cluster B"),
                    ("A-049", "makes a stream"),
                    ("A-050", "changes a stream"),
                    ("A-051", "purges the commands of all clusters"),
                    ("A-052", "deletes the stream of reports"),
                    ("A-053", "asks about the stream by the prefix that clusters have"),
                    ("A-054", "pushes an account JWT to the servers"),
                    ("A-055", "asks the servers about themselves"),
                ],
            },
            Defence {
                holds: CLUSTER,
                stopped_by: "broker: the limit of the role `cluster`",
                says: "maximum subscriptions exceeded",
                tried: &[("A-056", "subscribes without end")],
            },
        ],
    },
    Target {
        title: "Replies and headers of a cluster",
        test: "manager/trust/tests/attacks/streams.rs",
        defences: &[
            Defence {
                holds: CLUSTER,
                stopped_by: "broker: no stream is in the account of the clusters",
                says: "0 answers are stored",
                tried: &[
                    ("A-057", "has the answer to its usage sent to where the commands of cluster B are stored"),
                    ("A-058", "has the answer to its usage sent to where the outcomes of cluster B are stored"),
                    ("A-059", "has an old command delivered to where the commands of cluster B are stored"),
                ],
            },
            Defence {
                holds: CLUSTER,
                stopped_by: "broker: what it keeps for itself may not be a reply",
                says: "permissions violation",
                tried: &[("A-060", "has the answer to its usage sent as an acknowledgement of cluster B")],
            },
            Defence {
                holds: CLUSTER,
                stopped_by: "broker: the settings of the streams",
                says: "rollup not permitted",
                tried: &[("A-061", "replaces the reports of all clusters by its own (rollup)")],
            },
            Defence {
                holds: CLUSTER,
                stopped_by: "broker: the settings of the streams",
                says: "ttl is disabled",
                tried: &[("A-062", "leaves a report that vanishes by itself (TTL)")],
            },
            Defence {
                holds: CLUSTER,
                stopped_by: "broker: the settings of the streams",
                says: "schedules is disabled",
                tried: &[("A-063", "has the stream write as cluster B on a schedule")],
            },
            Defence {
                holds: CLUSTER,
                stopped_by: "broker: the settings of the streams",
                says: "atomic publish is disabled",
                tried: &[("A-064", "holds the stream with a batch")],
            },
            Defence {
                holds: CLUSTER,
                stopped_by: "broker: the settings of the streams",
                says: "counters is disabled",
                tried: &[("A-065", "has its report counted instead of stored")],
            },
            Defence {
                holds: CLUSTER,
                stopped_by: ROLE,
                says: "permissions violation",
                tried: &[("A-066", "has the trace of its message sent to cluster B")],
            },
        ],
    },
    Target {
        title: "Other roles at the broker",
        test: "manager/trust/tests/attacks/roles.rs",
        defences: &[
            Defence {
                holds: "the read-only credentials of the `nats` CLI",
                stopped_by: "broker: the role `reader` of account OPS",
                says: PUBLISH,
                tried: &[
                    ("A-067", "sends a command"),
                    ("A-068", "reports as a cluster"),
                    ("A-069", "pulls from the durable of a cluster"),
                    ("A-070", "makes a durable, which would keep messages"),
                    ("A-071", "purges a stream"),
                    ("A-072", "deletes a stream"),
                    ("A-074", "acknowledges a command that was delivered to a cluster"),
                ],
            },
            Defence {
                holds: "the read-only credentials of the `nats` CLI",
                stopped_by: "broker: the role `reader` of account OPS",
                says: SUBSCRIBE,
                tried: &[("A-073", "listens to the answers to a cluster")],
            },
            Defence {
                holds: "the credentials of a billing subscriber",
                stopped_by: "broker: the role `billing` of account BILL",
                says: PUBLISH,
                tried: &[
                    ("A-075", "pulls the events of another subscriber"),
                    ("A-076", "asks about the durable of another subscriber"),
                    ("A-077", "acknowledges an event that was delivered to another subscriber"),
                    ("A-078", "publishes a billing event"),
                    ("A-079", "makes a durable with another filter"),
                    ("A-080", "reports usage as a cluster"),
                ],
            },
            Defence {
                holds: "the credentials of a billing subscriber",
                stopped_by: "broker: the role `billing` of account BILL",
                says: SUBSCRIBE,
                tried: &[("A-081", "listens to all events beside its durable")],
            },
            Defence {
                holds: "the Manager's user in the system account",
                stopped_by: "broker: the permissions of that user",
                says: PUBLISH,
                tried: &[
                    ("A-082", "deletes an account"),
                    ("A-083", "disconnects clients"),
                    ("A-084", "asks who is connected from where"),
                ],
            },
            Defence {
                holds: "the Manager's user in the system account",
                stopped_by: "broker: the permissions of that user",
                says: SUBSCRIBE,
                tried: &[("A-085", "listens to who connects")],
            },
        ],
    },
    Target {
        title: "Revoked credentials and account JWTs",
        test: "manager/trust/tests/attacks/accounts.rs",
        defences: &[
            Defence {
                holds: "the credentials of a cluster that was revoked, and an open connection",
                stopped_by: "broker: the revocation in the account JWT",
                says: "revoked",
                tried: &[("A-086", "stays connected")],
            },
            Defence {
                holds: "the credentials of a cluster that was revoked",
                stopped_by: "broker: the revocation in the account JWT",
                says: AUTHORIZATION,
                tried: &[("A-087", "connects again")],
            },
            Defence {
                holds: "the credentials of a revoked cluster, and the Manager's user in the system account",
                stopped_by: "Manager: it pushes the newest account JWT again, every minute",
                says: AUTHORIZATION,
                tried: &[("A-088", "pushes the account JWT of before the revocation, and connects a minute later")],
            },
            Defence {
                holds: "the Manager's user in the system account",
                stopped_by: "broker: the signature of the account JWT",
                says: AUTHORIZATION,
                tried: &[("A-089", "pushes the account of clusters with a key of its own, and logs in with that")],
            },
            Defence {
                holds: "the credentials of a revoked cluster, and the disk of a broker",
                stopped_by: "broker: the accounts in its configuration",
                says: AUTHORIZATION,
                tried: &[("A-090", "deletes the resolver's store, and connects after the restart")],
            },
        ],
    },
    Target {
        title: "A cluster behind a leaf node",
        test: "manager/trust/tests/leaf.rs",
        defences: &[
            Defence {
                holds: "the credentials of cluster A, and its leaf node",
                stopped_by: "hub: the role of cluster A, on the connection of its leaf",
                says: "no responders",
                tried: &[
                    ("A-091", "reports an outcome as cluster B"),
                    ("A-092", "reports status as cluster B"),
                    ("A-093", "reports usage as cluster B"),
                    ("A-094", "says hello as cluster B"),
                    ("A-095", "asks about the durable of cluster B"),
                    ("A-096", "asks cluster B for a hello"),
                    ("A-097", "sends a command to cluster B"),
                    ("A-098", "asks about the stream, whose subjects name all clusters"),
                    ("A-099", "pulls commands from the durable of cluster B"),
                    ("A-100", "acknowledges a command that was delivered to cluster B"),
                ],
            },
            Defence {
                holds: "a certificate of cluster A",
                stopped_by: "hub: the login of the leaf",
                says: LOGIN,
                tried: &[
                    ("A-101", "connects a leaf with the JWT of another cluster"),
                    ("A-102", "connects a leaf as a billing subscriber"),
                ],
            },
            Defence {
                holds: "JWT and nkey of a cluster, no certificate",
                stopped_by: "hub: mutual TLS of the leaf listener",
                says: "CertificateRequired",
                tried: &[("A-103", "connects a leaf without a certificate")],
            },
            Defence {
                holds: "the network of the leaf of cluster A",
                stopped_by: "leaf: the nkey of its cluster",
                says: AUTHORIZATION,
                tried: &[
                    ("A-104", "logs in at the leaf as another cluster"),
                    ("A-105", "logs in at the leaf with nothing"),
                ],
            },
        ],
    },
];
