//! Attacks on the Manager by who reports to it.

use crate::{Defence, Target};

const CLUSTER: &str = "the keys of cluster A";
const BRIDGE: &str = "the bridge, through which the reports of cluster A pass";
const INGEST: &str = "Manager: ingest; a dead letter says why";
const SEAL: &str = "Manager: the signature over the manifest, with an nkey that the cluster enrolled with";
const COPY: &str = "a copy of cluster A with its keys";
const HELLO: &str = "Manager: what the record of the cluster says";

pub(crate) const TARGETS: &[Target] = &[
    Target {
        title: "Outcomes, status and usage",
        test: "manager/tests/attacks/reports.rs",
        defences: &[
            Defence {
                holds: CLUSTER,
                stopped_by: INGEST,
                says: "reported for cluster",
                tried: &[
                    ("A-238", "names cluster B in an outcome on its own subject"),
                    ("A-242", "names cluster B in status on its own subject"),
                ],
            },
            Defence {
                holds: CLUSTER,
                stopped_by: INGEST,
                says: "the Manager sent no command",
                tried: &[("A-239", "ends a command that was sent to cluster B")],
            },
            Defence {
                holds: CLUSTER,
                stopped_by: INGEST,
                says: "is not a state that a cluster may report",
                tried: &[("A-240", "reports that a command waits to be sent")],
            },
            Defence {
                holds: CLUSTER,
                stopped_by: INGEST,
                says: "the body is not JSON without duplicate keys",
                tried: &[("A-241", "names cluster B first and itself second in one outcome")],
            },
            Defence {
                holds: CLUSTER,
                stopped_by: INGEST,
                says: "Postgres cannot store what it says",
                tried: &[("A-243", "reports what the database cannot store, to hold up what is behind it")],
            },
            Defence {
                holds: CLUSTER,
                stopped_by: INGEST,
                says: "is too large",
                tried: &[("A-244", "counts its status so high that no later one counts")],
            },
            Defence {
                holds: BRIDGE,
                stopped_by: INGEST,
                says: "could not decode the message",
                tried: &[("A-245", "cuts usage short")],
            },
            Defence {
                holds: BRIDGE,
                stopped_by: SEAL,
                says: "signature is not of the form",
                tried: &[("A-246", "reports usage without a signature")],
            },
            Defence {
                holds: "the nkey of another cluster, and the bridge",
                stopped_by: SEAL,
                says: "which was never enrolled for this cluster",
                tried: &[("A-247", "seals usage of cluster A with it")],
            },
            Defence {
                holds: "the nkey of another cluster, and the bridge",
                stopped_by: SEAL,
                says: "the manifest's signature does not verify",
                tried: &[("A-248", "seals usage of cluster A with it, and names the nkey of A")],
            },
            Defence {
                holds: BRIDGE,
                stopped_by: SEAL,
                says: "the manifest's signature does not verify",
                tried: &[
                    ("A-249", "changes the manifest of a window"),
                    ("A-250", "uses what the cluster signed as a renewal"),
                ],
            },
            Defence {
                holds: BRIDGE,
                stopped_by: "Manager: the hash of the records in the signed manifest",
                says: "the manifest does not agree with its records",
                tried: &[("A-251", "changes the records under a manifest")],
            },
            Defence {
                holds: BRIDGE,
                stopped_by: "Manager: cluster and window in the signed manifest",
                says: "the manifest does not agree with its subject",
                tried: &[("A-252", "reports the window of one time as that of another")],
            },
            Defence {
                holds: CLUSTER,
                stopped_by: "Manager: cluster and window in the signed manifest",
                says: "the manifest does not agree with its subject",
                tried: &[("A-253", "seals usage of cluster B with its own key")],
            },
            Defence {
                holds: BRIDGE,
                stopped_by: INGEST,
                says: "is impossible, or differs from the chunks before it",
                tried: &[("A-254", "reports a part of a window that there is not")],
            },
            Defence {
                holds: CLUSTER,
                stopped_by: INGEST,
                says: "an Operator makes revision 0 only",
                tried: &[("A-255", "corrects usage that was billed")],
            },
            Defence {
                holds: CLUSTER,
                stopped_by: "Manager: the rules of a window",
                says: "the manifest is signed for 2 records",
                tried: &[("A-256", "seals more records than it sends")],
            },
            Defence {
                holds: CLUSTER,
                stopped_by: "Manager: the rules of a window",
                says: "the records do not add up",
                tried: &[("A-257", "seals another sum than the records have")],
            },
            Defence {
                holds: CLUSTER,
                stopped_by: "Manager: the rules of a window",
                says: "does not lie within the window",
                tried: &[("A-258", "claims to have observed more time than the window has")],
            },
            Defence {
                holds: CLUSTER,
                stopped_by: "Manager: the rules of a window",
                says: "the window is not over yet",
                tried: &[("A-259", "reports the future")],
            },
            Defence {
                holds: CLUSTER,
                stopped_by: "Manager: the rules of a record; it is set aside alone",
                says: "no possible quantity",
                tried: &[("A-260", "reports a quantity below zero")],
            },
            Defence {
                holds: CLUSTER,
                stopped_by: "Manager: the rules of a record; it is set aside alone",
                says: "is not a UUID",
                tried: &[("A-261", "reports usage of what is no tenant")],
            },
            Defence {
                holds: CLUSTER,
                stopped_by: "Manager: the placements of tenants",
                says: "7 of tenants that are not on the cluster is kept unclaimed",
                tried: &[("A-262", "bills a tenant of another cluster")],
            },
            Defence {
                holds: BRIDGE,
                stopped_by: "Manager: the key of a window",
                says: "2 rows are in the ledger",
                tried: &[("A-263", "sends a window twice, to have it billed twice")],
            },
            Defence {
                holds: CLUSTER,
                stopped_by: "Manager: the key of a window; an administrator decides",
                says: "1 conflicts are kept",
                tried: &[("A-264", "seals a window again with other usage")],
            },
            Defence {
                holds: CLUSTER,
                stopped_by: "Manager: the time of a window; an administrator decides",
                says: "2 conflicts are kept",
                tried: &[("A-265", "seals the same time again in a window of another length")],
            },
        ],
    },
    Target {
        title: "Hellos, listings and records",
        test: "manager/tests/attacks/hellos.rs",
        defences: &[
            Defence {
                holds: CLUSTER,
                stopped_by: "Manager: the cluster of the subject",
                says: "HelloMalformed: the hello names cluster",
                tried: &[("A-266", "names cluster B in its hello")],
            },
            Defence {
                holds: COPY,
                stopped_by: HELLO,
                says: "ClusterUidMismatch",
                tried: &[("A-267", "says hello from another Kubernetes cluster")],
            },
            Defence {
                holds: "the keys of a former incarnation",
                stopped_by: HELLO,
                says: "IncarnationReplaced",
                tried: &[("A-268", "says hello after the cluster was enrolled again")],
            },
            Defence {
                holds: CLUSTER,
                stopped_by: HELLO,
                says: "Diverged",
                tried: &[
                    ("A-269", "names an epoch that the Manager has not given"),
                    ("A-270", "names a revision that the Manager has not given"),
                ],
            },
            Defence {
                holds: "the keys of a revoked cluster, on a broker that does not know it yet",
                stopped_by: HELLO,
                says: "ClusterNotTrusted: the Manager holds this cluster as revoked",
                tried: &[("A-271", "says hello")],
            },
            Defence {
                holds: "the keys of a cluster in quarantine",
                stopped_by: HELLO,
                says: "ClusterNotTrusted: the Manager holds this cluster as quarantined",
                tried: &[("A-272", "says hello to be sent commands")],
            },
            Defence {
                holds: "the Manager's key that signs users of the role `cluster`",
                stopped_by: HELLO,
                says: "ClusterUnknown",
                tried: &[("A-273", "makes a cluster that there is not, and says hello as it")],
            },
            Defence {
                holds: COPY,
                stopped_by: "Manager: the lease term in the hello",
                says: "LeaseTermNotRaised",
                tried: &[("A-274", "takes the session of the cluster it was copied from")],
            },
            Defence {
                holds: COPY,
                stopped_by: "Manager: two that go on are one too many; the cluster is quarantined",
                says: "CredentialsCopied",
                tried: &[("A-275", "goes on beside it")],
            },
            Defence {
                holds: CLUSTER,
                stopped_by: "Manager: the cluster of the subject",
                says: "its subject another one",
                tried: &[("A-276", "sends the listing of cluster B"), ("A-277", "sends inbox records of cluster B")],
            },
        ],
    },
];
