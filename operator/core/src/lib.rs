//! What the Operator decides, without a client, a clock or randomness.
//!
//! In the order of the flow: an answer to a hello is believed or not ([`hello_answer`]); a command is verified ([`command`]), allowed ([`policy`]), fenced ([`inbox`]), verified once more before it is carried out ([`record`]), and its
//! progress is reported ([`outcome`]), for a limited time ([`deadline`]); an operation begins once ([`operation`]) and changes a workflow ([`workflow`]); of a record little is kept ([`digest`]); what should exist is computed ([`components`], [`tenant`], [`application`]) and
//! compared with what does ([`drift`]); a field of a document that its kind lacks is found ([`unknown_fields`]); so are the files of a leaf node ([`leaf`]); conditions say how that went ([`conditions`]); everything the cluster has is reported in parts ([`snapshot`]); usage is metered ([`metering`]);
//! what stands in the way is found ([`doctor`]); and a cluster may be left ([`leaving`]).

pub mod application;
pub mod command;
pub mod components;
pub mod conditions;
pub mod deadline;
pub mod digest;
pub mod doctor;
pub mod drift;
pub mod hello_answer;
pub mod inbox;
pub mod leaf;
pub mod leaving;
pub mod listing;
pub mod metering;
pub mod observed;
pub mod operation;
pub mod outcome;
pub mod policy;
pub mod ready;
pub mod record;
pub mod record_pieces;
pub mod renewal;
pub mod snapshot;
pub mod tenant;
pub mod unknown_fields;
pub mod workflow;
