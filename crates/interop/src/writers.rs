//! Clients that remember what was acknowledged.
