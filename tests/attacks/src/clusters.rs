//! Attacks on an Operator.

use crate::{Defence, Target};

const BROKER: &str = "the broker, or the bridge in front of it";
const BROKER_AND_PAST: &str = "the broker, and what the Manager signed before";
const MANAGER: &str = "the Manager with its signing key";
const SIGNATURE: &str = "Operator: the Manager's signature";
const FENCE: &str = "Operator: the fence of its inbox";
const POLICY: &str = "Operator: the sovereign policy, which no command can write";
const PERSON: &str = "Operator: the signature of a person whom the policy names";
const ADDRESS: &str = "an address of the Manager";
const AUTHORITY: &str = "an address of the Manager, and a certificate of its authority, as the broker has one";

pub(crate) const TARGETS: &[Target] = &[
    Target {
        title: "Commands on their way to an Operator",
        test: "operator/tests/attacks/commands.rs",
        defences: &[
            Defence {
                holds: BROKER,
                stopped_by: SIGNATURE,
                says: "the message has no Kn-Signature header",
                tried: &[("A-174", "sends a command without a signature")],
            },
            Defence {
                holds: BROKER,
                stopped_by: SIGNATURE,
                says: "Kn-Signature is not of the form",
                tried: &[("A-175", "sends a command with something else as the signature")],
            },
            Defence {
                holds: BROKER,
                stopped_by: SIGNATURE,
                says: "which is not accepted here",
                tried: &[("A-176", "signs a command with a key of its own")],
            },
            Defence {
                holds: "a command key of the Manager that was replaced",
                stopped_by: "Operator: of former keys it verifies only what it has stored",
                says: "which is not accepted here",
                tried: &[("A-183", "signs a command with it")],
            },
            Defence {
                holds: BROKER_AND_PAST,
                stopped_by: SIGNATURE,
                says: "does not fit the message",
                tried: &[
                    ("A-177", "signs a command with a key of its own, and names the Manager's"),
                    ("A-178", "puts the signature of another command to it"),
                    ("A-179", "puts the signature over the same bytes as a receipt to it"),
                    ("A-180", "changes one byte of a command"),
                    ("A-181", "cuts a command short"),
                    ("A-182", "appends to a command"),
                ],
            },
            Defence {
                holds: BROKER_AND_PAST,
                stopped_by: "Operator: the cluster in the signed command",
                says: "OtherCluster: the command names another cluster",
                tried: &[("A-184", "delivers the command of another cluster")],
            },
            Defence {
                holds: BROKER_AND_PAST,
                stopped_by: "Operator: the UID in the signed command",
                says: "OtherClusterUid",
                tried: &[("A-185", "delivers the command of another Kubernetes cluster that has this name")],
            },
            Defence {
                holds: BROKER_AND_PAST,
                stopped_by: FENCE,
                says: "Replay",
                tried: &[("A-186", "delivers a command twice: what is stored stays, and is reported again")],
            },
            Defence {
                holds: BROKER_AND_PAST,
                stopped_by: FENCE,
                says: "NewerStored",
                tried: &[("A-187", "delivers an old command again, or two in the wrong order")],
            },
            Defence {
                holds: BROKER_AND_PAST,
                stopped_by: FENCE,
                says: "StaleEpoch",
                tried: &[("A-188", "delivers a command of before the cluster enrolled again")],
            },
            Defence {
                holds: "a second Manager on an earlier state of the database",
                stopped_by: FENCE,
                says: "Divergence",
                tried: &[("A-189", "signs another command with a revision that was used")],
            },
            Defence {
                holds: BROKER_AND_PAST,
                stopped_by: FENCE,
                says: "BelowFloor",
                tried: &[("A-190", "delivers an old command whose record the cluster has forgotten")],
            },
        ],
    },
    Target {
        title: "Answers and receipts on their way to an Operator",
        test: "operator/tests/attacks/answers.rs",
        defences: &[
            Defence {
                holds: BROKER,
                stopped_by: SIGNATURE,
                says: "the message has no Kn-Signature header",
                tried: &[
                    ("A-191", "answers a hello, with an epoch that would have every command refused"),
                    ("A-197", "gives a receipt for usage that was never billed"),
                ],
            },
            Defence {
                holds: BROKER,
                stopped_by: SIGNATURE,
                says: "which is not accepted here",
                tried: &[
                    ("A-192", "signs the answer to a hello with a key of its own"),
                    ("A-198", "signs a receipt with a key of its own"),
                ],
            },
            Defence {
                holds: BROKER_AND_PAST,
                stopped_by: SIGNATURE,
                says: "does not fit the message",
                tried: &[
                    ("A-193", "answers a hello with bytes that were signed as a receipt"),
                    ("A-199", "gives a receipt with bytes that were signed as a command"),
                ],
            },
            Defence {
                holds: BROKER_AND_PAST,
                stopped_by: "Operator: nonce, cluster and process in the signed answer",
                says: "the answer is signed, but for another hello",
                tried: &[
                    ("A-194", "repeats the answer to an earlier hello"),
                    ("A-195", "delivers the answer to the hello of another cluster"),
                    ("A-196", "delivers the answer to another process of the cluster"),
                ],
            },
            Defence {
                holds: BROKER_AND_PAST,
                stopped_by: "Operator: cluster and UID in the signed list",
                says: "a list of receipts names another cluster",
                tried: &[
                    ("A-200", "delivers the receipts of another cluster"),
                    ("A-201", "delivers the receipts of another Kubernetes cluster that has this name"),
                ],
            },
            Defence {
                holds: BROKER_AND_PAST,
                stopped_by: "Operator: only the newest list says what is missing",
                says: "0 windows are marked as lost",
                tried: &[("A-202", "repeats a list of the past, to have usage sent again")],
            },
        ],
    },
    Target {
        title: "A stolen Manager",
        test: "operator/tests/attacks/policy.rs",
        defences: &[
            Defence {
                holds: MANAGER,
                stopped_by: "Operator: the kinds that it knows",
                says: "UnknownKind",
                tried: &[("A-203", "commands something that there is not, such as a shell")],
            },
            Defence {
                holds: MANAGER,
                stopped_by: "Operator: a kind has its own keys",
                says: "BadKey",
                tried: &[
                    ("A-204", "applies a tenant under the key of an application"),
                    ("A-205", "names a record outside of the inbox"),
                    ("A-206", "replaces another operation by its own"),
                ],
            },
            Defence {
                holds: MANAGER,
                stopped_by: "Operator: an operation has a deadline",
                says: "BadCommand: the operation has no deadline",
                tried: &[("A-207", "requests an operation that may be carried out at any time")],
            },
            Defence {
                holds: MANAGER,
                stopped_by: "Operator: a key may stand once in a document",
                says: "BadDocument",
                tried: &[("A-208", "signs a document that two readers read differently")],
            },
            Defence {
                holds: MANAGER,
                stopped_by: POLICY,
                says: "ClusterFrozen",
                tried: &[("A-209", "changes a cluster that its site has frozen")],
            },
            Defence {
                holds: MANAGER,
                stopped_by: POLICY,
                says: "KindNotAllowed",
                tried: &[("A-210", "sends a kind of command that the site does not allow")],
            },
            Defence {
                holds: MANAGER,
                stopped_by: POLICY,
                says: "ComponentUpgradesForbidden",
                tried: &[("A-211", "installs another version of a component")],
            },
            Defence {
                holds: MANAGER,
                stopped_by: POLICY,
                says: "DeletesPerHour",
                tried: &[("A-212", "deletes applications without end")],
            },
            Defence {
                holds: MANAGER,
                stopped_by: PERSON,
                says: "the command carries no confirmation",
                tried: &[("A-213", "deletes all tenants at once")],
            },
            Defence {
                holds: MANAGER,
                stopped_by: PERSON,
                says: "signed by no key that the policy of this cluster names",
                tried: &[
                    ("A-214", "confirms it with the Manager's own key"),
                    ("A-215", "changes the tenants in the confirmation of a person"),
                ],
            },
            Defence {
                holds: MANAGER,
                stopped_by: PERSON,
                says: "the confirmation does not name this tenant",
                tried: &[("A-216", "uses the confirmation for another tenant")],
            },
            Defence {
                holds: MANAGER,
                stopped_by: PERSON,
                says: "the confirmation is about another cluster",
                tried: &[("A-217", "uses the confirmation for another cluster")],
            },
            Defence {
                holds: MANAGER,
                stopped_by: PERSON,
                says: "the confirmation counted until",
                tried: &[("A-218", "uses a confirmation of the past")],
            },
        ],
    },
    Target {
        title: "Records in the cluster",
        test: "operator/tests/attacks/records.rs",
        defences: &[
            Defence {
                holds: "the right to write NovaCommands in the cluster",
                stopped_by: SIGNATURE,
                says: "which is not accepted here",
                tried: &[("A-219", "writes a command that it signed itself")],
            },
            Defence {
                holds: "the right to write NovaCommands in the cluster",
                stopped_by: "Operator: the cluster in the signed command",
                says: "the command names another cluster",
                tried: &[("A-220", "copies a command from another cluster")],
            },
            Defence {
                holds: "the right to write NovaCommands in the cluster",
                stopped_by: SIGNATURE,
                says: "does not fit the message",
                tried: &[("A-221", "changes the document of a stored command")],
            },
            Defence {
                holds: "the right to write NovaCommands in the cluster",
                stopped_by: "Operator: a record says what its signed bytes say",
                says: "is not the one of the signed command in it",
                tried: &[
                    ("A-222", "raises the revision of a record, so that nothing newer counts"),
                    ("A-223", "has the command of one tenant carried out for another, by the name of its record"),
                    ("A-224", "makes the record of an apply one of a delete"),
                ],
            },
        ],
    },
    Target {
        title: "An address of the Manager",
        test: "operator/tests/attacks/endpoint.rs",
        defences: &[
            Defence {
                holds: ADDRESS,
                stopped_by: "Operator: the pin in the token; the token is not shown",
                says: "TLSVerified: PinMismatch",
                tried: &[("A-225", "takes the enrollment with a certificate of another authority")],
            },
            Defence {
                holds: ADDRESS,
                stopped_by: "Operator: the certificate under the pinned authority; the token is not shown",
                says: "TLSVerified: CertificateInvalid",
                tried: &[
                    ("A-226", "sends the pinned authority behind a certificate that it did not issue"),
                    ("A-229", "takes the enrollment with the certificate of a cluster"),
                ],
            },
            Defence {
                holds: ADDRESS,
                stopped_by: "Operator: the name in the certificate; the token is not shown",
                says: "TLSVerified: NameMismatch",
                tried: &[("A-227", "takes the enrollment with the certificate of the broker, for another name")],
            },
            Defence {
                holds: ADDRESS,
                stopped_by: "Operator: the SPIFFE ID in the certificate; the token is not shown",
                says: "TLSVerified: SpiffeIdMismatch",
                tried: &[("A-286", "takes the enrollment with the certificate of the bridge, for the Manager's name")],
            },
            Defence {
                holds: ADDRESS,
                stopped_by: "Operator: the time in the certificate; the token is not shown",
                says: "TLSVerified: CertificateExpired",
                tried: &[("A-228", "takes the enrollment with an old certificate of the Manager")],
            },
            Defence {
                holds: ADDRESS,
                stopped_by: "Operator: the time in the certificate; the token is not shown",
                says: "TLSVerified: CertificateNotYetValid",
                tried: &[("A-280", "takes the enrollment with a certificate of the Manager that is not valid yet")],
            },
            Defence {
                holds: ADDRESS,
                stopped_by: "Operator: the authorities that came with its identity",
                says: "TLSVerified: CertificateInvalid",
                tried: &[("A-230", "takes a renewal with a certificate of another authority")],
            },
            Defence {
                holds: AUTHORITY,
                stopped_by: "Operator: the command key's signature over the answer",
                says: "the message has no Kn-Signature header",
                tried: &[("A-231", "answers a renewal")],
            },
            Defence {
                holds: AUTHORITY,
                stopped_by: "Operator: the command key's signature over the answer",
                says: "which is not accepted here",
                tried: &[("A-232", "answers a renewal with a command key of its own, and signs with it")],
            },
            Defence {
                holds: AUTHORITY,
                stopped_by: "Operator: the command key's signature over the answer",
                says: "does not fit the message",
                tried: &[("A-233", "answers with bytes that the Manager signed as something else")],
            },
            Defence {
                holds: AUTHORITY,
                stopped_by: "Operator: the nonce in the signed answer",
                says: "is to another renewal",
                tried: &[("A-234", "repeats the answer to an earlier renewal")],
            },
            Defence {
                holds: AUTHORITY,
                stopped_by: "Operator: the cluster in the signed answer",
                says: "OtherCluster",
                tried: &[("A-235", "gives the nonce of another cluster's renewal, and the answer to that")],
            },
            Defence {
                holds: AUTHORITY,
                stopped_by: "Operator: the key in the certificate",
                says: "contains a certificate for another key",
                tried: &[("A-236", "gives the nonce of a recorded renewal of this cluster, and the answer to that")],
            },
            Defence {
                holds: MANAGER,
                stopped_by: "Operator: credentials in use stay",
                says: "end before they begin",
                tried: &[("A-237", "replaces working credentials by some that have ended")],
            },
        ],
    },
];
