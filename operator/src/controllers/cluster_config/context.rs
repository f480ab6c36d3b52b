//! What the installation of components needs: less than the other controllers, so that it runs in tests by itself.

use crate::{apiserver::client::Apiserver, metrics::Metrics};
use kubenova_runtime::shutdown::Shutdown;
use std::path::PathBuf;

#[derive(Debug, Clone)]
pub struct InstallContext {
    /// The cluster.
    pub apiserver: Apiserver,
    /// Namespace of the Operator and of its authority's key.
    pub state_namespace: String,
    /// Folder with one chart a component.
    pub charts_dir: PathBuf,
    /// The helm program.
    pub helm: PathBuf,
    pub metrics: Metrics,
    /// Ends the controller.
    pub shutdown: Shutdown,
}
