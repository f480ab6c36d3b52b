//! What the API server of a real cluster would hold: inbox records, the fence, and the objects that were made of them; with the
//! history of everything that was ever done, for whoever checks it.

use std::collections::BTreeMap;

use kubenova_crds::command::{CommandSpec, NovaCommand};
use kubenova_operator_core::command::{self, Recipient, Unreadable, VerifiedCommand, record_name};
use kubenova_operator_core::digest::RecordDigest;
use kubenova_operator_core::inbox::{self, Decision, Fence};
use kubenova_operator_core::listing;
use kubenova_operator_core::outcome::{self, CommandProgress, State};
use kubenova_operator_core::record_pieces::Body;
use kubenova_runtime::clock;
use kubenova_schema::kinds::ObjectKey;
use kubenova_schema::signature::AcceptedKeys;
use kubenova_schema::v1::{Command, ListingEntry, Outcome};

/// What was done for a command: its object was written or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// Key of the object.
    pub key: String,
    /// The command.
    pub command_id: String,
    /// Epoch and revision of the command: those of one object must never go down.
    pub number: (u64, u64),
    /// How often the cluster had been restored before: what a restore takes back is done again.
    pub restores: u32,
}

/// A copy of everything the API server holds.
#[derive(Debug, Clone)]
pub struct Backup {
    records: BTreeMap<String, Record>,
    fence: Fence,
    objects: BTreeMap<String, String>,
}

/// What became of a message.
#[derive(Debug)]
pub enum Taken {
    /// It is stored, or was before: its record's outcome, and the record's name.
    Stored(Outcome, String),
    /// It is not stored: the verdict, to be published before the message is acknowledged.
    Verdict(Outcome),
}

#[derive(Debug, Clone)]
struct Record {
    stored: NovaCommand,
    digest: RecordDigest,
}

/// The inbox and the objects of one cluster.
#[derive(Debug)]
pub struct Inbox {
    cluster_id: String,
    cluster_uid: String,
    records: BTreeMap<String, Record>,
    fence: Fence,
    objects: BTreeMap<String, String>,
    effects: Vec<Effect>,
    restores: u32,
}

impl Inbox {
    pub(crate) fn new(cluster_id: &str, cluster_uid: &str) -> Self {
        Self {
            cluster_id: cluster_id.to_owned(),
            cluster_uid: cluster_uid.to_owned(),
            records: BTreeMap::new(),
            fence: Fence::default(),
            objects: BTreeMap::new(),
            effects: Vec::new(),
            restores: 0,
        }
    }

    /// Takes a message as delivered.
    ///
    /// # Errors
    /// When it is not signed by one of the keys, or no command.
    pub fn take(&mut self, body: &[u8], signature: Option<&str>, keys: &AcceptedKeys) -> Result<Taken, Unreadable> {
        let command = command::verify(body, signature, keys)?;
        let recipient = Recipient { cluster_id: &self.cluster_id, cluster_uid: &self.cluster_uid };
        let verified = match command::accept(command, recipient) {
            Ok(verified) => verified,
            Err(rejected) => {
                let state = if rejected.unsupported { State::Unsupported } else { State::Refused };
                let verdict = self.verdict(&rejected.command, state, rejected.reason, &rejected.message);
                return Ok(Taken::Verdict(verdict));
            }
        };
        let name = record_name(&verified.key);
        let held = self.records.get(&name).map(|record| record.digest.held());
        Ok(match inbox::decide(held.as_ref(), &verified.held(), self.fence) {
            Decision::Replay => self.report(&name),
            Decision::Store => {
                self.store(&name, &verified, body, signature);
                self.report(&name)
            }
            Decision::Divergence => {
                let message = "the cluster holds another command of the same revision";
                Taken::Verdict(self.verdict(&verified.command, State::Refused, "Divergence", message))
            }
            Decision::Superseded(stale) => {
                Taken::Verdict(self.verdict(&verified.command, State::Superseded, stale.reason(), stale.message()))
            }
        })
    }

    /// Carries out the command of a record one step further: the outcome to report, if it went further.
    pub fn work(&mut self, name: &str) -> Option<Outcome> {
        let record = self.records.get_mut(name)?;
        let spec = &record.stored.spec;
        let status = record.stored.status.as_ref().filter(|status| status.command_id == spec.command_id);
        let progress = if status.is_none() {
            CommandProgress::running("Applied", "applied").at("applied")
        } else {
            CommandProgress::succeeded("Ready", "ready").at("ready")
        };
        let next = outcome::advance(spec, status, &progress, &clock::rfc3339_ms(clock::now()))?;
        if progress.state == State::Succeeded {
            let document = message_of(spec).document;
            let made = self.objects.get(&spec.key);
            let is_new = if record.digest.is_delete() { made.is_some() } else { made != Some(&document) };
            if is_new {
                let number = (record.digest.epoch, record.digest.revision);
                let (key, command_id) = (spec.key.clone(), spec.command_id.clone());
                self.effects.push(Effect { key, command_id, number, restores: self.restores });
            }
            if record.digest.is_delete() {
                self.objects.remove(&spec.key);
            } else {
                self.objects.insert(spec.key.clone(), document);
            }
        }
        record.stored.status = Some(next);
        record.digest = RecordDigest::of(&record.stored);
        Some(outcome::of_record(&self.cluster_id, &record.stored))
    }

    /// Names of the records whose command has not ended.
    #[must_use]
    pub fn open(&self) -> Vec<String> {
        self.records.iter().filter(|(_, record)| !record.digest.has_ended).map(|(name, _)| name.clone()).collect()
    }

