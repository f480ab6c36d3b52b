//! The fleet: real servers for scenarios and the demo, without a container engine.
//!
//! ```text
//! sandbox            own namespaces; ends everything when the outer process ends
//!  ├─ postgres, hub, manager          at 10.77.0.1
//!  ├─ cluster 1                       10.77.1.2, its own network namespace
//!  │   ├─ etcd, apiserver, control_plane (controller-manager, scheduler, kwok)
//!  │   └─ pod_runner                  system pods as real processes, 10.77.1.11 …
//!  └─ cluster 2 …
//! ```
//! Guarantees: nothing of a run outlives it: processes, mounts, links, folders. Nothing here is
//! part of the product, and nothing of the product depends on it.

pub mod apiserver;
pub mod apply;
pub mod audit;
pub mod cluster;
mod control_plane;
mod etcd;
pub mod forward;
pub mod hub;
mod inherited;
pub mod kubeconfig;
pub mod link;
pub mod manager;
pub mod network;
pub mod pki;
pub mod pod_runner;
pub mod poll;
pub mod postgres;
pub mod process;
pub mod repository;
mod run_folder;
pub mod sandbox;
pub mod servers;
mod stage;
pub mod stored;
pub mod syn_capture;
