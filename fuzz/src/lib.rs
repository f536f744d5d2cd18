//! Foreign bytes for each parser of nsctl.

pub mod bodies;