    /// Outcomes of the commands above the floor, as repeated after a hello.
    #[must_use]
    pub fn outcomes_above(&self, floor: u64) -> Vec<Outcome> {
        let above = self.records.values().filter(|record| record.digest.revision > floor);
        above.map(|record| outcome::of_record(&self.cluster_id, &record.stored)).collect()
    }

    /// The document that an object was last made of; none when it is not there.
    #[must_use]
    pub fn object(&self, key: &str) -> Option<&str> {
        self.objects.get(key).map(String::as_str)
    }

    /// Every object with the document it was last made of.
    pub fn objects(&self) -> impl Iterator<Item = (&str, &str)> {
        self.objects.iter().map(|(key, document)| (key.as_str(), document.as_str()))
    }

    /// What is held now.
    #[must_use]
    pub fn back_up(&self) -> Backup {
        Backup { records: self.records.clone(), fence: self.fence, objects: self.objects.clone() }
    }

    /// Puts a backup in the place of what is held; the history of deeds goes on.
    pub(crate) fn restore(&mut self, backup: Backup) {
        self.records = backup.records;
        self.fence = backup.fence;
        self.objects = backup.objects;
        self.restores += 1;
    }

    /// Everything that was done, in order.
    #[must_use]
    pub fn effects(&self) -> &[Effect] {
        &self.effects
    }

    /// Highest revision, with its command.
    #[must_use]
    pub fn highest(&self) -> (u64, String) {
        listing::highest(self.digests()).unwrap_or_default()
    }

    /// Hash of the listing.
    #[must_use]
    pub fn listing_sha256(&self) -> String {
        listing::sha256(self.digests())
    }

    /// The listing.
    #[must_use]
    pub fn listing(&self) -> Vec<ListingEntry> {
        listing::entries(self.digests())
    }

    /// The listing with operations.
    pub(crate) fn whole_listing(&self) -> Vec<ListingEntry> {
        listing::all_entries(self.digests())
    }

    /// The signed body of an object's record.
    pub(crate) fn record_body(&self, key: &str) -> Option<Body> {
        let spec = &self.records.get(&record_name(&ObjectKey::parse(key)?))?.stored.spec;
        Some(Body {
            key: key.to_owned(),
            command_id: spec.command_id.clone(),
            signature: spec.signature.clone(),
            bytes: spec.body.clone().into_bytes(),
        })
    }

    /// Highest epoch that was seen.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.fence.epoch
    }

    fn digests(&self) -> impl Iterator<Item = &RecordDigest> {
        self.records.values().map(|record| &record.digest)
    }

    fn store(&mut self, name: &str, verified: &VerifiedCommand, body: &[u8], signature: Option<&str>) {
        let command = &verified.command;
        self.fence = self.fence.raised_by(command.epoch, command.revision, command.floor);
        let spec = verified.record_spec(body, signature, clock::rfc3339_ms(clock::now()));
        let stored = NovaCommand::new(name, spec);
        self.records.insert(name.to_owned(), Record { digest: RecordDigest::of(&stored), stored });
    }

    fn report(&self, name: &str) -> Taken {
        let record = self.records.get(name).expect("the record was just found or stored");
        Taken::Stored(outcome::of_record(&self.cluster_id, &record.stored), name.to_owned())
    }

    fn verdict(&self, command: &Command, state: State, reason: &str, message: &str) -> Outcome {
        let at = clock::rfc3339_ms(clock::now());
        outcome::of_command(&self.cluster_id, command, state, reason, message.to_owned(), at)
    }
}

fn message_of(spec: &CommandSpec) -> Command {
    kubenova_schema::message::from_json(spec.body.as_bytes()).expect("a stored body was read before")
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubenova_schema::message;
    use kubenova_schema::signature::{PayloadType, SigningKey};

    fn deliver(inbox: &mut Inbox, revision: u64, kind: &str, document: &str) -> Taken {
        let key = SigningKey::from_seed(&[3; 32]).unwrap();
        let command = Command {
            id: format!("id-{revision}"),
            cluster_id: "c1".into(),
            cluster_uid: "uid".into(),
            epoch: 1,
            revision,
            kind: kind.into(),
            key: "application/t/shop".into(),
            document: document.into(),
            ..Command::default()
        };
        let body = message::to_json(&command);
        let signature = key.sign(PayloadType::Command, &body);
        let keys = AcceptedKeys::new([(key.id().to_owned(), key.public_key())]);
        inbox.take(&body, Some(&signature), &keys).unwrap()
    }

    #[test]
    fn a_command_is_carried_out_once_and_an_older_one_never() {
        let mut inbox = Inbox::new("c1", "uid");
        let Taken::Stored(_, name) = deliver(&mut inbox, 5, "apply-application", "{}") else { panic!("not stored") };
        assert_eq!(inbox.open(), std::slice::from_ref(&name));
        assert_eq!(inbox.work(&name).unwrap().state, "running");
        assert_eq!(inbox.work(&name).unwrap().state, "succeeded");
        assert_eq!(inbox.work(&name), None);
        assert!(
            matches!(deliver(&mut inbox, 5, "apply-application", "{}"), Taken::Stored(outcome, _) if outcome.state == "succeeded")
        );
        assert!(
            matches!(deliver(&mut inbox, 4, "delete-application", "{}"), Taken::Verdict(verdict) if verdict.state == "superseded")
        );
        assert_eq!(inbox.object("application/t/shop"), Some("{}"));
        deliver(&mut inbox, 6, "delete-application", "{}");
        inbox.work(&name);
        inbox.work(&name);
        assert_eq!(inbox.object("application/t/shop"), None);
        assert_eq!(inbox.effects().iter().map(|effect| effect.number).collect::<Vec<_>>(), [(1, 5), (1, 6)]);
    }
}
