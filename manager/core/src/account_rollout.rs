//! Whether every server of the broker has an account's JWT. A revocation counts only then: a single server that lacks it lets in whoever
//! was revoked.
//!
//! A server that says "stored" may still use the JWT before (it stores without looking at the signature), and a server that did not
//! answer may be slow, partitioned or gone. So each is asked for the JWT in effect, and each says how many servers it knows of.

use kubenova_schema::mutant;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// A server that answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its id: another one with every start.
    pub id: String,
    /// Its name in the configuration.
    pub name: String,
    /// Servers that it knows of, itself included.
    pub known: usize,
}

/// The JWT that a server uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InEffect {
    /// The one that was pushed.
    Pushed,
    /// Another one.
    Other,
    /// None yet: it reads its store when the first client of the account comes.
    NotLoaded,
}

/// What the servers answered.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    /// Who was there before the push and after it.
    pub servers: Vec<Server>,
    /// Whether each stored the JWT, by its id.
    pub stored: BTreeMap<String, Result<(), String>>,
    /// Which JWT each uses, by its id.
    pub in_effect: BTreeMap<String, InEffect>,
}

/// Why a server is behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behind {
    /// No server answered at all.
    NoServer,
    /// Servers that others know of did not answer.
    Missing(usize),
    /// This one did not answer.
    Silent(String),
    /// This one did not store it.
    NotStored(String, String),
    /// This one uses another JWT.
    NotInEffect(String),
}

impl fmt::Display for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoServer => f.write_str("no server of the broker answered"),
            Self::Missing(count) => write!(f, "{count} servers that others know of did not answer"),
            Self::Silent(name) => write!(f, "{name} did not answer"),
            Self::NotStored(name, error) => write!(f, "{name} did not store it: {error}"),
            Self::NotInEffect(name) => write!(f, "{name} uses another one"),
        }
    }
}

/// The servers that do not have the JWT; none: all have it.
#[must_use]
pub fn behind(answers: &Answers) -> Vec<Behind> {
    if answers.servers.is_empty() {
        return vec![Behind::NoServer];
    }
    let mut found = Vec::new();
    let known = answers.servers.iter().map(|server| server.known).max().unwrap_or_default();
    let ids: BTreeSet<&str> = answers.servers.iter().map(|server| server.id.as_str()).collect();
    if known > ids.len() && !mutant::is_on("accounts.first-answer") {
        found.push(Behind::Missing(known - ids.len()));
    }
    for id in ids {
        let name = answers.servers.iter().find(|server| server.id == id).map_or(id, |server| server.name.as_str());
        match (answers.stored.get(id), answers.in_effect.get(id)) {
            (None, _) | (Some(Ok(())), None) => found.push(Behind::Silent(name.to_owned())),
            (Some(Err(error)), _) => found.push(Behind::NotStored(name.to_owned(), error.clone())),
            (Some(Ok(())), Some(InEffect::Other)) if !mutant::is_on("accounts.stored-is-enough") => {
                found.push(Behind::NotInEffect(name.to_owned()));
            }
            (Some(Ok(())), Some(_)) => {}
        }
    }
    found
}

/// All of them in one text.
#[must_use]
pub fn describe(behind: &[Behind]) -> String {
    behind.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(id: &str, known: usize) -> Server {
        Server { id: id.to_owned(), name: format!("hub-{id}"), known }
    }

    fn complete() -> Answers {
        let stored = ["1", "2"].map(|id| (id.to_owned(), Ok(()))).into();
        let in_effect = [("1".to_owned(), InEffect::Pushed), ("2".to_owned(), InEffect::NotLoaded)].into();
        Answers { servers: vec![server("1", 2), server("2", 2), server("1", 2)], stored, in_effect }
    }

    fn text(change: impl FnOnce(&mut Answers)) -> String {
        let mut answers = complete();
        change(&mut answers);
        describe(&behind(&answers))
    }

    #[test]
    fn a_jwt_is_out_when_every_server_that_any_knows_of_uses_it() {
        assert_eq!(text(|_| {}), "");
        assert_eq!(text(|answers| answers.servers.clear()), "no server of the broker answered");
        assert_eq!(text(|it| it.servers[1].known = 3), "1 servers that others know of did not answer");
        let fails = |it: &mut Answers| drop(it.stored.insert("2".to_owned(), Err("disk full".to_owned())));
        assert_eq!(text(fails), "hub-2 did not store it: disk full");
        assert_eq!(text(|it| drop(it.stored.remove("2"))), "hub-2 did not answer");
        assert_eq!(text(|it| it.in_effect.retain(|id, _| id != "2")), "hub-2 did not answer");
        let other = |it: &mut Answers| it.in_effect.extend([("1".to_owned(), InEffect::Other)]);
        assert_eq!(text(other), "hub-1 uses another one");
    }

    #[test]
    fn a_server_that_came_meanwhile_must_have_it_too() {
        assert_eq!(text(|it| it.servers.push(server("3", 3))), "hub-3 did not answer");
    }
}
