//! Everything a client can see of a member's data.
