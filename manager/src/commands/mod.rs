//! The command line: one verb a file.

mod init;
pub(crate) mod keys;
mod nats;
mod openapi;
mod serve;
mod token;

use crate::settings::Settings;
use anyhow::Result;
use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// KubeNova's Manager: REST, enrollment, and the sending of commands to clusters.
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
    /// Prepare the database: tables, keys, the first administrator's token. Run again it adds what is missing.
    Init(init::Init),
    /// The broker.
    Nats {
        /// What about it.
        #[command(subcommand)]
        verb: NatsVerb,
    },
    /// Run the Manager.
    Serve(serve::Serve),
    /// Tokens for the REST API.
    Token {
        /// What about them.
        #[command(subcommand)]
        verb: token::TokenVerb,
    },
    /// Print the OpenAPI document of the REST API.
    Openapi(openapi::Openapi),
}

/// Verbs about the broker.
#[derive(Debug, Subcommand)]
pub enum NatsVerb {
    /// Write everything a nats-server needs, and what people need to look at it, to a folder.
    Config(nats::Config),
}

/// Carries out one verb.
///
/// # Errors
/// When it cannot be done; the message says what to do about it.
pub async fn run(cli: Cli) -> Result<()> {
    match cli.verb {
        Verb::Openapi(openapi) => openapi.run(),
        Verb::Init(init) => init.run(&Settings::read(&cli.config)?).await,
        Verb::Nats { verb: NatsVerb::Config(config) } => config.run(&Settings::read(&cli.config)?).await,
        Verb::Token { verb } => verb.run(&Settings::read(&cli.config)?).await,
        Verb::Serve(serve) => serve.run(Settings::read(&cli.config)?).await,
    }
}

/// Writes a secret to a file that only its owner reads, at once or not at all.
fn write_secret(path: &std::path::Path, text: &str) -> Result<()> {
    use anyhow::Context as _;
    use std::{
        io::Write as _,
        os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    };
    let attempt = || -> std::io::Result<()> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let mut file = std::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&beside)?;
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    };
    attempt().with_context(|| format!("could not write {}", path.display()))
}
