//! The command line: one command a file.

mod audit;
mod bridge;
mod confirm_deletions;
mod init;
pub(crate) mod keys;
mod nats;
mod openapi;
mod process;
mod recover;
mod serve;
mod token;

use crate::settings::Settings;
use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use kubenova_runtime::file::{self, Readers};
use std::path::PathBuf;

/// KubeNova's Manager: serves REST and enrollment, and sends commands to clusters.
#[derive(Debug, Parser)]
#[command(name = "kubenova-manager", version, about)]
pub struct Cli {
    /// The settings file.
    #[arg(long, global = true, env = "KUBENOVA_MANAGER_CONFIG", default_value = "/etc/kubenova/manager.yaml")]
    pub config: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Prepare the database: tables, keys, the first administrator's token. Can be repeated; it adds what is missing.
    Init(init::Init),
    /// Files for the broker, and its messages made readable.
    Nats {
        /// What to do.
        #[command(subcommand)]
        verb: NatsVerb,
    },
    /// Run the Manager.
    Serve(serve::Serve),
    /// Run the bridge: gRPC to the broker for clusters that reach it no other way. Its settings are a file of their own (--config).
    Bridge(bridge::Bridge),
    /// Tokens for the REST API.
    Token {
        /// What to do.
        #[command(subcommand)]
        verb: token::TokenVerb,
    },
    /// The keys of this installation.
    Keys {
        /// What to do.
        #[command(subcommand)]
        verb: keys::KeysVerb,
    },
    /// The audit log: who changed what, and what clusters made of it.
    Audit {
        /// What to do.
        #[command(subcommand)]
        verb: audit::AuditVerb,
    },
    /// After a restore of the database: what clusters hold that it lost.
    Recover {
        /// What to do.
        #[command(subcommand)]
        verb: recover::RecoverVerb,
    },
    /// Sign, offline, that more tenants of a cluster may be deleted than are deleted at once.
    ConfirmDeletions(confirm_deletions::ConfirmDeletions),
    /// Print the OpenAPI document of the REST API.
    Openapi(openapi::Openapi),
}

/// Commands about the broker.
#[derive(Debug, Subcommand)]
pub enum NatsVerb {
    /// Write the configuration, certificates and accounts of nats-server to a folder, and a read-only context for the nats CLI.
    Config(nats::Config),
    /// Read a message's body on standard input and print it as readable JSON: nats … --translate 'kubenova-manager nats decode'
    Decode(nats::decode::Decode),
}

/// Carries out one command.
///
/// # Errors
/// When it cannot be done; the message says what to do.
pub async fn run(cli: Cli) -> Result<()> {
    match cli.verb {
        Verb::Openapi(openapi) => openapi.run(),
        Verb::ConfirmDeletions(confirm) => confirm.run(),
        Verb::Init(init) => init.run(&Settings::read(&cli.config)?).await,
        Verb::Nats { verb: NatsVerb::Decode(nats::decode::Decode) } => nats::decode::Decode::run(),
        Verb::Nats { verb: NatsVerb::Config(config) } => config.run(&Settings::read(&cli.config)?).await,
        Verb::Keys { verb } => verb.run(&Settings::read(&cli.config)?).await,
        Verb::Audit { verb } => verb.run(&Settings::read(&cli.config)?).await,
        Verb::Recover { verb } => verb.run(&Settings::read(&cli.config)?).await,
        Verb::Token { verb } => verb.run(&Settings::read(&cli.config)?).await,
        Verb::Bridge(bridge) => bridge.run(&cli.config).await,
        Verb::Serve(serve) => serve.run(Settings::read(&cli.config)?).await,
    }
}

/// Writes a file that only its owner may read.
fn write_secret(path: &std::path::Path, text: &str) -> Result<()> {
    file::replace(path, text.as_bytes(), Readers::Owner)
        .with_context(|| format!("could not write {}: its folder must exist and be writable", path.display()))
}

/// Tells the person at the terminal what was done.
fn say(text: &str) {
    // On standard error, so that standard output stays for what a command prints; a closed one is no reason to fail.
    let _closed = std::io::Write::write_all(&mut std::io::stderr(), format!("{text}\n").as_bytes());
}
